"""Which conversations step together. Pure: knows nothing about models, threads or time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from duplex_server.types import SessionSetup, Unit

__all__ = ["Batcher", "Queued", "units_ahead"]

AHEAD_MS = 160
"""How much input may wait in a worker, so that a hiccup of a few units does not hold the session up.

More would only be stale: what the session wants of the model travels with its units.
"""


def units_ahead(unit_ms: int) -> int:
    """Return how many units of one conversation may be with the worker, those being stepped included.

    At least 2, so that the next unit is there when a step ends.
    """
    return max(2, AHEAD_MS // unit_ms)


@dataclass(frozen=True, slots=True)
class Queued:
    """A unit that waits for its step."""

    row: int
    unit: Unit
    setup: SessionSetup | None
    """A new set-up to be applied just before the unit."""
    came_s: float = 0.0
    """When it came, on the worker's clock."""


class Batcher:
    """Queues of units, one per row, from which batches are cut.

    A batch holds one unit of every row that has any, the longest waiting first. So no row gets a second unit before
    each waiting row got one, and no unit is taken out of its order.

    Args:
        units_per_row: how many units may wait in one row.
    """

    def __init__(self, units_per_row: int) -> None:
        self._units_per_row = units_per_row
        self._queues: dict[int, deque[Queued]] = {}  # of rows with waiting units, the longest waiting first

    @property
    def ready(self) -> bool:
        """Whether any unit waits."""
        return bool(self._queues)

    def put(self, queued: Queued) -> None:
        """Queue a row's next unit.

        Raises:
            AssertionError: the row's queue is full. Senders count what is on its way, so this is their bug.
        """
        queue = self._queues.setdefault(queued.row, deque())  # bounded here: full is an error
        if len(queue) == self._units_per_row:
            raise AssertionError(f"row {queued.row} was sent more than {self._units_per_row} units ahead")
        queue.append(queued)

    def take(self) -> list[Queued]:
        """Cut the next batch: one unit of each waiting row; empty where none waits."""
        batch = [queue.popleft() for queue in self._queues.values()]
        self._queues = {row: queue for row, queue in self._queues.items() if queue}
        return batch

    def drop(self, row: int) -> None:
        """Forget what waits in a row."""
        self._queues.pop(row, None)
