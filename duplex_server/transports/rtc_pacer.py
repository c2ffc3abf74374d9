"""One timer for all calls: what is to be sent later, and when patience with a packet ends, by absolute deadlines.

Knows nothing about what falls due.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from functools import partial

__all__ = ["Alarm", "Pacer"]

QUANTUM_S = 0.005
"""Deadlines are met within so much: those that lie closer together share a wake-up, also those of different calls."""

EARLY_S = 0.001
"""uvloop counts milliseconds, so that a timer may come so much early; to wait for the rest would be to spin."""


class Pacer:
    """Calls back at the times it is asked to, in their order. One per event loop."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[float], None]]] = []  # bounded: a few per call
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_s = math.inf

    def at(self, due_s: float, act: Callable[[float], None]) -> None:
        """Have ``act`` called with the time, at ``due_s`` or up to :data:`QUANTUM_S` later. It cannot be called off."""
        heapq.heappush(self._due, (due_s, next(self._numbers), act))
        if due_s < self._wakes_s - QUANTUM_S:
            self._set_timer()

    def close(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wakes_s = math.inf
        if self._due:
            self._wakes_s = math.ceil(self._due[0][0] / QUANTUM_S) * QUANTUM_S
            self._timer = asyncio.get_running_loop().call_at(self._wakes_s, self._wake)

    def _wake(self) -> None:
        now_s = asyncio.get_running_loop().time() + EARLY_S
        try:
            while self._due and self._due[0][0] <= now_s:
                due_s, _, act = heapq.heappop(self._due)
                act(max(due_s, now_s - EARLY_S))
        finally:
            self._set_timer()


class Alarm:
    """Wakes one thing that knows when it is due.

    Args:
        pacer: of this event loop.
        due_s: says when the thing is due; None for not now.
        act: called with the time when it is.
    """

    def __init__(self, pacer: Pacer, due_s: Callable[[], float | None], act: Callable[[float], None]) -> None:
        self._pacer = pacer
        self._due_s = due_s
        self._act = act
        self._set_for_s = math.inf
        self._number = 0  # of the call that counts; those before it were overtaken by an earlier one

    def set(self) -> None:
        """Look when the thing is due; call whenever that may have become earlier."""
        due_s = self._due_s()
        if due_s is not None and due_s < self._set_for_s:
            self._set_for_s = due_s
            self._number += 1
            self._pacer.at(due_s, partial(self._ring, self._number))

    def silence(self) -> None:
        """Call nothing any more, until it is set again."""
        self._number += 1
        self._set_for_s = math.inf

    def _ring(self, number: int, now_s: float) -> None:
        if number == self._number:
            self._set_for_s = math.inf
            self._act(now_s)
            self.set()
