"""An event loop on which time passes only when every task waits, so that tests of an hour take a moment.

Knows nothing about what is tested. Not for real sockets: between two of their packets the clock would run away.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["Deadlock", "VirtualTimeLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 1000.0
"""Where the clock of every loop starts, seconds. Not 0, so that code which takes 0 for "now" is caught."""

EXECUTOR_POLL_S = 60.0
"""How long a thread may work before the test is taken for hanging, real seconds."""


class Deadlock(AssertionError):
    """Every task waits, and neither a timer nor a thread will wake one."""


class _JumpingSelector(selectors.BaseSelector):
    """A selector whose waiting is a jump of the clock. Real descriptors are polled, never waited for."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_s = START_S
        self.executor_calls = 0
        self.tasks: Callable[[], set[asyncio.Task[Any]]] = set

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.executor_calls:
            ready = self._real.select(EXECUTOR_POLL_S)
            if not ready:
                raise Deadlock(f"{self.executor_calls} calls in threads did not return in {EXECUTOR_POLL_S:.0f} s")
            return ready
        if timeout is None:
            waiting = "\n".join(sorted(f"  {task!r}" for task in self.tasks()))
            raise Deadlock(f"every task waits and no timer is set:\n{waiting}")
        self.now_s += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer when all tasks wait; raises :class:`Deadlock` where there is none.

    Work in an executor takes real time, during which the clock stands still. Threads started in any other way are not
    seen: what uses them is tested on a real loop.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._jumping.tasks = lambda: asyncio.all_tasks(self)

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.executor_calls += 1
        future.add_done_callback(self._executor_call_returned)
        return future

    async def shutdown_default_executor(self, *_: float | None) -> None:
        self._jumping.executor_calls += 1  # asyncio joins its threads in a thread of its own
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.executor_calls -= 1

    def _executor_call_returned(self, _: asyncio.Future[Any]) -> None:
        self._jumping.executor_calls -= 1


def run(main: Coroutine[Any, Any, T], *, debug: bool = True) -> T:
    """Run ``main`` on a new :class:`VirtualTimeLoop`, and return what it returns.

    asyncio's debug mode reports coroutines that were never awaited with the line that made them, and refuses calls
    from the wrong thread; it takes three times as long.

    Raises:
        Deadlock: every task waits for ever.
        BaseException: whatever ``main`` raises.
    """
    with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
