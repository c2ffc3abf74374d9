"""The flow model's decoder: a diffusion transformer that turns noise into mel frames along an ODE, chunk by chunk.

Knows nothing about codes, turns, or where a row's past is kept. Rows of one call make the same number of frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.flow_past import Past, Workspace
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes

__all__ = ["FlowDecoder"]

GUIDANCE = 0.7
"""Strength of classifier-free guidance (specification §6.3)."""

TIME_FEATURES = 256
"""Cosines and sines that a time is written as."""


class FlowDecoder(nn.Module):
    """The ODE solver. Tensor names below ``decoder.`` of ``flow.pt``."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.estimator = _Estimator(sizes)

    def forward(self, noise: Tensor, mu: Tensor, speaker: Tensor, prompt: Tensor, past: Past, steps: int) -> Tensor:
        """Solve the ODE by Euler's method, with guidance.

        Args:
            noise: [B, frames, 80] float32
            mu: the encoder's spectrogram [B, frames, 80].
            speaker: [B, 80]
            prompt: the voice prompt's own spectrogram [B, frames, 80], zeros where speech is to be made.
            past: what the rows remember.
            steps: of the ODE.

        Returns:
            mel [B, frames, 80] float32
        """
        given = torch.cat([mu, speaker[:, None].expand_as(mu), prompt], dim=2)
        given = torch.cat([given, torch.zeros_like(given)])  # the second half is unconditional
        times = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * torch.pi)
        x, now = noise, times[0]
        for step in range(steps):
            delta = times[step + 1] - now
            inputs = torch.cat([torch.cat([x, x]).to(mu.dtype), given], dim=2)
            conditional, unconditional = past.through(self.estimator, inputs, now, step).float().chunk(2)
            x = x + delta * ((1.0 + GUIDANCE) * conditional - GUIDANCE * unconditional)
            now = now + delta  # accumulated as in the official code, whose rounding this repeats
        past.advance()
        return x


class _Estimator(nn.Module):
    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.t_embedder = _TimeEmbedding(TIME_FEATURES, sizes.hidden)
        self.n_inputs = 4 * sizes.mels
        self.in_proj = nn.Linear(self.n_inputs, sizes.hidden)
        self.blocks = nn.ModuleList([_Block(sizes) for _ in range(sizes.depth)])
        self.final_layer = _FinalLayer(sizes.hidden, sizes.mels)

    def forward(self, inputs: Tensor, now: Tensor, past: Workspace) -> Tensor:
        """Estimate the velocity [2B, frames, 80] from [2B, frames, 320]; one time [] for all rows."""
        x = self.in_proj(inputs)
        time = F.silu(self.t_embedder(now, x.dtype))
        for index, block in enumerate(self.blocks):
            x = block(x, time, past, index)
        return self.final_layer(x, time)


class _TimeEmbedding(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, now: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed a time in [0, 1]: [1, width]."""
        half = self.features // 2
        rate = torch.exp(torch.arange(half, dtype=torch.float32, device=now.device) * (-math.log(10_000.0) / half))
        angle = (now * 1000.0) * rate
        return self.mlp(torch.cat([torch.cos(angle), torch.sin(angle)])[None].to(dtype))


class _Block(nn.Module):
    """Attention, convolution, feed-forward, each shifted, scaled and gated by the time."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        width = sizes.hidden
        self.norm1, self.norm2, self.norm3 = (_norm(width) for _ in range(3))
        self.attn = _Attention(width, sizes.hidden // sizes.head_dim, sizes.head_dim)
        self.mlp = _FeedForward(width, sizes.mlp)
        self.conv = _CausalConv(width)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(width, 9 * width))

    def forward(self, x: Tensor, time: Tensor, past: Workspace, index: int) -> Tensor:
        # In the checkpoint's order: shift, scale and gate of attention, of feed-forward, of convolution.
        a0, a1, a2, f0, f1, f2, c0, c1, c2 = self.adaLN_modulation(time).chunk(9, dim=1)
        x = x + a2 * self.attn(_modulated(self.norm1(x), a0, a1), past, index)
        x = x + c2 * self.conv(_modulated(self.norm3(x), c0, c1), past, index)
        return x + f2 * self.mlp(_modulated(self.norm2(x), f0, f1))


class _FinalLayer(nn.Module):
    def __init__(self, width: int, mel_bins: int) -> None:
        super().__init__()
        self.norm_final = _norm(width)
        self.linear = nn.Linear(width, mel_bins)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(time).chunk(2, dim=1)
        return self.linear(_modulated(self.norm_final(x), shift, scale))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, heads * head) for _ in range(3))
        self.q_norm, self.k_norm = nn.LayerNorm(head, eps=1e-5), nn.LayerNorm(head, eps=1e-5)
        self.proj = nn.Linear(heads * head, width)

    def forward(self, x: Tensor, past: Workspace, index: int) -> Tensor:
        q, k, v = (part(x).unflatten(2, (self.heads, self.head)).transpose(1, 2) for part in self._parts())
        keys, values = past.with_new(index, self.k_norm(k), v)
        y = F.scaled_dot_product_attention(self.q_norm(q), keys, values, attn_mask=past.mask)
        return self.proj(y.transpose(1, 2).flatten(2))

    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.to_q, self.to_k, self.to_v


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _CausalConv(nn.Module):
    """Two causal convolutions. The gaps in ``block`` have no parameters; they keep the checkpoint's numbering."""

    def __init__(self, width: int) -> None:
        super().__init__()
        gap = nn.Identity
        self.block = nn.Sequential(
            gap(), nn.Conv1d(width, width, 3), gap(), nn.LayerNorm(width), gap(), gap(), nn.Conv1d(width, width, 3)
        )

    def forward(self, x: Tensor, past: Workspace, index: int) -> Tensor:
        kept1, kept2 = past.conv_inputs(index).chunk(2, dim=1)
        first = torch.cat([kept1, x.transpose(1, 2)], dim=2)
        y = F.mish(self.block[3](self.block[1](first).transpose(1, 2)))
        second = torch.cat([kept2, y.transpose(1, 2)], dim=2)
        past.keep_conv_inputs(index, torch.cat([first[:, :, -2:], second[:, :, -2:]], dim=1))
        return self.block[6](second).transpose(1, 2)
