"""An engine whose one worker is a thread of this process.

For a model that leaves the interpreter while it computes, as one on a GPU does: it needs the device's memory once, and
nothing is copied between processes. Knows nothing about what the model is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence

from duplex_server.engine.messages import CancelTurn, Command, Report
from duplex_server.engine.pool import WorkerPool
from duplex_server.engine.runner import Runner
from duplex_server.engine.usage import UNKNOWN, Usage, thread_usage
from duplex_server.engine.worker import Hear, Limits, Link, Worker
from duplex_server.models.base import Model

__all__ = ["ThreadEngine"]

log = logging.getLogger(__name__)

WORKER_NAME = "model-thread"


class ThreadEngine(WorkerPool):
    """An :class:`~duplex_server.engine.base.Engine` that runs a model on one thread of this process.

    If the model raises, its conversations are lost and it is built again, on a new thread. A step that never returns
    cannot be ended: the conversations are lost, and the engine is not ready until the step does return.

    Args:
        build: called with ``rows`` on the thread; loads the model.
        rows: how many conversations fit.
        limits: how long to wait for what.
    """

    def __init__(self, build: Callable[[int], Model], rows: int, limits: Limits | None = None) -> None:
        limits = limits or Limits()

        def launch(hear: Hear) -> contextlib.AbstractAsyncContextManager[Link]:
            return _launched(lambda: build(rows), hear, limits.stop_s)

        super().__init__([Worker(WORKER_NAME, rows, launch, limits)])


class _QueueInbox:
    """Commands from the event loop to the thread."""

    def __init__(self) -> None:
        # Without a bound of its own: slots count the units on their way, and stop at a few for each row.
        self._batches: queue.SimpleQueue[list[Command] | None] = queue.SimpleQueue()
        self._ended = False

    def put(self, commands: list[Command]) -> None:
        self._batches.put(commands)

    def end(self) -> None:
        """End the inbox, ahead of what is still in it."""
        self._ended = True
        self._batches.put(None)

    def take(self, wait_s: float | None) -> Sequence[Command] | None:
        commands: list[Command] = []
        while not self._ended:
            try:
                batch = self._batches.get(timeout=0 if commands else wait_s)
            except queue.Empty:
                return commands
            commands += batch or ()
        return None


class _ThreadLink:
    """One thread with its model."""

    def __init__(self, build: Callable[[], Model], hear: Hear) -> None:
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._inbox = _QueueInbox()
        self._runner = Runner(build, self._emit)
        self._done = asyncio.Event()
        # A daemon, so that a step that never returns does not keep the server from ending.
        self._thread = threading.Thread(target=self._run, name=WORKER_NAME, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, commands: list[Command]) -> None:
        self._inbox.put(commands)

    def cancel(self, command: CancelTurn) -> None:
        self._runner.cancel(command)

    def kill(self) -> None:
        self._inbox.end()

    async def ended(self) -> str:
        await self._done.wait()
        return "its thread has ended"

    async def stop(self, limit_s: float) -> None:
        """End the thread after the step it is in; if that takes longer than ``limit_s``, leave it behind."""
        self._inbox.end()
        try:
            async with asyncio.timeout(limit_s):
                await self._done.wait()
            self._thread.join()  # a moment: saying so is the last thing it does
        except TimeoutError:
            log.error("%s is still in a step after %.1f s; it is left behind", WORKER_NAME, limit_s)

    def usage(self) -> Usage:
        return UNKNOWN if self._thread.native_id is None else thread_usage(self._thread.native_id)

    def _run(self) -> None:
        try:
            self._runner.run(self._inbox)
        finally:
            self._tell(self._done.set)

    def _emit(self, reports: list[Report]) -> None:
        self._tell(self._hear, reports)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        # The loop is closed only if this thread was left behind, and then nobody waits for what it says.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)


@contextlib.asynccontextmanager
async def _launched(build: Callable[[], Model], hear: Hear, stop_s: float) -> AsyncIterator[Link]:
    link = _ThreadLink(build, hear)
    link.start()
    try:
        yield link
    finally:
        await link.stop(stop_s)
