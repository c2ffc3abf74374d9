"""An engine made of workers: start, admission, stop. Knows nothing about how a worker runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from duplex_server.engine.slots import RowSlot
from duplex_server.engine.worker import Worker, WorkerStatistics
from duplex_server.errors import CapacityError
from duplex_server.types import ModelSpec, SessionSetup

__all__ = ["WorkerPool"]

FULL_RETRY_S = 5.0
"""What a caller is told to wait when all rows are taken. When a conversation ends nobody knows."""


class WorkerPool:
    """An :class:`~duplex_server.engine.base.Engine` over some workers, all of the same model.

    Its tasks, one per worker, live in a group that is entered and left with the engine, in one and the same task.

    Args:
        workers: at least one.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        assert workers, "an engine needs a worker"
        self._workers = tuple(workers)
        self._group = asyncio.TaskGroup()
        self._supervisors: list[asyncio.Task[None]] = []
        self._spec: ModelSpec | None = None

    @property
    def spec(self) -> ModelSpec:
        assert self._spec is not None, "the spec is known once the engine is entered"
        return self._spec

    @property
    def places(self) -> int:
        return sum(worker.rows for worker in self._workers)

    @property
    def ready(self) -> bool:
        return any(worker.up for worker in self._workers)

    async def open(self, setup: SessionSetup) -> RowSlot:
        """Take a row of the worker that has most of them free.

        Raises:
            CapacityError: no row is free, or no worker is up.
            EngineLost: the worker died while it took the conversation in.

        A cancelled call gives the row back.
        """
        roomiest = max(self._workers, key=lambda worker: worker.free_rows)
        if not roomiest.free_rows:
            raise CapacityError(self._retry_after_s())
        return await roomiest.open(setup)

    def statistics(self) -> tuple[WorkerStatistics, ...]:
        """Return a snapshot of each worker, in a fixed order."""
        return tuple(worker.statistics() for worker in self._workers)

    async def __aenter__(self) -> Self:
        """Start all workers at once; returns when each has loaded its model.

        Raises:
            ModelLoadError: one of them could not; the others have been ended.

        A cancelled call ends all of them.
        """
        loads = [worker.loaded_once() for worker in self._workers]
        await self._group.__aenter__()
        entered = False
        try:
            for worker in self._workers:
                self._supervisors.append(self._group.create_task(worker.supervise(), name=worker.name))
            await asyncio.wait(loads, return_when=asyncio.FIRST_EXCEPTION)
            for load in loads:
                if load.done() and (error := load.exception()) is not None:
                    raise error
            self._spec = loads[0].result()
            entered = True
        finally:
            if not entered:
                await self._stop(None)
                for load in loads:
                    if not load.cancel() and not load.cancelled():
                        load.exception()  # looked at, so that asyncio does not log a second failure as forgotten
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workers, within a limit; slots that are still open are lost."""
        await self._stop(error)

    async def _stop(self, error: BaseException | None) -> None:
        for supervisor in self._supervisors:
            supervisor.cancel()
        # A group wraps the errors of its body. Only a cancellation concerns it: it may be the group's own, because a
        # supervisor failed; any other error goes on its way as it is.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(type(error), error, error.__traceback__)
        else:
            await self._group.__aexit__(None, None, None)

    def _retry_after_s(self) -> float:
        if self.ready:
            return FULL_RETRY_S
        return max(1.0, min(worker.back_in_s for worker in self._workers))
