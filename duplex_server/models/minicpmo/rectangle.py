"""New positions of the first rows of a cache, as many for each: a shape that comes again, so that it can be recorded.

Rows and positions for which there is nothing to do are padding. It is written to a place that nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rectangle"]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Where new positions stand. Make it with :meth:`of`.

    Attributes:
        n_slots: rows, from the first.
        n_new: positions of each.
        n_all: positions of the cache that are looked at.
        mask: what is added to the scores of each new position, 0 or −∞, ``[n_slots, 1, group · n_new, n_all]``.
    """

    n_slots: int
    n_new: int
    n_all: int
    mask: Tensor
    _rows: Tensor
    _positions: Tensor

    @classmethod
    def of(
        cls, positions: Tensor, n_all: int, *, padding: int, group: int, dtype: torch.dtype, causal: bool = True
    ) -> Rectangle:
        """Arrange positions, on their device and without waiting for it.

        Args:
            positions: int64 ``[n_slots, n_new]``.
            n_all: more than any position but padding.
            padding: the position that stands for nothing to do.
            group: query heads that share a key head.
            dtype: of the scores.
            causal: whether a new position sees none behind itself; else it sees all of its row.
        """
        n_slots, n_new = positions.shape
        device = positions.device
        # Padding sees the first key: its result is not used, but it must not be a division by nothing.
        sees_up_to = positions.masked_fill(positions == padding, 0)
        if not causal:
            sees_up_to = sees_up_to.amax(dim=1, keepdim=True).expand(-1, n_new)
        hidden = torch.arange(n_all, device=device) > sees_up_to[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
        by_group = mask[:, None, None].expand(-1, 1, group, -1, -1).flatten(2, 3)
        rows = torch.arange(n_slots, device=device)[:, None].expand(-1, n_new).flatten()
        return cls(n_slots, n_new, n_all, by_group, rows, positions.flatten())

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the row and the position of each place, both int64 ``[n_slots · n_new]``."""
        assert device == self._positions.device, "all layers lie on one device"
        return self._rows, self._positions
