"""The vision tower: pictures of any proportions become embeddings for the language model (specification §2.2, 2.3).

Knows nothing about conversations, or about how pictures are cut.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.config import MiniCPMOConfig, VisionConfig
from duplex_server.models.minicpmo.embeddings import empty_embedding
from duplex_server.models.minicpmo.packed import attend_within
from duplex_server.models.minicpmo.pictures import Patches
from duplex_server.models.minicpmo.resampler import Grid, Resampler

__all__ = ["SiglipNavit", "VisionTower", "position_buckets"]


class VisionTower(nn.Module):
    """SigLIP with NaViT positions (``vpm``), and the resampler behind it (``resampler``).

    All pictures given at once go through the same linear layers together, unpadded; attention stays within a picture.
    """

    def __init__(self, config: MiniCPMOConfig) -> None:
        super().__init__()
        self.most_at_once = config.vision_batch_size
        self.vpm = SiglipNavit(config.vision, config.vision.num_hidden_layers - config.drop_vision_last_layer)
        self.resampler = Resampler(config.query_num, config.vision.hidden_size, config.llm.hidden_size)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Patches]) -> Tensor:
        """Return the embeddings of pictures and slices.

        Args:
            pictures: of any conversations, in any order; at most ``vision_batch_size`` of them at once are on the
                device, so that memory does not grow with their number.

        Returns:
            ``[len(pictures), 64, size of the language model]``, in the order of ``pictures``. What a picture gets does
            not depend on the others, up to rounding.
        """
        groups = [pictures[i : i + self.most_at_once] for i in range(0, len(pictures), self.most_at_once)]
        if not groups:
            return self.resampler.query.new_empty(0, *self.resampler.query.shape)
        return torch.cat([self._encode(group) for group in groups])

    def _encode(self, pictures: Sequence[Patches]) -> Tensor:
        grids = [Grid(picture.rows, picture.columns) for picture in pictures]
        weight = self.vpm.embeddings.patch_embedding.weight
        # Joined where the tower is: on an H200's host, joining 16 pictures took 145 ms of the 200 until they were seen.
        pixels = torch.cat([torch.from_numpy(picture.pixels).to(weight.device) for picture in pictures])
        # Values of -1 to 1, in float32 whatever the model computes in: mean and deviation of the training were 0.5.
        normalised = ((pixels.float() / 255 - 0.5) / 0.5).to(weight.dtype)
        return self.resampler(self.vpm(normalised, grids), grids)


class SiglipNavit(nn.Module):
    """The SigLIP encoder; positions are fractions of a picture's sides, so that any grid fits."""

    def __init__(self, config: VisionConfig, n_layers: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config, n_layers)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Return the features of the patches.

        Args:
            patches: ``[sum of the grids' patches, 3 * patch * patch]``, values -1 to 1, picture after picture.
            grids: of the pictures.

        Returns:
            ``[sum of the grids' patches, hidden_size]``.
        """
        x = self.embeddings(patches, grids)
        lengths = [grid.n_patches for grid in grids]
        for layer in self.encoder.layers:
            x = layer(x, lengths)
        return self.post_layernorm(x)


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.n_buckets = config.patches_per_side
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.position_embedding = empty_embedding(self.n_buckets**2, config.hidden_size)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        # A convolution whose stride is its kernel is a linear layer over patches.
        x = functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        places = torch.cat([self._places(grid) for grid in grids]).to(x.device)
        return x + self.position_embedding(places)

    def _places(self, grid: Grid) -> Tensor:
        row, column = (position_buckets(n, self.n_buckets) for n in grid)
        return (row[:, None] * self.n_buckets + column).flatten()


@functools.lru_cache(maxsize=256)
def position_buckets(n_places: int, n_buckets: int) -> Tensor:
    """Return which of ``n_buckets`` equal parts of a side each of ``n_places`` patches begins in, int64 ``[n_places]``.

    Where a patch begins exactly at a border, rounding in float32 decides: of 25 patches the fifth begins at 5/25, which
    is 14/70, and counts as the 13th part. The model was trained with that, so it is kept, sum by sum.
    """
    borders = torch.arange(1 / n_buckets, 1.0, 1 / n_buckets)
    begins = torch.arange(0, 1 - 1e-6, float(1 / torch.tensor(n_places)))
    return torch.bucketize(begins, borders, right=True)


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(n_layers))


class _Layer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _SelfAttention(config)
        self.mlp = _FeedForward(config)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), lengths)
        return x + self.mlp(self.layer_norm2(x))


class _SelfAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        q, k, v = (of(x).unflatten(1, (self.n_heads, -1)) for of in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend_within(q, k, v, lengths))


class _FeedForward(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
