"""The classic HiFT vocoder: mel frames to 24 kHz samples, whole or streamed with overlapping, crossfaded chunks.

Knows nothing about speech tokens or turns. Its source signal is random: every draw comes from the row's generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.hift_layers import (
    AUDIO_LIMIT,
    HARMONICS,
    LEAKY_SLOPE,
    MEL_BINS,
    NOISE_STD,
    SAMPLE_RATE_HZ,
    SINE_AMPLITUDE,
    VOICED_ABOVE_HZ,
    HiftShape,
    downsampling_of_source,
    inverse_stft,
    resblocks,
    stft,
)
from duplex_server.models.minicpmo.token2wav_layout import HiftSizes

__all__ = ["OVERLAP_SAMPLES", "Hift", "HiftTail"]

OVERLAP_FRAMES = 8
"""Frames that a chunk makes a second time, with what comes after them (specification §6.5)."""
OVERLAP_SAMPLES = OVERLAP_FRAMES * 480


class F0Predictor(nn.Module):
    """Five convolutions and a linear layer: mel [B, 80, T] to F0 in Hz [B, T]."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [nn.Conv1d(channels if i else MEL_BINS, channels, kernel, padding=kernel // 2), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class Source(nn.Module):
    """Harmonics of F0 plus noise, mixed to one signal."""

    def __init__(self, samples_per_mel: int) -> None:
        super().__init__()
        self.samples_per_mel = samples_per_mel
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(self, f0: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
        """Make the source signal of [B, frames] F0 values in Hz: [B, samples]; one generator per row."""
        harmonic = torch.arange(1, HARMONICS + 1, device=f0.device, dtype=f0.dtype)[:, None]
        step = (f0[:, None] * harmonic / SAMPLE_RATE_HZ) % 1  # cycles per sample [B, 9, frames]
        # The phase runs linearly between the frames' middles.
        turns = torch.cumsum(step, dim=2) * (2 * math.pi) * self.samples_per_mel
        phase = F.interpolate(turns, scale_factor=self.samples_per_mel, mode="linear")
        voiced = (f0 > VOICED_ABOVE_HZ).to(f0.dtype).repeat_interleave(self.samples_per_mel, dim=1)[:, None]
        noise = torch.cat([self._drawn(phase[:1], generator) for generator in generators])
        signal = SINE_AMPLITUDE * torch.sin(phase) * voiced
        signal = signal + (voiced * NOISE_STD + (1 - voiced) * SINE_AMPLITUDE / 3) * noise
        return torch.tanh(self.l_linear(signal.transpose(1, 2))).squeeze(-1)

    def _drawn(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw one row's noise [1, 9, samples] in the order of the official code. Its first and last draws
        (phases that its interpolation drops, and a second noise) are used by nothing.
        """
        torch.rand(1, HARMONICS, generator=generator, device=like.device)
        # Drawn through a transposed view: torch fills those element by element, which gives other numbers.
        noise = torch.empty_like(like).transpose(1, 2).normal_(generator=generator).transpose(1, 2)
        torch.randn(1, like.shape[2], 1, generator=generator, device=like.device)
        return noise


@dataclass(slots=True)
class HiftTail:
    """What the next chunk of one row begins with.

    Attributes:
        mel: last frames of the input [80, 8].
        source: last samples of the source signal [3840].
        speech: last samples made, not given out yet [3840].
    """

    mel: Tensor
    source: Tensor
    speech: Tensor


class Hift(nn.Module):
    """Tensor names are those of ``hift.pt`` (classic layout), with weight norm folded."""

    def __init__(self, sizes: HiftSizes) -> None:
        super().__init__()
        self.shape = shape = HiftShape(sizes)
        kernel = shape.conv_pre_kernel
        self.m_source = Source(shape.samples_per_mel)
        self.conv_pre = nn.Conv1d(MEL_BINS, shape.channels, kernel, padding=kernel // 2)
        widths = [shape.channels, *shape.channels_at]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(widths[i], widths[i + 1], kernel, rate, padding=(kernel - rate) // 2)
            for i, (rate, kernel) in enumerate(zip(shape.upsample_rates, shape.upsample_kernels, strict=True))
        )
        self.source_downs = nn.ModuleList(
            nn.Conv1d(shape.n_fft + 2, width, 1 if step == 1 else 2 * step, step, padding=step // 2)
            for width, step in zip(widths[1:], downsampling_of_source(shape), strict=True)
        )
        self.source_resblocks, self.resblocks = resblocks(shape, causal=False)
        self.conv_post = nn.Conv1d(widths[-1], shape.n_fft + 2, 7, padding=3)
        self.f0_predictor = F0Predictor(sizes.f0_size, shape.f0_kernel)

    @torch.inference_mode()
    def whole(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Make the samples of a whole utterance: mel [80, frames] to [480 · frames]."""
        return self._decode(mel[None], self._source(mel[None], [generator]))[0]

    @torch.inference_mode()
    def stream(
        self,
        mels: Sequence[Tensor],
        tails: Sequence[HiftTail | None],
        generators: Sequence[torch.Generator | None],
        *,
        final: bool,
    ) -> tuple[list[Tensor], list[HiftTail | None]]:
        """Make the next samples of some rows.

        Args:
            mels: next frames [80, n] of each row, as many for each.
            tails: what the former call returned; None for the first chunk of a turn, for all rows or none.
            generators: one per row.
            final: give out everything.

        Returns:
            per row the samples, 3840 fewer than 480 n in a first chunk that is not final, and 3840 more in a last one
            that is not first; and the tails, None if final.
        """
        old = [tail for tail in tails if tail is not None]
        mel = torch.stack(list(mels))
        if old:
            mel = torch.cat([torch.stack([tail.mel for tail in old]), mel], dim=2)
        source = self._source(mel, generators)
        if old:
            source[:, :OVERLAP_SAMPLES] = torch.stack([tail.source for tail in old])
        speech = self._decode(mel, source)
        if old:
            fade = torch.from_numpy(np.hamming(2 * OVERLAP_SAMPLES)).to(speech)
            last = torch.stack([tail.speech for tail in old])
            speech[:, :OVERLAP_SAMPLES] *= fade[:OVERLAP_SAMPLES]
            speech[:, :OVERLAP_SAMPLES] += last * fade[OVERLAP_SAMPLES:]
        if final:
            return list(speech), [None] * len(mels)
        kept = zip(mel[:, :, -OVERLAP_FRAMES:], source[:, -OVERLAP_SAMPLES:], speech[:, -OVERLAP_SAMPLES:], strict=True)
        return list(speech[:, :-OVERLAP_SAMPLES]), [HiftTail(*(part.clone() for part in row)) for row in kept]

    def _source(self, mel: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
        return self.m_source(self.f0_predictor(mel), generators)

    def _decode(self, mel: Tensor, source: Tensor) -> Tensor:
        spectrum = stft(source, self.shape.n_fft, self.shape.hop)
        x = self.conv_pre(mel)
        kinds = len(self.shape.resblock_kernels)
        for level, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, LEAKY_SLOPE))
            if level == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[level](self.source_downs[level](spectrum))
            x = torch.stack([self.resblocks[level * kinds + kind](x) for kind in range(kinds)]).mean(dim=0)
        x = inverse_stft(self.conv_post(F.leaky_relu(x)), self.shape.n_fft, self.shape.hop)
        return x.clamp(-AUDIO_LIMIT, AUDIO_LIMIT)
