"""The session's own time: ticks at absolute deadlines, and a clock that stands still while nobody is there to talk to.

Knows nothing about what happens at a tick.
"""

from __future__ import annotations

import asyncio
import math

from duplex_server.types import TICK_MS

__all__ = ["SessionClock"]

_TICK_S = TICK_MS / 1000
_GRID_MAX_MS = 100
"""A session waits this long for its first tick at most, and for the first one after a pause."""


class SessionClock:
    """Counts ticks; pauses. Made when the session is, on the event loop.

    All sessions begin on one grid, and go on after a pause on one, so that a worker wakes once for all their units and
    takes them as one batch.

    Args:
        unit_ms: length of the model's unit.
    """

    def __init__(self, unit_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._grid_ticks = max(1, min(unit_ms, _GRID_MAX_MS) // TICK_MS)
        self._due_s = self._loop.time()
        self._paused_ticks = 0
        self.paused = False
        """Whether time stands still."""

    @property
    def tick_s(self) -> float:
        """The present tick's time, seconds: the loop's, less all pauses."""
        return self._due_s - self._paused_ticks * _TICK_S

    @property
    def now_s(self) -> float:
        """The time between ticks, likewise; it stands still in a pause."""
        return self.tick_s if self.paused else self._loop.time() - self._paused_ticks * _TICK_S

    async def start(self) -> None:
        """Wait for the first tick."""
        grid_s = self._grid_ticks * _TICK_S
        self._due_s = math.ceil(self._due_s / grid_s) * grid_s
        await asyncio.sleep(self._due_s - self._loop.time())

    def hold(self, wanted: bool) -> None:
        """Pause, or go on where the grid allows it; called once per tick, ahead of all that happens at it."""
        self.paused = wanted or (self.paused and self._paused_ticks % self._grid_ticks != 0)

    async def next_tick(self) -> None:
        """Wait for the next tick, by its absolute deadline."""
        self._due_s += _TICK_S
        self._paused_ticks += self.paused
        await asyncio.sleep(max(0.0, self._due_s - self._loop.time()))
