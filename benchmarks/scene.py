"""What a microphone hears: clips at known samples, sounds that go on and on, and the loudspeaker's echo.

Pure; positions are samples at 24 kHz on the clock that microphone and loudspeaker share. Nothing is clipped or mixed
but by adding: what is said at a sample is in the microphone at that sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.noise import EchoPath
from benchmarks.speech import RATE_HZ
from duplex_server.types import Pcm

__all__ = ["Scene", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """From the first to the last audible sample of a clip, seconds on the scene's clock."""

    start_s: float
    end_s: float


class Scene:
    """A room with one microphone.

    Args:
        echo: how the loudspeaker is heard in it, if at all.
    """

    def __init__(self, echo: EchoPath | None = None) -> None:
        self._echo = echo
        self._clips: list[tuple[int, Pcm]] = []  # start and samples; dropped once they are over
        self._bed: Pcm | None = None
        self._bed_start = 0

    def add(self, clip: Pcm, start_samples: int) -> Span:
        """Let a clip, trimmed to what is audible, be heard from a sample on; it must not lie in the past."""
        self._clips.append((start_samples, clip))
        return Span(start_samples / RATE_HZ, (start_samples + len(clip)) / RATE_HZ)

    def set_bed(self, sound: Pcm | None, start_samples: int) -> None:
        """Let a sound be heard over and over from a sample on, in place of the one before; None for quiet."""
        self._bed, self._bed_start = sound, start_samples

    def heard(self, start_samples: int, n_samples: int, played: Pcm) -> Pcm:
        """Return what the microphone hears, float32 ``[n_samples]``; calls go forward in time.

        Args:
            start_samples: first sample.
            n_samples: how many.
            played: everything that the loudspeaker has played from sample 0 on, at least up to the end of the span.
        """
        end = start_samples + n_samples
        sound = np.zeros(n_samples, np.float32)
        for clip_start, clip in self._clips:
            first, last = max(clip_start, start_samples), min(clip_start + len(clip), end)
            if first < last:
                sound[first - start_samples : last - start_samples] += clip[first - clip_start : last - clip_start]
        self._clips = [(clip_start, clip) for clip_start, clip in self._clips if clip_start + len(clip) > end]
        if self._bed is not None:
            first = max(self._bed_start, start_samples)
            positions = np.arange(first - self._bed_start, end - self._bed_start) % len(self._bed)
            sound[first - start_samples :] += self._bed[positions]
        if self._echo is not None:
            sound += self._echo.heard(played, start_samples, n_samples)
        return sound
