"""Log-mel spectra: of a stream, a unit at a time, and of whole recordings (specification §3.1, 3.2).

Knows nothing about encoders. Runs on the host in float64 and rounds once, so that a stream's frames are those of the
whole recording, whatever pieces it came in; half a millisecond of one core per second of sound.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["HOP_SAMPLES", "UNIT_SAMPLES", "MelChunk", "StreamingMel", "log_mel", "mel_filters", "offline_mel"]

RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
N_BINS = 80
"""Whisper's feature extractor, as its preprocessor_config.json has it: 25 ms windows every 10 ms, 80 bins."""

HALF_SAMPLES = WINDOW_SAMPLES // 2
"""A frame is centred: frame f sees the samples from 160 f - 200 to 160 f + 200."""

UNIT_SAMPLES = RATE_HZ
"""What a stream takes at a time."""
UNIT_FRAMES = UNIT_SAMPLES // HOP_SAMPLES

POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
"""In decades: what lies further below the loudest bin is raised to there. Source: Whisper."""

PIECE_SAMPLES = 30 * RATE_HZ
"""Whisper hears 30 s at a time."""

SLIDE_SAMPLES = 10 * RATE_HZ
"""What the stream's memory loses when it reaches 30 s. Source: specification §3.1."""

EDGE_SAMPLES = HOP_SAMPLES + HALF_SAMPLES
"""What the two frames at a mirrored edge see of the sound."""

FIXED_FLOOR_SAMPLES = 5 * RATE_HZ
"""A stream shorter than this has no floor below its loudest bin. Source: specification §3.1."""

STRICT_LEAD_SAMPLES = 560
STRICT_LAG_SAMPLES = 80
"""The official code pads the first unit to 1.035 s, and takes 1.03 s of that. Source: specification §3.1, §9.2 i."""

Pcm = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MelChunk:
    """Frames for the encoder: those of a unit, and some of context around them that give the convolutions their edges.

    Attributes:
        frames: float32 ``[80, left + unit + right]``.
        left: frames of context before the unit's.
        right: frames of context after the unit's.
    """

    frames: npt.NDArray[np.float32]
    left: int
    right: int


class StreamingMel:
    """The log-mel frames of one conversation's sound, one unit of a second at a time.

    Equal to the spectrum of everything heard in the last 20 to 30 s, computed anew for every unit, but only new frames
    are computed: the loudest bin of each old frame is kept for the floor, and of the sound what the next frames need.

    A unit's last frames need samples that come after it, so the frames lag behind the sound: by 22.5 ms, filled with
    silence before the first unit. In ``strict_parity`` the lag is 35 ms and the last 5 ms of every unit wait for the
    next one, as in the official code with clients that send whole seconds.

    Args:
        strict_parity: lag as the official code does.
        context: frames of context on both sides of a unit: 2 in duplex, 0 in half duplex.
    """

    def __init__(self, *, strict_parity: bool = False, context: int = 2) -> None:
        self._strict = strict_parity
        self._context = context
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        # The last context frame of a unit ends half a window after its centre: that much must have been heard.
        needed = (UNIT_FRAMES + self._context - 1) * HOP_SAMPLES + HALF_SAMPLES
        lead = STRICT_LEAD_SAMPLES if self._strict else needed - UNIT_SAMPLES
        self._lag = STRICT_LAG_SAMPLES if self._strict else 0
        self._waiting: Pcm = np.zeros(lead, np.float32)
        self._tail = np.zeros(0, np.float64)  # the newest of what was heard
        self._n_samples = 0  # heard since the memory's beginning
        self._loudest = np.zeros(0, np.float64)  # of each frame since then that no later sample can change
        self._newest = np.zeros((0, N_BINS), np.float64)  # the last frames of ``_loudest`` in full
        self._edges: list[npt.NDArray[np.float64]] = []  # at most 3: where the memory will begin after it slides
        self._n_units = 0

    def feed(self, pcm: Pcm) -> MelChunk:
        """Take the next unit and return its frames.

        Args:
            pcm: float32 ``[16000]``, 16 kHz, -1 to 1.

        Returns:
            100 frames between two frames of context on each side; none on the left of the first unit.

        Raises:
            ValueError: ``pcm`` is not one second; nothing was taken.
        """
        if pcm.shape != (UNIT_SAMPLES,):
            raise ValueError(f"a unit has {UNIT_SAMPLES} samples, not {pcm.shape}")
        heard = np.concatenate([self._waiting, pcm])
        heard, self._waiting = heard[: len(heard) - self._lag], heard[len(heard) - self._lag :]
        self._append(heard.astype(np.float64))
        unstable = self._settle()
        left = self._context if self._n_units else 0
        chunk = self._newest[: left + UNIT_FRAMES + self._context]
        floor = -math.inf
        if self._n_samples >= FIXED_FLOOR_SAMPLES:
            floor = max(self._loudest.max(), unstable) - DYNAMIC_RANGE
        self._newest = self._newest[len(chunk) - 2 * self._context :]
        self._n_units += 1
        return MelChunk(_scaled(chunk, floor), left, self._context)

    def _append(self, heard: npt.NDArray[np.float64]) -> None:
        """Add samples, and forget the oldest ten seconds once there are thirty."""
        begin = self._n_samples - len(self._tail)
        sound = np.concatenate([self._tail, heard])
        self._tail, self._n_samples = sound, self._n_samples + len(heard)
        edge = (len(self._edges) + 1) * SLIDE_SAMPLES
        if self._n_samples >= edge + EDGE_SAMPLES:
            # The tail reaches back far enough: one sample less, and the frame at the edge would not have been settled.
            self._edges.append(sound[edge - begin :][:EDGE_SAMPLES])
        if self._n_samples >= PIECE_SAMPLES:
            self._n_samples -= SLIDE_SAMPLES
            self._loudest = self._loudest[SLIDE_SAMPLES // HOP_SAMPLES :]
            # The first two frames now see the memory's edge, mirrored: no frame is handed out from there any more, but
            # they count for the floor.
            mirrored = _log_power(_windows(_mirrored(self._edges.pop(0), left=True), 2))
            self._loudest[:2] = mirrored.max(axis=1)

    def _settle(self) -> float:
        """Compute the frames that are complete now; return the loudest bin of those that are not."""
        n_stable = (self._n_samples - HALF_SAMPLES) // HOP_SAMPLES + 1
        n_known = len(self._loudest)
        n_unstable = self._n_samples // HOP_SAMPLES - n_stable
        sound = self._tail if n_known else _mirrored(self._tail, left=True)
        # Of the stable frames only the very first ones see a mirrored edge, of the others all samples are there.
        stable = _log_power(_windows(sound, n_stable - n_known))
        self._loudest = np.concatenate([self._loudest, stable.max(axis=1)])
        self._newest = np.concatenate([self._newest, stable])
        used = (n_stable - n_known) * HOP_SAMPLES
        self._tail = sound[used:]
        if not n_unstable:
            return -math.inf
        return float(_log_power(_windows(_mirrored(self._tail, right=True), n_unstable)).max())


def offline_mel(pcm: Pcm) -> list[npt.NDArray[np.float32]]:
    """Return the log-mel frames of a recording, float32 ``[80, F]`` for each 30 s, one for every 10 ms begun.

    Every piece has a floor of its own, as if it stood in 30 s of silence.

    Args:
        pcm: float32 ``[n]``, 16 kHz, -1 to 1.
    """
    pieces = [pcm[i : i + PIECE_SAMPLES] for i in range(0, len(pcm), PIECE_SAMPLES)]
    return [_piece(piece) for piece in pieces]


def _piece(pcm: Pcm) -> npt.NDArray[np.float32]:
    n_frames = -(-len(pcm) // HOP_SAMPLES)
    # Silence up to 30 s would only add frames at the power floor, so a window's worth of it stands for all.
    padded = np.zeros(min(n_frames * HOP_SAMPLES + WINDOW_SAMPLES, PIECE_SAMPLES), np.float64)
    padded[: len(pcm)] = pcm
    frames = log_mel(padded, -(-len(padded) // HOP_SAMPLES))
    return _scaled(frames[:n_frames], frames.max() - DYNAMIC_RANGE)


def log_mel(sound: npt.NDArray[np.float64], n_frames: int) -> npt.NDArray[np.float64]:
    """Return the decadic logarithm of the mel power of the first ``n_frames`` centred frames, ``[n_frames, 80]``.

    Both ends are mirrored.
    """
    return _log_power(_windows(_mirrored(sound, left=True, right=True), n_frames))


def _mirrored(sound: npt.NDArray[np.float64], *, left: bool = False, right: bool = False) -> npt.NDArray[np.float64]:
    return np.pad(sound, (HALF_SAMPLES * left, HALF_SAMPLES * right), mode="reflect")


def _windows(sound: npt.NDArray[np.float64], n_frames: int) -> npt.NDArray[np.float64]:
    """Return ``[n_frames, 400]``, the first frame at the first sample."""
    return np.lib.stride_tricks.sliding_window_view(sound, WINDOW_SAMPLES)[::HOP_SAMPLES][:n_frames]


def _log_power(windows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(windows * _hann(WINDOW_SAMPLES))
    power = spectrum.real**2 + spectrum.imag**2
    mel = power @ mel_filters(N_BINS, WINDOW_SAMPLES, RATE_HZ, RATE_HZ / 2).T
    return np.log10(np.maximum(mel, POWER_FLOOR))


def _scaled(frames: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float32]:
    """Return the encoder's input, ``[80, F]``. Source of the scale: Whisper."""
    return np.ascontiguousarray(((np.maximum(frames, floor) + 4) / 4).T, np.float32)


@functools.cache
def _hann(n_samples: int) -> npt.NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_samples) / n_samples)


@functools.cache
def mel_filters(n_bins: int, window_samples: int, rate_hz: int, highest_hz: float) -> npt.NDArray[np.float64]:
    """Return triangular filters of one area on the mel scale from 0 Hz, ``[n_bins, window_samples // 2 + 1]``.

    The scale is that of Slaney's Auditory Toolbox (1998): linear below 1 kHz, then 27 steps for a factor of 6.4.
    """
    mels = np.linspace(0, _mel_of(highest_hz), n_bins + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    frequencies = np.linspace(0, rate_hz / 2, window_samples // 2 + 1)
    below, centre, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - below) / (centre - below), (above - frequencies) / (above - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (above - below)


def _mel_of(frequency_hz: float) -> float:
    if frequency_hz < 1000:
        return frequency_hz * 3 / 200
    return 15 + 27 * math.log(frequency_hz / 1000, 6.4)
