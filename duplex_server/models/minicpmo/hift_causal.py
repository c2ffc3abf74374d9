"""The causal HiFT vocoder: mel frames to 24 kHz samples in a stream that equals the whole exactly.

Knows nothing about speech tokens or turns. It runs in float32, its F0 predictor and phase in float64: a phase is a sum
over the whole turn. Its noise is a fixed table, indexed by the sample's position in the turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    ResBlock,
    downsampling_of_source,
    inverse_stft,
    resblocks,
    stft,
)
from duplex_server.models.minicpmo.replays import Replays, at_least
from duplex_server.models.minicpmo.token2wav_layout import HiftSizes

__all__ = ["RECORDED_ROWS", "CausalHift", "CausalTail", "source_noise"]

NOISE_S = 30
"""Period of our noise table. The official one is 300 s long, which is 260 MB on the device for a hiss."""
RECORDED_ROWS = (1, 4)
"""Rows for which the network is recorded. Ours: with more, computing takes longer than telling the GPU what."""
_CHUNK_FRAMES = 50
"""Of what is recorded: a second. Turns that begin with less have shapes of their own, which may be any."""
F0_HISTORY = 8
"""Frames to the left that a value of F0 depends on: four convolutions of three."""


def source_noise(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The noise of the source signal, uniform in [0, 1) as in the official code: [samples, 9] float32."""
    drawn = torch.rand(NOISE_S * SAMPLE_RATE_HZ, HARMONICS, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device)


@dataclass(slots=True)
class CausalTail:
    """What one row's next chunk begins with.

    Attributes:
        mel: frames from ``start`` on that later ones still need [80, up to 39].
        source: source signal from ``start`` on [480 · frames, up to 36 frames].
        phase: of each harmonic, in cycles, float64 [9].
        start: number of the first frame held.
        voiced: frames that have a source signal.
        spoken: frames given out.
    """

    mel: Tensor
    source: Tensor
    phase: Tensor
    start: int = 0
    voiced: int = 0
    spoken: int = 0

    @property
    def window(self) -> tuple[int, int, int]:
        """Shape of what is held: rows of equal windows can go through the network together."""
        return self.mel.shape[1], self.voiced - self.start, self.spoken - self.start


class _CausalF0(nn.Module):
    """Mel [B, 80, T] to F0 in Hz; the first convolution looks three frames ahead."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(MEL_BINS, channels, kernel), nn.ELU()]
        for _ in range(4):
            layers += [nn.Conv1d(channels, channels, 3), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Map [B, 80, T + 3] float64 to [B, T]."""
        for layer in self.condnet:
            if isinstance(layer, nn.Conv1d) and layer is not self.condnet[0]:
                mel = F.pad(mel, (2, 0))
            mel = layer(mel)
        return self.classifier(mel.transpose(1, 2)).squeeze(-1).abs()


class _Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)


class CausalHift(nn.Module):
    """Tensor names are those of ``hift.pt`` (causal layout), with weight norm folded."""

    def __init__(self, sizes: HiftSizes) -> None:
        super().__init__()
        self.shape = shape = HiftShape(sizes)
        self.m_source = _Mix()
        self.conv_pre = nn.Conv1d(MEL_BINS, shape.channels, shape.conv_pre_kernel)
        widths = [shape.channels, *shape.channels_at]
        self.ups = nn.ModuleList(
            nn.Conv1d(widths[i], widths[i + 1], kernel) for i, kernel in enumerate(shape.upsample_kernels)
        )
        self.source_downs = nn.ModuleList(
            nn.Conv1d(shape.n_fft + 2, width, 1 if step == 1 else 2 * step, step)
            for width, step in zip(widths[1:], downsampling_of_source(shape), strict=True)
        )
        self.source_resblocks, self.resblocks = resblocks(shape, causal=True)
        self.conv_post = nn.Conv1d(widths[-1], shape.n_fft + 2, 7)
        self.f0_predictor = _CausalF0(sizes.f0_size, shape.f0_kernel)
        self.f0_ahead, self.pre_ahead = shape.f0_kernel - 1, shape.conv_pre_kernel - 1
        self.history = self._history()

    def compute_buffers(self, device: torch.device) -> None:
        """Turn the F0 predictor's weights to float64; called once they are loaded."""
        self.f0_predictor.to(device).double()

    @property
    def delay_frames(self) -> int:
        """Frames that a chunk which is not final holds back: 3 for F0, 4 for the first layer, 1 for the last: 8."""
        return self.f0_ahead + self.pre_ahead + 1

    def begin(self) -> CausalTail:
        """A row's state before its turn's first frame."""
        like = self.conv_pre.weight
        return CausalTail(
            like.new_empty(MEL_BINS, 0), like.new_empty(0), like.new_zeros(HARMONICS, dtype=torch.float64)
        )

    @torch.inference_mode()
    def step(
        self,
        mels: Sequence[Tensor],
        tails: Sequence[CausalTail],
        noise: Tensor,
        *,
        final: bool,
        replays: Replays | None = None,
    ) -> list[Tensor]:
        """Make the next samples of rows whose windows have the same shape; their tails are updated.

        Args:
            mels: next frames [80, n] of each row.
            tails: one per row, of equal ``window``.
            noise: table [samples, 9].
            final: nothing follows, so give out everything.
            replays: recordings of the network's device; None: nothing is recorded.

        Returns:
        XX
        """
        first = tails[0]
        mel = torch.cat([torch.stack([tail.mel for tail in tails]), torch.stack(list(mels))], dim=2)
        end = mel.shape[2]  # frames count from the window's start in this function
        voiced, spoken = first.voiced - first.start, first.spoken - first.start
        voiced_to = end if final else max(voiced, end - self.f0_ahead)
        spoken_to = end if final else max(spoken, end - self.delay_frames)
        source = torch.stack([tail.source for tail in tails])
        if voiced_to > voiced:
            f0 = self._f0(mel, voiced, voiced_to, final)
            source = torch.cat([source, self._source(f0, tails, noise)], dim=1)
        speech = mel.new_empty(len(tails), 0)
        if spoken_to > spoken:
            per_mel = self.shape.samples_per_mel
            speech = self._decode(mel[:, :, :voiced_to], source, final, replays)[
                :, spoken * per_mel : spoken_to * per_mel
            ]
        drop = max(0, spoken_to - self.history)
        for row, tail in enumerate(tails):
            tail.voiced, tail.spoken = tail.start + voiced_to, tail.start + spoken_to
            tail.start += drop
            tail.mel = mel[row, :, drop:].clone()
            tail.source = source[row, drop * self.shape.samples_per_mel :].clone()
        return list(speech)

    def _f0(self, mel: Tensor, begin: int, end: int, final: bool) -> Tensor:
        """F0 in Hz of the window's frames ``begin`` to ``end``: float64 [B, end - begin]."""
        left = max(0, begin - F0_HISTORY)
        seen = mel[:, :, left:].double()
        if final:
            seen = F.pad(seen, (0, self.f0_ahead))
        return self.f0_predictor(seen)[:, begin - left : end - left]

    def _source(self, f0: Tensor, tails: Sequence[CausalTail], noise: Tensor) -> Tensor:
        """Source signal [B, 480 · frames] that continues the rows' phases."""
        per_mel = self.shape.samples_per_mel
        harmonic = torch.arange(1, HARMONICS + 1, device=f0.device, dtype=torch.float64)
        step = f0[..., None] * harmonic * (per_mel / SAMPLE_RATE_HZ)  # cycles per frame [B, frames, 9]
        phase = (torch.cumsum(step, dim=1) + torch.stack([tail.phase for tail in tails])[:, None]) % 1.0
        for row, tail in enumerate(tails):
            tail.phase = phase[row, -1].clone()
        # The phase stands still within a frame: the published vocoder was trained so.
        sines = (SINE_AMPLITUDE * torch.sin(2 * math.pi * phase)).float().repeat_interleave(per_mel, dim=1)
        voiced = (f0 > VOICED_ABOVE_HZ).float().repeat_interleave(per_mel, dim=1)[..., None]
        count = torch.arange(f0.shape[1] * per_mel, device=f0.device)
        places = torch.tensor([tail.voiced * per_mel for tail in tails], device=f0.device)[:, None] + count
        hiss = (voiced * NOISE_STD + (1 - voiced) * SINE_AMPLITUDE / 3) * noise[places % noise.shape[0]]
        return torch.tanh(self.m_source.l_linear(sines * voiced + hiss)).squeeze(-1)

    def _decode(self, mel: Tensor, source: Tensor, final: bool, replays: Replays | None) -> Tensor:
        """Samples [B, 480 · frames] of the window; not final: five frames fewer than ``mel`` has."""
        shape = self.shape
        spectrum = stft(source, shape.n_fft, shape.hop)
        if final:
            mel = F.pad(mel, (0, self.pre_ahead))
        else:
            spectrum = spectrum[:, :, : -self.pre_ahead * shape.stft_frames_per_mel]
        # The ends of turns are of any length: not worth a recording.
        x = self._network(mel, spectrum) if replays is None or final else self._recorded(mel, spectrum, replays)
        speech = inverse_stft(x, shape.n_fft, shape.hop).clamp(-AUDIO_LIMIT, AUDIO_LIMIT)
        return speech if final else speech[:, : -shape.samples_per_mel]

    def _recorded(self, mel: Tensor, spectrum: Tensor, replays: Replays) -> Tensor:
        kept = self.history + self.delay_frames  # of a turn's past, from its second chunk on
        usual = {past + _CHUNK_FRAMES - self.f0_ahead for past in (0, kept)}
        if len(mel) > RECORDED_ROWS[-1] or mel.shape[2] not in usual:
            return self._network(mel, spectrum)
        n_rows = at_least(len(mel), RECORDED_ROWS, RECORDED_ROWS[-1])
        key = (self, n_rows, mel.shape[2], spectrum.shape[2])

        def make() -> tuple[Tensor, Tensor]:
            return mel.new_zeros(n_rows, *mel.shape[1:]), spectrum.new_zeros(n_rows, *spectrum.shape[1:])

        for buffer, given in zip(replays.buffers(key, make), (mel, spectrum), strict=True):
            buffer[: len(given)] = given
        return replays.run(key, self._network)[: len(mel)]

    def _network(self, mel: Tensor, spectrum: Tensor) -> Tensor:
        """From mel frames and the source's spectrum to what the samples are made of."""
        shape = self.shape
        x = self.conv_pre(mel)
        kinds, downs = len(shape.resblock_kernels), downsampling_of_source(shape)
        for level, (up, rate) in enumerate(zip(self.ups, shape.upsample_rates, strict=True)):
            x = F.leaky_relu(x, LEAKY_SLOPE).repeat_interleave(rate, dim=2)
            x = up(F.pad(x, (shape.upsample_kernels[level] - 1, 0)))
            if level == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            thinned = self.source_downs[level](F.pad(spectrum, (downs[level] - 1, 0)))
            x = x + self.source_resblocks[level](thinned)
            x = torch.stack([self.resblocks[level * kinds + kind](x) for kind in range(kinds)]).mean(dim=0)
        return self.conv_post(F.pad(F.leaky_relu(x), (self.conv_post.kernel_size[0] - 1, 0)))

    def _history(self) -> int:
        """Frames to the left of a frame that its samples depend on, from the layers' kernels.

        Counted from the output to the input, in the steps of each level.
        """
        shape = self.shape
        kinds = len(shape.resblock_kernels)
        around_stft = shape.n_fft // 2 // shape.hop  # steps beside a sample that overlap it
        reach = around_stft + self.conv_post.kernel_size[0] - 1
        through_source = 0.0
        for level in reversed(range(len(self.ups))):
            blocks = self.resblocks[level * kinds : (level + 1) * kinds]
            reach += max(block.history() for block in blocks if isinstance(block, ResBlock))
            source_block, down = self.source_resblocks[level], self.source_downs[level]
            assert isinstance(source_block, ResBlock) and isinstance(down, nn.Conv1d)
            steps = (reach + source_block.history()) * down.stride[0] + down.kernel_size[0] - 1 + around_stft
            through_source = max(through_source, steps / shape.stft_frames_per_mel)
            reach += shape.upsample_kernels[level] - 1 + (level == len(self.ups) - 1)
            reach = math.ceil(reach / shape.upsample_rates[level])
        return math.ceil(max(through_source, reach))
