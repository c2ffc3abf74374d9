"""Attention over packed sequences: those of one length go through one call, none is padded, none sees another.

Knows nothing about what the sequences are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attend_within"]


def attend_within(
    queries: Tensor, keys: Tensor, values: Tensor, n_keys: Sequence[int], n_queries: Sequence[int] | None = None
) -> Tensor:
    """Let every sequence's queries attend to the whole of its keys.

    What a sequence gets does not depend on the others: there is no padding, and a call for several sequences of one
    length treats them as a batch.

    Args:
        queries: ``[sum(n_queries), heads, d]``, sequence after sequence.
        keys: ``[sum(n_keys), heads, d]``, sequence after sequence.
        values: as ``keys``.
        n_keys: keys of each sequence.
        n_queries: queries of each sequence; as many as keys if left out.

    Returns:
        ``[sum(n_queries), heads * d]``, in the order of ``queries``.
    """
    lengths = list(zip(n_keys if n_queries is None else n_queries, n_keys, strict=True))
    if len(set(lengths)) == 1:  # the usual case needs no copies
        q, k, v = (part.unflatten(0, (len(lengths), -1)).transpose(1, 2) for part in (queries, keys, values))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)
    parts = list(
        zip(
            queries.split([q for q, _ in lengths]),
            keys.split([k for _, k in lengths]),
            values.split([k for _, k in lengths]),
            strict=True,
        )
    )
    found: list[Tensor] = [queries] * len(parts)
    for length in dict.fromkeys(lengths):
        alike = [place for place, other in enumerate(lengths) if other == length]
        q, k, v = (torch.stack([parts[place][of] for place in alike]).transpose(1, 2) for of in range(3))
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for place, result in zip(alike, seen, strict=True):
            found[place] = result
    return torch.cat(found)
