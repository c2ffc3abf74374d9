"""What passes between a server and whoever runs it: signals one way, sentences and log lines the other.

Knows nothing about what is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from duplex_server.config import Settings

__all__ = ["ORDERS", "log_to_terminal", "say", "told_to_stop"]

ORDERS = (signal.SIGINT, signal.SIGTERM)
"""Signals that tell a server to stop: ctrl-C, and what service managers send."""


async def told_to_stop() -> None:
    """Wait until the process is told to stop. Cancellation takes the handlers away."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in ORDERS:
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in ORDERS:
            loop.remove_signal_handler(number)


def say(sentence: str) -> None:
    """Tell the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)


def log_to_terminal(settings: Settings, process: str = "") -> None:
    """Write the log to the standard error stream.

    Args:
        settings: say what is logged.
        process: named in each line, where several write to the same stream.
    """
    name = f"{process}: " if process else ""
    logging.basicConfig(
        level=settings.log_level.value.upper(), format=f"%(asctime)s %(levelname)-7s {name}%(name)s: %(message)s"
    )
    logging.getLogger("aioice").setLevel(logging.WARNING)  # logs every candidate pair at INFO
