"""What of a conversation stays in the cache: sliding windows over whole units.

Knows the cache only as something whose positions can be moved and refilled; knows nothing about tensors or the model.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["UnitRecord", "Window", "WindowMode", "WindowOptions", "WindowedCache"]


class WindowMode(enum.Enum):
    """What happens when a conversation grows long (specification §4.5)."""

    OFF = "off"
    """Nothing is dropped; the conversation ends when its buffer is full."""
    BASIC = "basic"
    """The oldest units are dropped when there are too many positions."""
    CONTEXT = "context"
    """The oldest units are dropped when there are too many units; what was said in them is kept as text."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """When units are dropped. Defaults are the official ones."""

    mode: WindowMode = WindowMode.OFF
    high_tokens: int = 4000
    """``basic``: more positions than this start a drop …"""
    low_tokens: int = 3500
    """… which goes on until there are no more than this."""
    max_units: int = 24
    """``context``: units that are kept."""
    previous_max_tokens: int = 500
    """``context``: newest tokens kept of what was said in dropped units."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """A unit in the cache."""

    length: int
    """Positions, from ``<unit>`` to ``</unit>``."""
    said: tuple[int, ...] = ()
    """Ids that were spoken in it, special ones left out; empty where it listened."""


class WindowedCache(Protocol):
    """What a window needs of the cache of keys and values."""

    lengths: list[int]

    def move(self, row: int, start: int, to: int, *, officially: bool = False) -> None:
        """Move all from ``start`` on to ``to``, see :meth:`~duplex_server.models.minicpmo.kv.KvCache.move`."""
        ...


Refill = Callable[[int, Sequence[int]], None]
"""Computes a row's positions from one on anew from token ids, leaving those behind as they are."""


class Window:
    """The units of one row that are in the cache, and those that have left it.

    The row begins with a preserved head: a prefix, what was said in dropped units, and a suffix.

    Args:
        options: when units are dropped.
        prefix_length: positions before what was said earlier.
        suffix: ids of the head after it.
        marker: ids that introduce what was said earlier.
        official: turn keys as the official code does, unit by unit and twice each time.
    """

    def __init__(
        self,
        options: WindowOptions,
        prefix_length: int,
        suffix: Sequence[int],
        marker: Sequence[int],
        *,
        official: bool = False,
    ) -> None:
        self.options = options
        self.prefix_length = prefix_length
        self.previous: list[int] = []  # marker and ids; bounded by previous_max_tokens
        self.units: deque[UnitRecord] = deque()  # bounded by the cache: each takes some of its positions
        self._suffix = list(suffix)
        self._marker = list(marker)
        self._official = official

    @property
    def head_length(self) -> int:
        """Positions before the first unit."""
        return self.prefix_length + len(self.previous) + len(self._suffix)

    def rehead(self, prefix_length: int, suffix: Sequence[int]) -> None:
        """Take note that the head was exchanged; what was said earlier stays in it."""
        self.prefix_length = prefix_length
        self._suffix = list(suffix)

    def add(self, unit: UnitRecord) -> None:
        """Take note of a unit that is complete in the cache."""
        self.units.append(unit)

    def due(self, length: int, *, with_unit: bool) -> bool:
        """Whether :meth:`slide` would drop something.

        Args:
            length: positions of the row, those included that are about to be added.
            with_unit: whether these complete a unit that has not been added yet.
        """
        match self.options.mode:
            case WindowMode.OFF:
                return False
            case WindowMode.BASIC:
                return length > self.options.high_tokens and len(self.units) + with_unit > 0
            case WindowMode.CONTEXT:
                return len(self.units) + with_unit > self.options.max_units

    def slide(self, row: int, cache: WindowedCache, refill: Refill) -> None:
        """Drop what there is too much of; the cache must end with a complete unit."""
        if not self.due(cache.lengths[row], with_unit=False):
            return
        if self.options.mode is WindowMode.BASIC:
            self._slide_basic(row, cache)
        else:
            while len(self.units) > self.options.max_units:
                self._drop_into_previous(row, cache, refill)

    def _slide_basic(self, row: int, cache: WindowedCache) -> None:
        excess = cache.lengths[row] - self.options.low_tokens
        dropped = 0
        while self.units and dropped < excess:
            length = self.units.popleft().length
            if self._official:
                cache.move(row, self.head_length + length, self.head_length, officially=True)
            dropped += length
        if not self._official:
            cache.move(row, self.head_length + dropped, self.head_length)

    def _drop_into_previous(self, row: int, cache: WindowedCache, refill: Refill) -> None:
        unit = self.units.popleft()
        old_end = self.head_length + unit.length
        before = self.previous
        if unit.said:
            content = [*self.previous[len(self._marker) :], *unit.said]
            self.previous = [*self._marker, *content[-self.options.previous_max_tokens :]]
        cache.move(row, old_end, self.head_length, officially=self._official)
        if self.previous != before:
            refill(self.prefix_length, [*self.previous, *self._suffix])
