"""The speech tokenizer as a module: a mel spectrogram to speech codes, where its weights are at hand as tensors.

Knows nothing about recordings. The published checkpoint has it as an ONNX file, which
:mod:`duplex_server.models.minicpmo.voice_prompt` runs; tensor names are those of its conversion to PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.rope import Rope, rotated

__all__ = ["S3Tokenizer"]

HEAD = 64
FSMN_KERNEL = 31
LEVELS = 3
"""Values that each quantized dimension can have."""
SQUASH = 0.9990000128746033
"""Keeps tanh below the rounding edge. All of these: S3Tokenizer v2 (specification §6.1)."""


class S3Tokenizer(nn.Module):
    """Two strided convolutions, attention with a memory of values, and finite scalar quantization.

    Args:
        mels: bins of the spectrogram, 128.
        width: of the layers.
        blocks: how many.
        dimensions: that are quantized, 8.
    """

    def __init__(self, mels: int, width: int, blocks: int, dimensions: int) -> None:
        super().__init__()
        self.encoder = _Encoder(mels, width, blocks)
        self.quantizer = _Quantizer(width, dimensions)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> S3Tokenizer:
        """Build one for tensors of these shapes."""
        width, mels, _ = shapes["encoder.conv1.weight"]
        blocks = sum(name.endswith(".attn_ln.weight") for name in shapes)
        return cls(mels, width, blocks, shapes["quantizer._codebook.project_down.weight"][0])

    @torch.inference_mode()
    def forward(self, mel: Tensor) -> Tensor:
        """Map ``[128, frames]`` at 100 Hz to codes int64 ``[frames / 4]``."""
        codes: Tensor = self.quantizer(self.encoder(mel[None]))
        return codes[0]


class _Encoder(nn.Module):
    def __init__(self, mels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.rope = Rope(HEAD, 10_000.0)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        cos, sin = self.rope.cos_sin(torch.arange(x.shape[1], device=x.device), x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return x


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = _Attention(width)
        self.attn_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x), cos, sin)
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out


class _Attention(nn.Module):
    """Attention, beside which a convolution over the values remembers their surroundings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, FSMN_KERNEL, padding=FSMN_KERNEL // 2, groups=width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(2, (-1, HEAD)).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v)
        values = v.transpose(1, 2).flatten(2)
        memory = self.fsmn_block(values.transpose(1, 2)).transpose(1, 2) + values
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2)) + memory
        return out


class _Quantizer(nn.Module):
    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self._codebook = nn.ModuleDict({"project_down": nn.Linear(width, dimensions)})

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self._codebook["project_down"](x)
        digits = torch.round(torch.tanh(down) * SQUASH) + 1
        powers = LEVELS ** torch.arange(digits.shape[-1], device=x.device)
        return (digits.long() * powers).sum(dim=-1)
