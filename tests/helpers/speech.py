"""What a user says to a model in tests: espeak-ng in several voices, noise around it, and units made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from duplex_server.media.pcm import level_db
from duplex_server.media.resample import resample
from duplex_server.media.vad import SileroDetector
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Floor, Pcm, Unit

__all__ = ["SPEAKERS", "USER_DB", "UserVoice", "noise", "place", "silence", "units_of"]

SPEAKERS = ("gmw/en-US", "gmw/en-US+f3", "gmw/en-US+m4", "gmw/en-GB-scotland")
"""Voices that differ in sex, pitch and accent."""
USER_DB = -23.0
"""Level of speech at a microphone with gain control, dBFS."""
_AUDIBLE = 0.003


class UserVoice:
    """Speaks as a user; clips are kept, as no two renderings are the same."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._clips: dict[tuple[str, str, float, float], Pcm] = {}

    def say(self, text: str, speaker: str = SPEAKERS[0], *, rate: float = 0.95, at_db: float = USER_DB) -> Pcm:
        """Return a text as speech, float32 ``[n]`` at 16 kHz, from its first audible sample to its last."""
        key = text, speaker, rate, at_db
        if key not in self._clips:
            spoken = self._voice.speak(text, voice=speaker, rate=rate).pcm
            clip = resample(spoken, OUTPUT_RATE_HZ, INPUT_RATE_HZ)
            loud = clip[np.abs(clip) > 0.05 * np.abs(clip).max()]
            clip = np.clip(clip * 10 ** ((at_db - level_db(loud)) / 20), -1, 1).astype(np.float32)
            audible = np.flatnonzero(np.abs(clip) > _AUDIBLE)
            self._clips[key] = clip[audible[0] : audible[-1] + 1]
        return self._clips[key]


def silence(duration_s: float) -> Pcm:
    """Return digital silence, float32 at 16 kHz."""
    return np.zeros(round(duration_s * INPUT_RATE_HZ), np.float32)


def noise(duration_s: float, at_db: float = -60.0, seed: int = 0) -> Pcm:
    """Return white noise of a level in dBFS, float32 at 16 kHz."""
    samples = np.random.default_rng(seed).standard_normal(round(duration_s * INPUT_RATE_HZ), np.float32)
    loudness = np.float32(10 ** (at_db / 20))
    return samples * loudness


def place(track: Pcm, clip: Pcm, at_s: float) -> float:
    """Mix a clip into a track; returns when it ends, in seconds."""
    start = round(at_s * INPUT_RATE_HZ)
    track[start : start + len(clip)] += clip[: len(track) - start]
    return at_s + len(clip) / INPUT_RATE_HZ


def units_of(
    track: Pcm,
    unit_ms: int,
    *,
    probabilities: Sequence[float] | None = None,
    floor: Floor = Floor.FREE,
    first_index: int = 0,
) -> Iterator[Unit]:
    """Cut a track into units, with the probabilities of speech that the session's own detector finds.

    Args:
        track: float32 at 16 kHz; a rest that fills no unit is dropped.
        unit_ms: length of a unit.
        probabilities: one for each unit, instead of the detector's.
        floor: of all units.
        first_index: index of the first unit.
    """
    detector = SileroDetector() if probabilities is None else None
    n_samples = unit_ms * INPUT_RATE_HZ // 1000
    for number in range(len(track) // n_samples):
        audio = track[number * n_samples : (number + 1) * n_samples]
        if detector is None:
            assert probabilities is not None
            probability = probabilities[number]
        else:
            probability = max((window.probability for window in detector.push(audio)), default=0.0)
        yield Unit(first_index + number, audio, probability, floor=floor)
