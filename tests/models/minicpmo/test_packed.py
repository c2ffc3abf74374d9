"""Tests of attention over packed sequences."""

from __future__ import annotations

import torch

from duplex_server.models.minicpmo.packed import attend_within

HEADS, SIZE = 2, 8


def drawn(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, HEADS, SIZE, generator=torch.Generator().manual_seed(seed))


def by_hand(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("qhd,khd->hqk", queries, keys) / SIZE**0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values).flatten(1)


def test_every_sequence_sees_itself_only() -> None:
    lengths = [3, 5, 3, 1]
    queries, keys, values = (drawn(sum(lengths), seed) for seed in range(3))
    found = attend_within(queries, keys, values, lengths)
    wanted = [by_hand(*part) for part in zip(*(x.split(lengths) for x in (queries, keys, values)), strict=True)]
    assert torch.allclose(found, torch.cat(wanted), atol=1e-6)


def test_queries_need_not_be_as_many_as_keys() -> None:
    """As many in all, but not in each: 4 + 4 queries, 2 + 6 keys."""
    n_queries, n_keys = [4, 4], [2, 6]
    queries, keys, values = drawn(8, 1), drawn(8, 2), drawn(8, 3)
    found = attend_within(queries, keys, values, n_keys, n_queries)
    wanted = [
        by_hand(*part) for part in zip(queries.split(n_queries), keys.split(n_keys), values.split(n_keys), strict=True)
    ]
    assert torch.allclose(found, torch.cat(wanted), atol=1e-6)
