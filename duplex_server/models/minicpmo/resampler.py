"""The resampler: the patches of a picture become a fixed number of embeddings (specification §2.3).

Knows nothing about pictures or the vision tower; it is given features and the grids they stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.packed import attend_within

__all__ = ["Grid", "Resampler", "grid_positions"]

LARGEST_WAVELENGTH = 10_000.0
"""Base of the sine table. Source: specification §2.3."""

NORM_EPS = 1e-6
HEAD_SIZE = 128
"""Width of a head: the published resampler has 32 heads in 4096. Source: specification §2.3."""


class Grid(NamedTuple):
    """Patches of one picture."""

    rows: int
    columns: int

    @property
    def n_patches(self) -> int:
        return self.rows * self.columns


class _Attention(nn.Module):
    """Weights of a multi-head attention with one projection for queries, keys and values."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size))
        self.out_proj = nn.Linear(size, size)


class Resampler(nn.Module):
    """``n_queries`` learned queries look at the patches of one picture.

    Args:
        n_queries: embeddings per picture, 64 in the published model.
        vision_size: width of the patches' features.
        size: width of the language model, a multiple of 128.
    """

    def __init__(self, n_queries: int, vision_size: int, size: int) -> None:
        super().__init__()
        self.n_heads = size // HEAD_SIZE
        self.query = nn.Parameter(torch.empty(n_queries, size))
        self.kv_proj = nn.Linear(vision_size, size, bias=False)
        self.attn = _Attention(size)
        self.ln_q = nn.LayerNorm(size, eps=NORM_EPS)
        self.ln_kv = nn.LayerNorm(size, eps=NORM_EPS)
        self.ln_post = nn.LayerNorm(size, eps=NORM_EPS)
        self.proj = nn.Parameter(torch.empty(size, size))

    def forward(self, features: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Return the embeddings of some pictures.

        Args:
            features: ``[sum of the grids' patches, vision_size]``, picture after picture.
            grids: of the pictures.

        Returns:
            ``[len(grids), n_queries, size]``.
        """
        values = self.ln_kv(self.kv_proj(features))
        positions = {grid: grid_positions(grid, values.shape[1], values.device).to(values.dtype) for grid in set(grids)}
        keys = values + torch.cat([positions[grid] for grid in grids])
        query = self.ln_q(self.query)
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        query, keys, values = (
            functional.linear(x, weight, bias).unflatten(1, (self.n_heads, -1))
            for x, weight, bias in zip((query, keys, values), weights, biases, strict=True)
        )
        n_keys, n_queries = [grid.n_patches for grid in grids], [len(query)] * len(grids)
        seen = attend_within(query.repeat(len(grids), 1, 1), keys, values, n_keys, n_queries)
        embeddings = self.ln_post(self.attn.out_proj(seen)) @ self.proj
        return embeddings.unflatten(0, (len(grids), -1))


def grid_positions(grid: Grid, size: int, device: torch.device | None = None) -> Tensor:
    """Return the sine positions of a grid's patches in reading order, float32 ``[n_patches, size]``.

    The first half of the channels tells the column, the second the row; each half first sines, then cosines.
    """
    row, column = _waves(grid.rows, size // 2, device), _waves(grid.columns, size // 2, device)
    by_column = column[None].expand(grid.rows, -1, -1)
    by_row = row[:, None].expand(-1, grid.columns, -1)
    return torch.cat([by_column, by_row], dim=2).flatten(0, 1)


def _waves(n_places: int, size: int, device: torch.device | None) -> Tensor:
    frequency = LARGEST_WAVELENGTH ** -(torch.arange(size // 2, dtype=torch.float32, device=device) / (size / 2))
    angle = torch.arange(n_places, dtype=torch.float32, device=device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
