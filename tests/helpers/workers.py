"""Workers whose every word a test speaks, for engines in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from duplex_server.engine.messages import CancelTurn, Command, Loaded, LoadFailed, OpenRow, RowOpened
from duplex_server.engine.usage import Usage
from duplex_server.engine.worker import Hear, Limits, Link, Worker
from duplex_server.types import ModelSpec

__all__ = [
    "LIMITS",
    "SPEC",
    "PlayedLink",
    "Stage",
    "fail_to_load",
    "load",
    "load_and_die",
    "never_load",
    "now_s",
    "settle",
]

SPEC = ModelSpec(name="played", unit_ms=40)
LIMITS = Limits(load_s=60, stall_s=10, backoff_first_s=1, backoff_max_s=4, stable_s=100)


class PlayedLink:
    """One run of a worker; the test says what it reports and when it dies. Confirms opens by itself if told to."""

    def __init__(self, hear: Hear, confirms: bool) -> None:
        self.hear = hear
        self.confirms = confirms
        self.sent: list[list[Command]] = []
        self.cancels: list[CancelTurn] = []
        self.killed = False
        self.died = asyncio.Event()
        self.why = "it fell over"

    def send(self, commands: list[Command]) -> None:
        self.sent.append(commands)
        for command in commands:
            if isinstance(command, OpenRow) and self.confirms:
                self.hear([RowOpened(command.conversation)])

    def cancel(self, command: CancelTurn) -> None:
        self.cancels.append(command)

    def kill(self) -> None:
        self.killed = True
        self.died.set()

    async def ended(self) -> str:
        await self.died.wait()
        return self.why

    def usage(self) -> Usage:
        return Usage(1.5, 1000)


class Stage:
    """A worker whose links are played.

    Args:
        play: called with each new link once it runs.
    """

    def __init__(self, rows: int = 2, confirms: bool = True, play: Callable[[PlayedLink], None] | None = None) -> None:
        self.links: list[PlayedLink] = []
        self.launched_s: list[float] = []
        self.stopped = 0
        self._confirms = confirms
        self.play = play or load
        self.worker = Worker("model-0", rows, self._launch, LIMITS)

    @property
    def link(self) -> PlayedLink:
        return self.links[-1]

    @asynccontextmanager
    async def _launch(self, hear: Hear) -> AsyncIterator[Link]:
        link = PlayedLink(hear, self._confirms)
        self.links.append(link)
        loop = asyncio.get_running_loop()
        self.launched_s.append(loop.time())
        loop.call_soon(self.play, link)
        try:
            yield link
        finally:
            self.stopped += 1


def load(link: PlayedLink) -> None:
    """The model is loaded at once."""
    link.hear([Loaded(SPEC)])


def load_and_die(link: PlayedLink) -> None:
    """The model is loaded, and the worker dies."""
    load(link)
    link.died.set()


def fail_to_load(link: PlayedLink) -> None:
    """The model cannot be loaded."""
    link.hear([LoadFailed("no weights")])
    link.died.set()


def never_load(link: PlayedLink) -> None:
    """Nothing is ever heard of the model."""


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def now_s() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()
