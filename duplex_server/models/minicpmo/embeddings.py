"""Tables of embeddings that wait for a checkpoint's weights. Knows nothing about where those come from."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["empty_embedding"]


def empty_embedding(count: int, width: int) -> nn.Embedding:
    """Return a table of ``count`` rows without values.

    ``nn.Embedding`` draws values first, for which torch imports its compiler on the meta device: some seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(count, width))
