"""Keys and values of many conversations in buffers that never grow, and attention of each row to its own.

Knows nothing about tokens or what a unit is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from duplex_server.models.minicpmo.recorded_steps import RecordedSteps, with_padding
from duplex_server.models.minicpmo.rectangle import Rectangle
from duplex_server.models.minicpmo.rope import Rope

__all__ = ["ContextFull", "KvCache", "LayerCache", "Padded", "Ragged"]


class ContextFull(Exception):
    """A row's buffer is too short for what was to be added; nothing has been changed.

    Args:
        row: the row.
        needed: positions that it would have needed.
        capacity: positions that it has.
    """

    def __init__(self, row: int, needed: int, capacity: int) -> None:
        super().__init__(f"row {row} has {capacity} positions and would need {needed}")
        self.row = row


@dataclass(frozen=True)
class Ragged:
    """New positions of some rows, packed one row after the other into ``S`` positions."""

    rows: tuple[int, ...]
    pasts: tuple[int, ...]
    """Positions that each row has already."""
    counts: tuple[int, ...]
    """New positions of each row, at least 1."""
    _index: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)
    _padded: dict[torch.device, Padded] = field(default_factory=dict, compare=False)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each row's positions begin and end in the packing."""
        ends = list(accumulate(self.counts))
        return [(end - count, end) for end, count in zip(ends, self.counts, strict=True)]

    @property
    def lasts(self) -> list[int]:
        """Where each row's last position stands in the packing."""
        return [end - 1 for end in accumulate(self.counts)]

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the row and the position of each packed position, both int64 ``[S]``."""
        if device not in self._index:
            rows = [row for row, count in zip(self.rows, self.counts, strict=True) for _ in range(count)]
            positions = [past + i for past, count in zip(self.pasts, self.counts, strict=True) for i in range(count)]
            both = torch.tensor([rows, positions], dtype=torch.int64).to(device, non_blocking=True)
            self._index[device] = (both[0], both[1])
        return self._index[device]

    def padded(self, device: torch.device, *, causal: bool) -> Padded:
        """Return where the positions stand when rows are padded to the longest; the same for all layers."""
        if device not in self._padded:
            self._padded[device] = Padded.of(self, device, causal=causal)
        return self._padded[device]


@dataclass(frozen=True)
class Padded:
    """New positions of some rows as a rectangle of slots, each a row of the cache, and what each may see."""

    chosen: slice | Tensor
    """The cache's rows that are the slots."""
    slot_of: Tensor
    """Slot of each packed position, int64 ``[S]``."""
    place_of: Tensor
    """Its place among the slot's new positions, int64 ``[S]``."""
    mask: Tensor
    """What each place sees, bool ``[slots, new, all]``."""

    @classmethod
    def of(cls, ragged: Ragged, device: torch.device, *, causal: bool) -> Padded:
        """Arrange rows; everything is computed on the host and brought to the device in one copy."""
        n_new = max(ragged.counts)
        n_all = max(past + count for past, count in zip(ragged.pasts, ragged.counts, strict=True))
        first, last = min(ragged.rows), max(ragged.rows)
        # Reading a row for nothing costs one pass over it, gathering the rows one more read and a write of all.
        gathered = last - first + 1 > 3 * len(ragged.rows)
        slots = range(len(ragged.rows)) if gathered else [row - first for row in ragged.rows]
        n_slots = len(ragged.rows) if gathered else last - first + 1
        of_position = [
            (slot, place, past + (place if causal else count - 1))
            for slot, past, count in zip(slots, ragged.pasts, ragged.counts, strict=True)
            for place in range(count)
        ]
        index = torch.tensor(of_position, dtype=torch.int64).t().to(device, non_blocking=True)
        slot_of, place_of, seen_of = index.unbind(0)
        # What is padding sees the first key: its result is not used, but it must not be a division by nothing.
        sees_up_to = torch.zeros(n_slots, n_new, dtype=torch.int64, device=device)
        sees_up_to[slot_of, place_of] = seen_of
        mask = torch.arange(n_all, device=device) <= sees_up_to[:, :, None]
        chosen = torch.tensor(ragged.rows, device=device) if gathered else slice(first, last + 1)
        return cls(chosen, slot_of, place_of, mask)


class LayerCache:
    """Keys and values of one layer: each ``[rows, kv_heads, capacity, head_dim]``, keys already rotated.

    Args:
        together: whether rows attend in one masked call instead of one call each; pays where calls are dear.
        causal: whether a new position sees none behind itself; else it sees all of its row.
    """

    def __init__(
        self,
        rows: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        together: bool,
        causal: bool = True,
    ) -> None:
        self.device = device
        self.keys = torch.zeros(rows, kv_heads, capacity, head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self._together, self._causal = together, causal

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, where: Ragged | Rectangle) -> Tensor:
        """Store the new keys and values, and let each row's queries see what the row has, up to themselves if causal.

        Args:
            queries: ``[S, heads, head_dim]``, rotated.
            keys: ``[S, kv_heads, head_dim]``, rotated.
            values: ``[S, kv_heads, head_dim]``.
            where: whose they are.

        Returns:
            ``[S, heads · head_dim]``.
        """
        rows, positions = where.index(self.device)
        self.keys[rows, :, positions] = keys
        self.values[rows, :, positions] = values
        if isinstance(where, Rectangle):
            return self._attend_rectangle(queries, where)
        if self._together and len(where.rows) > 1:
            return self._attend_together(queries, where)
        parts = [
            self._attend_one(queries[start:end], row, past)
            for (start, end), row, past in zip(where.bounds, where.rows, where.pasts, strict=True)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _attend_one(self, queries: Tensor, row: int, past: int) -> Tensor:
        n_new = len(queries)
        n_all = past + n_new
        # One query sees everything, and where there is no past the mask is the usual triangle: both need no mask.
        mask = None
        if self._causal and n_new > 1 and past:
            mask = torch.ones(n_new, n_all, dtype=torch.bool, device=self.device).tril(past)
        seen = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            self.keys[row, None, :, :n_all],
            self.values[row, None, :, :n_all],
            attn_mask=mask,
            is_causal=self._causal and n_new > 1 and not past,
            enable_gqa=True,
        )
        return seen[0].transpose(0, 1).reshape(n_new, -1)

    def _attend_together(self, queries: Tensor, ragged: Ragged) -> Tensor:
        """Attend in one call: queries padded to the longest row's, what a row must not see masked.

        The query heads that share a key head stand in a row as further queries, so keys are not repeated for them.
        """
        n_kv_heads, head_dim = self.keys.shape[1], self.keys.shape[3]
        padded = ragged.padded(self.device, causal=self._causal)
        n_slots, n_new, n_all = padded.mask.shape
        group = queries.shape[1] // n_kv_heads
        asked = queries.new_zeros(n_slots, n_new, n_kv_heads, group, head_dim)
        asked[padded.slot_of, padded.place_of] = queries.unflatten(1, (n_kv_heads, group))
        seen = functional.scaled_dot_product_attention(
            asked.permute(0, 2, 3, 1, 4).flatten(2, 3),  # [slots, kv_heads, group · new, head_dim]
            self.keys[padded.chosen, :, :n_all],
            self.values[padded.chosen, :, :n_all],
            attn_mask=padded.mask[:, None, None].expand(-1, 1, group, -1, -1).flatten(2, 3),
        )
        seen = seen.unflatten(2, (group, n_new)).permute(0, 3, 1, 2, 4)  # [slots, new, kv_heads, group, head_dim]
        return seen[padded.slot_of, padded.place_of].flatten(1)

    def _attend_rectangle(self, queries: Tensor, where: Rectangle) -> Tensor:
        """Attend in one call of a shape that does not depend on how long the rows are; see :meth:`_attend_together`."""
        n_kv_heads = self.keys.shape[1]
        asked = queries.unflatten(1, (n_kv_heads, -1)).unflatten(0, (where.n_slots, where.n_new))
        seen = functional.scaled_dot_product_attention(
            asked.permute(0, 2, 3, 1, 4).flatten(2, 3),  # [slots, kv_heads, group · new, head_dim]
            self.keys[: where.n_slots, :, : where.n_all],
            self.values[: where.n_slots, :, : where.n_all],
            attn_mask=where.mask,
        )
        return seen.unflatten(2, (-1, where.n_new)).permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)


class KvCache:
    """The caches of all layers, and how much each row has in them.

    Every row can hold ``capacity`` positions; what is added beyond raises :class:`ContextFull`. A row knows nothing of
    the others. Only one thread uses a cache.

    Args:
        devices: of each layer.
        rows: how many conversations.
        kv_heads: heads of keys.
        head_dim: size of a head.
        capacity: positions of each row.
        dtype: of keys and values.
        rope: how keys are rotated.
        together: see :class:`LayerCache`.
        recorded: whether there will be :attr:`steps`, on the one device of all layers.

    Attributes:
        steps: how most steps are taken, where they are recorded.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        rows: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        dtype: torch.dtype,
        rope: Rope,
        together: bool = False,
        recorded: bool = False,
    ) -> None:
        self.capacity = capacity
        self.rope = rope
        self.lengths = [0] * rows
        self.steps: RecordedSteps | None = None
        # One position beyond the rows' own is where padding is written.
        length = with_padding(capacity) if recorded else capacity
        self.layers = [
            LayerCache(rows, kv_heads, length, head_dim, device=device, dtype=dtype, together=together)
            for device in devices
        ]

    def reserve(self, rows: Sequence[int], counts: Sequence[int]) -> Ragged:
        """Say where ``counts`` new positions of ``rows`` will stand; :meth:`commit` makes them count.

        Raises:
            ContextFull: a row is too short.
        """
        assert len(set(rows)) == len(rows) and all(counts), "each row once, with something to add"
        pasts = tuple(self.lengths[row] for row in rows)
        for row, past, count in zip(rows, pasts, counts, strict=True):
            if past + count > self.capacity:
                raise ContextFull(row, past + count, self.capacity)
        return Ragged(tuple(rows), pasts, tuple(counts))

    def commit(self, ragged: Ragged) -> None:
        """Make the positions of a finished forward part of their rows."""
        for row, past, count in zip(ragged.rows, ragged.pasts, ragged.counts, strict=True):
            self.lengths[row] = past + count

    def truncate(self, row: int, length: int) -> None:
        """Forget what a row has from ``length`` on; 0 empties it."""
        assert 0 <= length <= self.lengths[row], (length, self.lengths[row])
        self.lengths[row] = length

    @torch.inference_mode()
    def move(self, row: int, start: int, to: int, *, officially: bool = False) -> None:
        """Move everything of a row from position ``start`` on to ``to``, keys turned to their new positions.

        The row then ends with what was moved. Moved back, what stood between is forgotten; moved on, what stands
        between is undefined until it is written.

        Args:
            row: the row.
            start: first position that is moved.
            to: where it goes.
            officially: turn keys as the official code does, see :meth:`Rope.turned_officially`.

        Raises:
            ContextFull: the end would lie beyond the buffer.
        """
        end = self.lengths[row]
        moved_end = to + end - start
        if moved_end > self.capacity:
            raise ContextFull(row, moved_end, self.capacity)
        if start < end and start != to:
            for layer in self.layers:
                keys = layer.keys[row, :, start:end]
                turned = (
                    self.rope.turned_officially(keys, start, to) if officially else self.rope.turned(keys, to - start)
                )
                layer.keys[row, :, to:moved_end] = turned
                layer.values[row, :, to:moved_end] = layer.values[row, :, start:end].clone()
        self.lengths[row] = moved_end
