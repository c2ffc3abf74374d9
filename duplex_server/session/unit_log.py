"""How each unit went: when it was complete, how long it waited and where, what came of it.

Pure and synchronous; times are passed in. Knows nothing about events.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from duplex_server.engine.base import UnitDone
from duplex_server.types import UnitCost

__all__ = ["UnitFigures", "UnitLog"]

_MAX_OPEN = 1024
"""Units gathered and not taken in; a session that has so many has ended with ModelTimeout before."""
_MAX_DUE = 64
"""Figures that wait to be told. They are taken each tick, and no model takes so many units in one."""


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """One unit."""

    index: int
    spoke: bool
    input_ms: int
    received_ms: float
    """When it was complete, since the session began."""
    queue_ms: float
    wait_ms: float
    step_ms: float
    n_rows: int
    late: bool
    cost: UnitCost | None

    @property
    def total_ms(self) -> float:
        """From complete to taken in."""
        return self.queue_ms + self.wait_ms + self.step_ms

    @property
    def longest(self) -> str:
        """Which part took longest: ``"queue"``, ``"wait"`` or ``"step"``."""
        parts = {"queue": self.queue_ms, "wait": self.wait_ms, "step": self.step_ms}
        return max(parts, key=parts.__getitem__)


class UnitLog:
    """Figures of one session's units.

    Args:
        unit_ms: a unit's length.
        began_s: when the session began, the event loop's clock, as all times here.
    """

    def __init__(self, unit_ms: int, began_s: float) -> None:
        self._unit_ms = unit_ms
        self._began_s = began_s
        self._gathered_s: OrderedDict[int, float] = OrderedDict()  # beyond _MAX_OPEN the oldest go
        self._queued_ms: dict[int, float] = {}  # of those handed over; as many at most
        self._due: deque[UnitFigures] = deque(maxlen=_MAX_DUE)

    def gathered(self, index: int, now_s: float) -> None:
        """A unit is complete."""
        self._gathered_s[index] = now_s
        if len(self._gathered_s) > _MAX_OPEN:
            self._queued_ms.pop(self._gathered_s.popitem(last=False)[0], None)

    def handed(self, index: int, now_s: float) -> None:
        """The engine has it."""
        if index in self._gathered_s:
            self._queued_ms[index] = (now_s - self._gathered_s[index]) * 1000

    def done(self, unit: UnitDone) -> None:
        """The model has taken it in."""
        gathered_s = self._gathered_s.pop(unit.index, None)
        queue_ms = self._queued_ms.pop(unit.index, 0.0)
        if gathered_s is None:
            return
        total_ms = queue_ms + unit.waited_ms + unit.step_ms
        self._due.append(
            UnitFigures(
                index=unit.index,
                spoke=unit.spoke,
                input_ms=(unit.index + 1) * self._unit_ms,
                received_ms=(gathered_s - self._began_s) * 1000,
                queue_ms=queue_ms,
                wait_ms=unit.waited_ms,
                step_ms=unit.step_ms,
                n_rows=unit.n_rows,
                late=total_ms > self._unit_ms,
                cost=unit.cost,
            )
        )

    def take(self) -> list[UnitFigures]:
        """Return and forget what is new."""
        taken = list(self._due)
        self._due.clear()
        return taken
