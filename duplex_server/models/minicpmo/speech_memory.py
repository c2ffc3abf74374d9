"""Keys and values of one utterance in the speech-token decoder: positions may be skipped, dropped and moved.

Knows nothing about codes, or why something is forgotten.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from duplex_server.models.minicpmo.kv import Ragged
from duplex_server.models.minicpmo.rope import signed
from duplex_server.models.minicpmo.speech_llama import LlamaBody

__all__ = ["SpeechMemory"]


class _Layer:
    """One layer's keys, rotated, and values, each ``[kv_heads, capacity, head_dim]``."""

    def __init__(self, like: Tensor, kv_heads: int, capacity: int, head_dim: int) -> None:
        self.keys = like.new_zeros(kv_heads, capacity, head_dim)
        self.values = like.new_zeros(kv_heads, capacity, head_dim)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, ragged: Ragged) -> Tensor:
        """As :meth:`duplex_server.models.minicpmo.kv.LayerCache.attend`, for its one row from ``ragged.rows[0]`` on."""
        begin, past, n = ragged.rows[0], ragged.pasts[0], len(queries)
        end = begin + past + n
        self.keys[:, end - n : end] = keys.transpose(0, 1)
        self.values[:, end - n : end] = values.transpose(0, 1)
        mask = torch.ones(n, past + n, dtype=torch.bool, device=queries.device).tril(past) if n > 1 else None
        seen = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            self.keys[None, :, begin:end],
            self.values[None, :, begin:end],
            attn_mask=mask,
            enable_gqa=True,
        )
        return seen[0].transpose(0, 1).flatten(1)


class SpeechMemory:
    """What is remembered of one utterance, in buffers allocated once.

    Args:
        body: of the decoder.
        capacity: positions. When they are used up, the older half is forgotten and the rest moved to the beginning:
            the official code goes on beyond the positions that the decoder was trained for.
    """

    def __init__(self, body: LlamaBody, capacity: int) -> None:
        self._body = body
        self._capacity = capacity
        self._positions: list[int] = []  # of what is remembered, rising; bounded by capacity
        self._begin = 0  # in the buffers
        self.next_position = 0
        """Where the next one stands for the rotation."""
        cache = body.new_cache(0, 0)
        self._layers = [
            _Layer(layer.keys, layer.keys.shape[1], capacity, layer.keys.shape[3]) for layer in cache.layers
        ]

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, embeds: Tensor) -> Tensor:
        """Add positions ``[n, width]``, n at most half the capacity; returns the state of the last, ``[1, width]``."""
        n = len(embeds)
        assert n <= self._capacity // 2, n
        if self.next_position + n > self._capacity:
            self.keep_newest(self._capacity // 2)
            self._move(0, self._positions[0])
        elif self._begin + len(self._positions) + n > self._capacity:
            self._move(0, 0)
        past = len(self._positions)
        new = range(self.next_position, self.next_position + n)
        cos, sin = self._body.rope.cos_sin(torch.tensor(new, device=embeds.device), embeds.dtype)
        ragged = Ragged((self._begin,), (past,), (n,))
        x = embeds
        for layer, memory in zip(self._body.layers, self._layers, strict=True):
            x = layer(x, cos[:, None], signed(sin)[:, None], memory, ragged)
        self._positions.extend(new)
        self.next_position += n
        state: Tensor = self._body.norm(x[-1:])
        return state

    def skip_position(self) -> None:
        """Leave the next position empty."""
        self.next_position += 1

    def clear(self) -> None:
        """Forget everything."""
        self._positions.clear()
        self._begin = self.next_position = 0

    def keep_newest(self, n: int) -> None:
        """Forget all but the newest ``n``; positions stay."""
        dropped = max(0, len(self._positions) - n)
        del self._positions[:dropped]
        self._begin += dropped

    def cut_out(self, start: int, end: int) -> None:
        """Forget the positions from ``start`` to before ``end``; what follows moves up."""
        kept = sum(position < start for position in self._positions)
        gone = sum(start <= position < end for position in self._positions)
        self._move(kept, end - start, skip=gone)

    def _move(self, keep: int, by: int, *, skip: int = 0) -> None:
        """Bring all to the buffers' beginning; what comes after the first ``keep`` and ``skip`` stands ``by`` less far.

        Args:
            keep: how many stay as they are.
            by: positions, with which the keys of what follows are turned.
            skip: how many after those are left out.
        """
        first = self._begin + keep + skip
        last = self._begin + len(self._positions)
        for layer in self._layers:
            keys, values = layer.keys[:, first:last].clone(), layer.values[:, first:last].clone()
            for buffer in (layer.keys, layer.values):
                buffer[:, :keep] = buffer[:, self._begin : self._begin + keep].clone()
            layer.keys[:, keep : keep + last - first] = self._body.rope.turned(keys, -by) if by else keys
            layer.values[:, keep : keep + last - first] = values
        self._positions = [*self._positions[:keep], *(place - by for place in self._positions[keep + skip :])]
        self.next_position -= by
        self._begin = 0
