"""Put packets that overtook each other back in order, at the price of no delay while nothing is missing.

A plain machine: packets go in, packets come out, time is the caller's. Knows nothing about what packets hold.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["MAX_WAIT_S", "WAIT_PACKETS", "Reorderer"]

Packet = TypeVar("Packet")

WAIT_PACKETS = 3
"""A missing packet is given up when so many that follow it are there: 60 ms of 20 ms packets."""

MAX_WAIT_S = 0.06
"""A missing packet is given up after this long even if nothing more follows; the caller keeps the time."""

MAX_MISORDER = 100
"""A number further back than this is not a late packet but a sender that began anew. 100 packets are 2 s."""

_SEQUENCES = 1 << 16


class Reorderer(Generic[Packet]):
    """The order of one RTP stream.

    Attributes:
        n_late: packets that came after they were given up, or twice.
    """

    def __init__(self) -> None:
        self.n_late = 0
        self._next: int | None = None  # extended number of the packet that would continue the stream
        self._held: dict[int, Packet] = {}  # by extended number; fewer than WAIT_PACKETS between calls

    @property
    def waiting(self) -> bool:
        """Whether packets are held back because one before them is missing."""
        return bool(self._held)

    def add(self, sequence: int, packet: Packet) -> list[tuple[int, Packet]]:
        """Take in a packet as it arrives.

        Args:
            sequence: its RTP sequence number, 16 bits.
            packet: whatever belongs to it.

        Returns:
            What can be used now, oldest first, each with its extended number: one more than the one before, unless
            packets between them are lost.
        """
        if self._next is None:
            self._next = sequence
        number = self._next + _signed16(sequence - self._next)
        if number < self._next - MAX_MISORDER:
            ready = self.flush()
            self._next = number + _SEQUENCES  # a new start must not look like the past
            return [*ready, *self._take_run({self._next: packet})]
        if number < self._next or number in self._held:
            self.n_late += 1
            return []
        ready = self._take_run({number: packet})
        if len(self._held) >= WAIT_PACKETS:
            self._next = min(self._held)
            ready += self._take_run({})
        return ready

    def flush(self) -> list[tuple[int, Packet]]:
        """Give up what is missing and return what was held back for it."""
        ready = sorted(self._held.items())
        self._held.clear()
        if ready:
            self._next = ready[-1][0] + 1
        return ready

    def _take_run(self, arrived: dict[int, Packet]) -> list[tuple[int, Packet]]:
        self._held.update(arrived)
        assert self._next is not None
        run = []
        while self._next in self._held:
            run.append((self._next, self._held.pop(self._next)))
            self._next += 1
        return run


def _signed16(difference: int) -> int:
    return (difference + _SEQUENCES // 2) % _SEQUENCES - _SEQUENCES // 2
