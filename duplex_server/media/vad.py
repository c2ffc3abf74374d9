"""Voice activity: how likely it is that somebody speaks, and how loud it is, per 32 ms.

Knows nothing about turns; :mod:`duplex_server.session.turns` decides what speech means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duplex_server.media.pcm import level_db
from duplex_server.media.silero import WINDOW_SAMPLES, SileroStream
from duplex_server.types import INPUT_RATE_HZ, Pcm

__all__ = ["WINDOW_SAMPLES", "SileroDetector", "VoiceDetector", "VoiceWindow"]

_GATE_DB = -75.0
"""Windows below this level are called silence without asking the network.

The quietest microphones' own noise lies near −70 dBFS; a muted or missing microphone gives exact silence.
"""


_HANN = np.hanning(WINDOW_SAMPLES)
_HUM_BIN = 1000 * WINDOW_SAMPLES // INPUT_RATE_HZ
_HUM_SHARE = 0.03
"""15 dB: nasal murmurs have their only strong formant near 250 Hz and fall by more above 1 kHz, open vowels do
not. Source: Fant, Acoustic Theory of Speech Production, on nasal consonants."""


@dataclass(frozen=True, slots=True)
class VoiceWindow:
    """What was found in one window of input."""

    end_samples: int
    """Position of the window's end on the input clock, 16 kHz samples."""
    probability: float
    """That speech is in the window, 0..1."""
    level_db: float
    """RMS level of the window, dBFS."""
    pcm: Pcm
    """The window itself, float32 ``[512]``."""

    @property
    def hummed(self) -> bool:
        """Whether what is voiced in it is a closed-mouth hum ("mm", "hm"): next to nothing above 1 kHz."""
        power = np.abs(np.fft.rfft(self.pcm * _HANN)) ** 2
        return float(power[_HUM_BIN:].sum()) < _HUM_SHARE * float(power.sum())


class VoiceDetector(Protocol):
    """Finds speech in one stream of 16 kHz audio."""

    def push(self, pcm: Pcm) -> list[VoiceWindow]:
        """Take the next samples, float32 ``[n]``, and return the windows they complete, oldest first."""
        ...


class SileroDetector:
    """Silero VAD over one session's input. About 3 ms of CPU per second of audio."""

    def __init__(self) -> None:
        self._network = SileroStream()
        self._carry: Pcm = np.zeros(0, np.float32)
        self._end_samples = 0

    def push(self, pcm: Pcm) -> list[VoiceWindow]:
        """Take the next samples, float32 ``[n]``, and return the windows they complete, oldest first."""
        waiting = np.concatenate([self._carry, pcm])
        windows: list[VoiceWindow] = []
        start = 0
        while len(waiting) - start >= WINDOW_SAMPLES:
            window = waiting[start : start + WINDOW_SAMPLES].copy()
            start += WINDOW_SAMPLES
            self._end_samples += WINDOW_SAMPLES
            level = level_db(window)
            probability = self._network.probability(window) if level > _GATE_DB else 0.0
            windows.append(VoiceWindow(self._end_samples, probability, level, window))
        self._carry = waiting[start:]
        return windows
