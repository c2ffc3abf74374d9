"""Rotary position embedding with the halves of a head as pairs, and the re-alignment of keys that were moved.

Knows nothing about caches or layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Rope", "rotated", "rotated_together", "signed"]


class Rope:
    """Angles for one head size and base.

    Args:
        head_dim: size of a head, even.
        theta: base; 1e6 for the language model, 1e4 for the speech-token decoder.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim = head_dim
        # The exponents in float32, as the checkpoint was trained: float64 would differ in the last bit. On the CPU
        # whatever the default device is: modules are built on one that holds no numbers.
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
        self._inverse_frequencies = 1.0 / theta**exponents
        self._on: dict[torch.device, Tensor] = {}  # the same on each device that asked

    def cos_sin(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, each ``[*positions.shape, head_dim]``, computed in float32.

        Args:
            positions: integers; negative ones turn back.
            dtype: of the result.
        """
        angles = positions[..., None].float() * self._frequencies(positions.device)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(dtype), both.sin().to(dtype)

    def turned(self, keys: Tensor, by: int) -> Tensor:
        """Return rotated keys ``[..., head_dim]`` as if they stood ``by`` positions further on.

        One rotation in float32 by the difference, rounded once to the type of the keys.
        """
        cos, sin = self.cos_sin(torch.tensor(by, device=keys.device), torch.float32)
        return rotated(keys.float(), cos, sin).to(keys.dtype)

    def turned_officially(self, keys: Tensor, old: int, new: int) -> Tensor:
        """Return keys ``[heads, T, head_dim]`` moved from positions ``old …`` to ``new …`` as the official code does.

        It turns back and forth again, rounding to the keys' type at each of the two rotations (specification §4.5).
        """
        places = torch.arange(keys.shape[-2], device=keys.device)
        cos, sin = self.cos_sin(places + old, keys.dtype)
        unrotated = rotated(keys, cos, -sin)
        cos, sin = self.cos_sin(places + new, keys.dtype)
        return rotated(unrotated, cos, sin)

    def _frequencies(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self._inverse_frequencies.to(device)
        return self._on[device]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim/2) of ``x`` ``[..., head_dim]``; ``cos`` and ``sin`` are broadcast to it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotated_together(queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries ``[S, heads, head_dim]`` and keys ``[S, kv_heads, head_dim]`` as :func:`rotated` does, to the bit.

    In half as many calls, which is what it costs on a GPU.

    Args:
        queries: not rotated.
        keys: not rotated.
        cos: ``[S, 1, head_dim]``.
        sin: likewise, its first half negative: see :func:`signed`.
    """
    both = torch.cat([queries, keys], dim=1)
    turned = both * cos + both.roll(both.shape[-1] // 2, dims=-1) * sin
    return turned[:, : queries.shape[1]], turned[:, queries.shape[1] :]


def signed(sin: Tensor) -> Tensor:
    """Return the sines with the first half negative: the sign of the half of a pair that comes to stand there."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat((-first, second), dim=-1)
