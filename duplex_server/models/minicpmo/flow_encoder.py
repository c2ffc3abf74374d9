"""The flow model's encoder: speech codes at 25 Hz to a coarse mel spectrogram at 50 Hz, chunk by chunk.

Knows nothing about voices or noise. Rows of one call have the same number of codes; their caches may differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.flow_cache import EncoderCache, KeyValues, gathered
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes

__all__ = ["LOOKAHEAD_CODES", "FlowEncoder"]

LOOKAHEAD_CODES = 3
"""Codes that a chunk which is not the last must have beyond those it makes sound of (specification §6.2)."""


class FlowEncoder(nn.Module):
    """Conformer-like blocks at two rates. Tensor names below ``encoder.`` of ``flow.pt``."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.embed = _Embed(sizes.size)
        self.pre_lookahead_layer = _Lookahead(sizes.size)
        self.encoders = nn.ModuleList([_Block(sizes) for _ in range(sizes.blocks)])
        self.up_layer = _Upsample(sizes.size)
        self.up_embed = _Embed(sizes.size)
        self.up_encoders = nn.ModuleList([_Block(sizes) for _ in range(sizes.up_blocks)])
        self.after_norm = nn.LayerNorm(sizes.size, eps=1e-5)

    def forward(self, x: Tensor, caches: Sequence[EncoderCache], *, final: bool) -> Tensor:
        """Encode the next codes of some rows.

        Args:
            x: embedded codes [B, n, width].
            caches: one per row, updated in place unless ``final``.
            final: these are the last codes of their turns; else the last three only serve as a look ahead.

        Returns:
            [B, 2n, width] if final, else [B, 2(n - 3), width]
        """
        x = self.embed(x)
        if final:
            x = F.pad(x, (0, 0, 0, LOOKAHEAD_CODES))
        x, lookahead = self.pre_lookahead_layer(x, torch.stack([cache.lookahead for cache in caches]))
        x = _through(self.encoders, x, [cache.tokens for cache in caches], keep=not final)
        x, upsample = self.up_layer(x, torch.stack([cache.upsample for cache in caches]))
        x = _through(self.up_encoders, self.up_embed(x), [cache.mels for cache in caches], keep=not final)
        if not final:
            for row, cache in enumerate(caches):
                cache.lookahead.copy_(lookahead[row])
                cache.upsample.copy_(upsample[row])
        return self.after_norm(x)


def _through(blocks: nn.ModuleList, x: Tensor, caches: Sequence[KeyValues], *, keep: bool) -> Tensor:
    new = x.shape[1]
    lengths = [cache.length for cache in caches]
    longest = max(lengths)
    distances = _distances(longest + new, new, x)
    mask = None
    if min(lengths) < longest:
        first = torch.tensor([longest - length for length in lengths], device=x.device)
        mask = (torch.arange(longest + new, device=x.device) < first[:, None])[:, None, None]  # [B, 1, 1, L]
    for i, block in enumerate(blocks):
        past = gathered([cache.block(i) for cache in caches], longest)
        x, kv = block(x, past, distances, mask)
        if keep:
            for row, cache in enumerate(caches):
                cache.append(i, kv[:, row])
    if keep:
        for cache in caches:
            cache.advance(new)
    return x


def _distances(keys: int, new: int, like: Tensor) -> Tensor:
    """Sinusoids of the signed distances keys - 1 … -(new - 1): [keys + new - 1, width]."""
    width = like.shape[-1]
    distance = torch.arange(keys - 1, -new, -1, dtype=torch.float32, device=like.device)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device=like.device) * -(math.log(10_000.0) / width))
    table = torch.empty(distance.shape[0], width, device=like.device)
    table[:, 0::2] = torch.sin(distance * rate)
    table[:, 1::2] = torch.cos(distance * rate)
    return table.to(like.dtype)


class _Embed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=1e-5))
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


class _Lookahead(nn.Module):
    """A convolution that sees three codes ahead, a causal one, and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, LOOKAHEAD_CODES + 1)
        self.conv2 = nn.Conv1d(width, width, 3)

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n + 3, width] and the last outputs of ``conv1`` [B, width, 2] to [B, n, width] and the new ones."""
        y = torch.cat([kept, F.leaky_relu(self.conv1(x.transpose(1, 2)))], dim=2)
        return x[:, :-LOOKAHEAD_CODES] + self.conv2(y).transpose(1, 2), y[:, :, -2:]


class _Upsample(nn.Module):
    """Each step twice, then a causal convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5)

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n, width] and the last steps [B, width, 4] to [B, 2n, width] and the new ones."""
        y = torch.cat([kept, x.transpose(1, 2).repeat_interleave(2, dim=2)], dim=2)
        return self.conv(y).transpose(1, 2), y[:, :, -4:]


class _Block(nn.Module):
    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.self_attn = _RelativeAttention(sizes.size, sizes.heads)
        self.feed_forward = _FeedForward(sizes.size, sizes.inner)
        self.norm_ff = nn.LayerNorm(sizes.size, eps=1e-12)
        self.norm_mha = nn.LayerNorm(sizes.size, eps=1e-12)

    def forward(self, x: Tensor, past: Tensor, distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        attended, kv = self.self_attn(self.norm_mha(x), past, distances, mask)
        x = x + attended
        return x + self.feed_forward(self.norm_ff(x)), kv


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x)))


class _RelativeAttention(nn.Module):
    """Attention of new steps over all steps, with a term that depends on their distance (Dai et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, width // heads))

    def forward(self, x: Tensor, past: Tensor, distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: [B, n, width]
            past: keys and values [2, B, heads, T, head]; shorter rows stand at the right.
            distances: [T + 2n - 1, width], from the largest down to 1 - n.
            mask: [B, 1, 1, T + n], true where a shorter row has no key.

        Returns:
            [B, n, width], and the new keys and values [2, B, heads, n, head]
        """
        batch, new, width = x.shape
        q, k, v = (self._split(part(x)) for part in (self.linear_q, self.linear_k, self.linear_v))
        kv = torch.stack([k, v])
        keys, values = torch.cat([past, kv], dim=3)
        positions = self._split(self.linear_pos(distances)[None])  # [1, heads, T + 2n - 1, head]
        by_distance = (q + self.pos_bias_v[:, None]) @ positions.transpose(2, 3)  # [B, heads, n, T + 2n - 1]
        # Query i stands at key T + i, so its distance to key j is T + i - j: entry n - 1 - i + j of the table.
        steps = torch.arange(new, device=x.device)
        entry = (new - 1 - steps)[:, None] + torch.arange(keys.shape[2], device=x.device)
        bias = by_distance.take_along_dim(entry.expand(batch, self.heads, -1, -1), 3) / math.sqrt(q.shape[-1])
        if mask is not None:
            bias = bias.masked_fill(mask, -torch.inf)
        y = F.scaled_dot_product_attention(q + self.pos_bias_u[:, None], keys, values, attn_mask=bias)
        return self.linear_out(y.transpose(1, 2).reshape(batch, new, width)), kv

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)
