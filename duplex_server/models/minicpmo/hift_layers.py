"""Layers that both HiFT vocoders are built of, and the geometry that their checkpoints have in common.

Knows nothing about streaming. Parameter names are those of the published checkpoints, with weight norm folded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.token2wav_layout import HiftSizes

__all__ = [
    "AUDIO_LIMIT",
    "HARMONICS",
    "LEAKY_SLOPE",
    "MEL_BINS",
    "NOISE_STD",
    "SAMPLE_RATE_HZ",
    "SINE_AMPLITUDE",
    "VOICED_ABOVE_HZ",
    "HiftShape",
    "ResBlock",
    "Snake",
    "downsampling_of_source",
    "inverse_stft",
    "resblocks",
    "stft",
]

SAMPLE_RATE_HZ = 24_000
MEL_BINS = 80
HARMONICS = 9
"""The fundamental and eight overtones."""
SINE_AMPLITUDE = 0.1
NOISE_STD = 0.003
VOICED_ABOVE_HZ = 10.0
LEAKY_SLOPE = 0.1
"""Before each upsampling; before the last convolution PyTorch's default of 0.01 stands."""
MAGNITUDE_LIMIT = 100.0
AUDIO_LIMIT = 0.99
# All of the above: CosyVoice's HiFT configuration, from which the published vocoders come (specification §6.5).


@dataclass(frozen=True, slots=True)
class HiftShape:
    """The layers of a HiFT at 24 kHz. Its tensors say how wide they are; the rest is the same for all of the family."""

    sizes: HiftSizes
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    source_kernels: tuple[int, ...] = (7, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    n_fft: int = 16
    hop: int = 4

    @property
    def channels(self) -> int:
        """After the first layer; halved by each upsampling."""
        return self.sizes.size

    @property
    def conv_pre_kernel(self) -> int:
        """The causal kind looks four frames ahead."""
        return 5 if self.sizes.causal else 7

    @property
    def f0_kernel(self) -> int:
        """Of the first layer of the F0 predictor; the causal kind looks three frames ahead."""
        return 4 if self.sizes.causal else 3

    @property
    def upsample_kernels(self) -> tuple[int, ...]:
        return self.sizes.kernels

    @property
    def stft_frames_per_mel(self) -> int:
        product = 1
        for rate in self.upsample_rates:
            product *= rate
        return product

    @property
    def samples_per_mel(self) -> int:
        """480 at 24 kHz: 50 mel frames a second."""
        return self.stft_frames_per_mel * self.hop

    @property
    def channels_at(self) -> list[int]:
        """Channels after each upsampling."""
        return [self.channels // 2 ** (level + 1) for level in range(len(self.upsample_rates))]


def downsampling_of_source(shape: HiftShape) -> list[int]:
    """By how much the source's spectrum is thinned to fit each level: 15, 3, 1."""
    factors = [1]
    for rate in reversed(shape.upsample_rates[1:]):
        factors.insert(0, factors[0] * rate)
    return factors


class Snake(nn.Module):
    """``x + sin²(αx)/α`` with one α per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T] to the same shape."""
        alpha = self.alpha[:, None]
        return x + torch.sin(x * alpha).square() / (alpha + 1e-9)


class ResBlock(nn.Module):
    """Three dilated convolutions with residuals; ``causal`` puts all padding on the left."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], *, causal: bool) -> None:
        super().__init__()
        self.kernel, self.dilations, self.causal = kernel, dilations, causal
        self.convs1 = nn.ModuleList([nn.Conv1d(channels, channels, kernel, dilation=d) for d in dilations])
        self.convs2 = nn.ModuleList([nn.Conv1d(channels, channels, kernel) for _ in dilations])
        self.activations1 = nn.ModuleList([Snake(channels) for _ in dilations])
        self.activations2 = nn.ModuleList([Snake(channels) for _ in dilations])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T] to the same shape."""
        for i, dilation in enumerate(self.dilations):
            y = self.convs1[i](self._padded(self.activations1[i](x), dilation))
            x = x + self.convs2[i](self._padded(self.activations2[i](y), 1))
        return x

    def _padded(self, x: Tensor, dilation: int) -> Tensor:
        missing = (self.kernel - 1) * dilation
        return F.pad(x, (missing, 0) if self.causal else (missing // 2, missing // 2))

    def history(self) -> int:
        """Steps to the left that an output of the causal kind depends on."""
        return sum((self.kernel - 1) * (dilation + 1) for dilation in self.dilations)


def resblocks(shape: HiftShape, *, causal: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The source's blocks, one per level, and the decoder's, three per level."""
    of_source = nn.ModuleList(
        ResBlock(width, kernel, shape.dilations, causal=causal)
        for width, kernel in zip(shape.channels_at, shape.source_kernels, strict=True)
    )
    of_decoder = nn.ModuleList(
        ResBlock(width, kernel, shape.dilations, causal=causal)
        for width in shape.channels_at
        for kernel in shape.resblock_kernels
    )
    return of_source, of_decoder


def stft(signal: Tensor, n_fft: int, hop: int) -> Tensor:
    """Spectrum of [B, samples]: real parts above imaginary ones, [B, n_fft + 2, samples // hop + 1]."""
    spectrum = torch.stft(signal, n_fft, hop, n_fft, window=_hann(n_fft, signal), return_complex=True)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


def inverse_stft(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """The network's last layer [B, n_fft + 2, T], log magnitude above phase, as a signal [B, (T - 1) · hop]."""
    bins = n_fft // 2 + 1
    magnitude = torch.exp(x[:, :bins]).clamp(max=MAGNITUDE_LIMIT)
    phase = torch.sin(x[:, bins:])
    spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
    return torch.istft(spectrum, n_fft, hop, n_fft, window=_hann(n_fft, magnitude))


def _hann(n_fft: int, like: Tensor) -> Tensor:
    return torch.hann_window(n_fft, periodic=True, dtype=torch.float32, device=like.device)
