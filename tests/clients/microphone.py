"""A microphone that is never closed: real time, 40 ms at a time, silence unless something is being said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["CHUNK_MS", "Microphone"]

CHUNK_MS = 40
_BYTES_PER_MS = 48
"""int16 at 24 kHz."""


class Microphone:
    """Says clips; :meth:`run` brings them to a client."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def say(self, clip: bytes) -> None:
        """Say this, after what is being said."""
        self._waiting += clip

    async def run(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send sound until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            n_bytes = CHUNK_MS * _BYTES_PER_MS
            chunk = bytes(self._waiting[:n_bytes])
            del self._waiting[:n_bytes]
            await send(chunk.ljust(n_bytes, b"\0"))
            due_s += CHUNK_MS / 1000
            await asyncio.sleep(due_s - loop.time())
