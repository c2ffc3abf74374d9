"""Steps of a transformer over the rows of a cache, in few shapes, each of which is recorded once.

Knows nothing about layers or tokens: a step takes new positions to what comes of them, and stores what it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from duplex_server.models.minicpmo.rectangle import Rectangle
from duplex_server.models.minicpmo.replays import Replays, at_least

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.kv import LayerCache, Ragged

__all__ = ["RecordedSteps", "RowsOfKeys", "with_padding"]

_SLOTS = (1, 4, 16, 32, 64, 128)
_NEW = (1, 16, 32, 96, 128)
_ALL = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
"""Sizes of what is recorded: rows, new positions of each, and positions that they look at. Ours: each size costs a
recording, and what is beyond the need costs time in each step."""
_NEARLY_ALL = 1.25
"""A row's last size is as long as the row: one that is hardly shorter is left out."""
_PADDED_AT_MOST = 512
"""New positions of a rectangle that cost hardly more than one: a large model's weights have to be read for either."""
_PADDED_AT_MOST_TIMES = 4
"""Larger rectangles hold at most so many times what there is to do."""
_ALIGNED = 64
"""Of the positions that are looked at: attention reads its mask in whole words."""


def with_padding(capacity: int) -> int:
    """Return how long buffers are that hold ``capacity`` positions, and one where padding is written."""
    return -(-(capacity + 1) // _ALIGNED) * _ALIGNED


class RowsOfKeys(Protocol):
    """A cache."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of each row."""
        ...

    @property
    def layers(self) -> Sequence[LayerCache]:
        """Buffers of each layer, as long as one another."""
        ...


class RecordedSteps:
    """Steps over one cache, whose buffers have a position beyond the rows' own.

    Args:
        cache: the cache.
        replays: of its device.
        work: from positions ``[n, width]`` and where they stand to what comes of them, of the same shape.
        width: of the positions.
        group: query heads that share a key head.
        counts: new positions of rows for which steps are recorded, ascending.
        most_padded: new positions of a rectangle that cost hardly more than one.
        causal: see :meth:`Rectangle.of`.
    """

    def __init__(
        self,
        cache: RowsOfKeys,
        replays: Replays,
        work: Callable[[Tensor, Rectangle], Tensor],
        *,
        width: int,
        group: int,
        counts: Sequence[int] = _NEW,
        most_padded: int = _PADDED_AT_MOST,
        causal: bool = True,
    ) -> None:
        self.replays = replays
        self._cache, self._work, self._width, self._group = cache, work, width, group
        self._counts, self._most_padded, self._causal = counts, most_padded, causal
        keys = cache.layers[0].keys
        self._length, self._device, self._dtype = keys.shape[2], keys.device, keys.dtype
        self._looked_at = [size for size in _ALL if size * _NEARLY_ALL < self._length]

    @property
    def padding(self) -> int:
        """The position that stands for nothing to do."""
        return self._length - 1

    def look_at(self, n_all: int) -> int:
        """Return how many positions a recording looks at that has to look at ``n_all``."""
        return at_least(n_all, self._looked_at, self._length)

    def slots(self, row: int) -> int:
        """Return how many rows, from the first, a recording has in which ``row`` occurs."""
        return at_least(row + 1, _SLOTS, len(self._cache.lengths))

    def where(self, positions: Tensor, n_all: int) -> Rectangle:
        """Arrange positions ``[n_slots, n_new]`` that look at ``n_all``, see :meth:`Rectangle.of`."""
        return Rectangle.of(
            positions, n_all, padding=self.padding, group=self._group, dtype=self._dtype, causal=self._causal
        )

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield rows and positions looked at of all that can be recorded."""
        for n_slots in dict.fromkeys(self.slots(row) for row in range(len(self._cache.lengths))):
            for n_all in (*self._looked_at, self._length):
                yield n_slots, n_all

    def run(self, x: Tensor, ragged: Ragged) -> Tensor | None:
        """Take a step, if it pays to have it recorded.

        Args:
            x: new positions, packed, ``[S, width]``.
            ragged: whose they are.

        Returns:
            ``[S, width]``; None if nothing has been done.
        """
        most_new, n_slots = max(ragged.counts), self.slots(max(ragged.rows))
        n_new = at_least(most_new, self._counts, self._counts[-1])
        if most_new > self._counts[-1] or n_slots * n_new > max(self._most_padded, _PADDED_AT_MOST_TIMES * len(x)):
            return None
        n_all = self.look_at(max(past + count for past, count in zip(ragged.pasts, ragged.counts, strict=True)))
        told = torch.full((n_slots, n_new), self.padding)
        places: list[int] = []
        for row, past, count in zip(ragged.rows, ragged.pasts, ragged.counts, strict=True):
            told[row, :count] = torch.arange(past, past + count)
            places.extend(range(row * n_new, row * n_new + count))
        padded, positions = self._buffers(n_slots, n_new, n_all)
        index = torch.tensor(places).to(self._device, non_blocking=True)
        padded.index_copy_(0, index, x.to(padded.dtype))
        positions.copy_(told)
        return self._replayed(n_slots, n_new, n_all)[index]

    def rehearse(self, counts: Iterable[int]) -> None:
        """Record all steps that may come, so that no conversation has to wait for it.

        Args:
            counts: new positions of a row in steps that are usual.
        """
        usual = sorted({at_least(count, self._counts, self._counts[-1]) for count in counts})
        for n_slots, n_all in self.sizes():
            for n_new in usual:
                _, positions = self._buffers(n_slots, n_new, n_all)
                positions.fill_(self.padding)
                self._replayed(n_slots, n_new, n_all)

    def _buffers(self, n_slots: int, n_new: int, n_all: int) -> Sequence[Tensor]:
        def make() -> tuple[Tensor, Tensor]:
            x = torch.zeros(n_slots * n_new, self._width, device=self._device, dtype=self._dtype)
            return x, torch.full((n_slots, n_new), self.padding, device=self._device)

        return self.replays.buffers((self, n_slots, n_new, n_all), make)

    def _replayed(self, n_slots: int, n_new: int, n_all: int) -> Tensor:
        return self.replays.run(
            (self, n_slots, n_new, n_all), lambda x, positions: self._work(x, self.where(positions, n_all))
        )
