"""What tests of engines on the real clock share: a runner for both event loops, and waiting for what the log says."""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest
import uvloop

from duplex_server.engine.base import Slot
from duplex_server.types import Floor, ModelOutput, Unit

__all__ = ["EVENT_LOOPS", "Said", "needs_pidfd", "run_really", "said_in_log", "unit", "wait_until_dead"]

T = TypeVar("T")

EVENT_LOOPS = pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])


def run_really(main: Coroutine[Any, Any, T], event_loop: str = "asyncio") -> T:
    """Run on a loop with the real clock, in debug mode."""
    factory = uvloop.new_event_loop if event_loop == "uvloop" else None
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        return runner.run(main)


def unit(index: int, *texts: str, floor: Floor = Floor.FREE, unit_ms: int = 40) -> Unit:
    """A unit of silence."""
    return Unit(index, np.zeros(16 * unit_ms, np.float32), texts=texts, floor=floor)


class Said:
    """A conversation in which one unit is pushed at a time, and its answer awaited."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._outputs: AsyncIterator[ModelOutput] = slot.outputs()
        self._index = 0

    async def push(self, *texts: str, floor: Floor = Floor.FREE) -> None:
        await self.slot.push(unit(self._index, *texts, floor=floor))
        self._index += 1

    async def next(self) -> ModelOutput:
        return await anext(self._outputs)

    async def ask(self, text: str) -> str:
        """Push one unit with a text, and return the text of the next output."""
        await self.push(text)
        return (await self.next()).text

    async def push_until_it_fails(self) -> None:
        """Push on, whether or not anything is answered."""
        while True:
            await self.push()


class _Waiter(logging.Handler):
    def __init__(self, words: str, event: asyncio.Event) -> None:
        super().__init__()
        self._words = words
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._event.set()


@contextmanager
def said_in_log(logger: str, words: str) -> Iterator[asyncio.Event]:
    """Give an event that is set when ``logger`` says ``words`` on the event loop."""
    event = asyncio.Event()
    log, waiter = logging.getLogger(logger), _Waiter(words, event)
    before = log.level
    log.addHandler(waiter)
    log.setLevel(logging.INFO)
    try:
        yield event
    finally:
        log.removeHandler(waiter)
        log.setLevel(before)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd_open")


def wait_until_dead(pidfds: list[int]) -> None:
    """Wait until every process is gone, a zombie being gone too."""
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(20_000), "a process outlived its server by 20 s"
        os.close(pidfd)
