"""What else a microphone hears: noise, keys, coughs, people in the background, and the loudspeaker.

All made here from random numbers, so that a run can be repeated; nothing is a recording.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.speech import RATE_HZ, at_level
from duplex_server.types import Pcm

__all__ = ["EchoPath", "at_intervals", "babble", "cough", "far_away", "hum", "keyboard", "pink", "white"]


def _at_rms_db(pcm: Pcm, level_db: float) -> Pcm:
    rms = float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))))
    scaled: Pcm = (pcm * (10 ** (level_db / 20) / rms)).astype(np.float32)
    return scaled


def white(duration_s: float, level_db: float, seed: int = 0) -> Pcm:
    """Return white noise, float32 ``[n]`` at 24 kHz with an RMS of ``level_db``."""
    return _at_rms_db(np.random.default_rng(seed).standard_normal(round(duration_s * RATE_HZ), np.float32), level_db)


def pink(duration_s: float, level_db: float, seed: int = 0) -> Pcm:
    """Return noise whose power falls by 3 dB per octave above 50 Hz: a fan, a street."""
    n_samples = round(duration_s * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n_samples))
    frequencies_hz = np.maximum(np.fft.rfftfreq(n_samples, 1 / RATE_HZ), 50.0)
    return _at_rms_db(np.fft.irfft(spectrum / np.sqrt(frequencies_hz), n_samples).astype(np.float32), level_db)


def hum(duration_s: float, level_db: float) -> Pcm:
    """Return mains hum: 50 Hz and its first odd and even overtones."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    tones = [
        amplitude * np.sin(2 * np.pi * 50 * n * time_s) for n, amplitude in ((1, 1.0), (2, 0.6), (3, 0.4), (5, 0.2))
    ]
    return _at_rms_db(np.sum(tones, axis=0).astype(np.float32), level_db)


def keyboard(duration_s: float, peak_db: float, seed: int = 0) -> Pcm:
    """Return typing at 4 to 9 strokes a second: each a click of 8 ms, a knock of the key's bottom, and its release."""
    dice = np.random.default_rng(seed)
    track = np.zeros(round(duration_s * RATE_HZ), np.float32)
    at_s = dice.uniform(0.05, 0.3)
    while at_s < duration_s - 0.3:
        for delay_s, length_s, loudness in (
            (0.0, 0.008, 1.0),
            (0.012, 0.02, 0.5),
            (dice.uniform(0.06, 0.12), 0.006, 0.4),
        ):
            click = dice.standard_normal(round(length_s * RATE_HZ)) * np.exp(
                -np.linspace(0, 6, round(length_s * RATE_HZ))
            )
            start = round((at_s + delay_s) * RATE_HZ)
            track[start : start + len(click)] += (loudness * dice.uniform(0.5, 1.0) * click).astype(np.float32)
        at_s += dice.uniform(0.11, 0.25)
    return track * np.float32(10 ** (peak_db / 20) / np.abs(track).max())


def cough(level_db: float, seed: int = 0) -> Pcm:
    """Return a cough: one to three sharp bursts of noise, the later ones softer, mostly at 400 to 3500 Hz."""
    dice = np.random.default_rng(seed)
    bursts: list[Pcm] = []
    for number in range(int(dice.integers(1, 4))):
        n_samples = round(dice.uniform(0.12, 0.25) * RATE_HZ)
        spectrum = np.fft.rfft(dice.standard_normal(n_samples))
        frequencies_hz = np.fft.rfftfreq(n_samples, 1 / RATE_HZ)
        shape = 1 / (1 + (400 / np.maximum(frequencies_hz, 1)) ** 2) / (1 + (frequencies_hz / 3500) ** 4)
        burst = np.fft.irfft(spectrum * shape, n_samples) * np.exp(-np.linspace(0, 5, n_samples)) * 0.7**number
        bursts += [burst.astype(np.float32), np.zeros(round(dice.uniform(0.05, 0.15) * RATE_HZ), np.float32)]
    return at_level(np.concatenate(bursts[:-1]), level_db)


def babble(clips: Sequence[Pcm], duration_s: float, level_db: float, seed: int = 0) -> Pcm:
    """Return several people talking at once: each clip goes round and round from a random start.

    Args:
        clips: one for each person, float32 at 24 kHz.
        duration_s: length of the result.
        level_db: RMS of the result, dBFS.
        seed: of the starts.
    """
    dice = np.random.default_rng(seed)
    n_samples = round(duration_s * RATE_HZ)
    people = [np.resize(np.roll(clip, int(dice.integers(len(clip)))), n_samples) for clip in clips]
    return _at_rms_db(np.sum(people, axis=0).astype(np.float32), level_db)


def _reverberation(decay_s: float, seed: int) -> Pcm:
    """Return a room's impulse response after the direct sound: noise that falls by 60 dB in ``decay_s``."""
    n_samples = round(decay_s * RATE_HZ)
    fall = 10 ** (-3 * np.arange(n_samples) / n_samples)
    tail: Pcm = (np.random.default_rng(seed).standard_normal(n_samples) * fall).astype(np.float32)
    return tail


def far_away(pcm: Pcm, level_db: float, seed: int = 0) -> Pcm:
    """Return a clip as from across the room: as much reverberation (0.3 s) as direct sound, at ``level_db``."""
    tail = _reverberation(0.3, seed)
    room = np.concatenate([np.ones(1, np.float32), tail / np.linalg.norm(tail)])
    return at_level(np.convolve(pcm, room)[: len(pcm)].astype(np.float32), level_db)


class EchoPath:
    """The way from the loudspeaker through the room back into the microphone.

    Args:
        delay_ms: of the direct sound: buffers, converters and air.
        gain_db: RMS of what arrives, relative to what was played.
        decay_ms: reverberation time (60 dB).
        seed: of the room.
    """

    def __init__(self, delay_ms: float, gain_db: float, *, decay_ms: float = 150.0, seed: int = 0) -> None:
        tail = _reverberation(decay_ms / 1000, seed)
        # As much energy in the room's answer as in the direct sound: a loudspeaker at arm's length.
        response = np.concatenate([np.ones(1, np.float32), tail / np.linalg.norm(tail)])
        gain = 10 ** (gain_db / 20) / float(np.linalg.norm(response))
        self._response: Pcm = (response * gain).astype(np.float32)
        self._delay_samples = round(delay_ms * RATE_HZ / 1000)

    def heard(self, played: Pcm, start_samples: int, n_samples: int) -> Pcm:
        """Return the echo at the microphone, float32 ``[n_samples]`` from ``start_samples`` on.

        Args:
            played: everything the loudspeaker has played from time 0 on.
            start_samples: position on the clock that both share.
            n_samples: how much to return.
        """
        end = start_samples - self._delay_samples + n_samples
        start = end - n_samples - len(self._response) + 1
        source = np.zeros(end - start)
        known = played[max(0, start) : max(0, end)]
        offset = max(0, -start)
        source[offset : offset + len(known)] = known
        echo: Pcm = np.convolve(source, self._response, "valid").astype(np.float32, copy=False)
        return echo


def at_intervals(clips: Sequence[Pcm], duration_s: float, every_s: float, seed: int = 0) -> Pcm:
    """Return the clips in turn, each at a random moment of its own interval, until the time is over."""
    dice = np.random.default_rng(seed)
    track = np.zeros(round(duration_s * RATE_HZ), np.float32)
    for n in range(int(duration_s / every_s)):
        clip = clips[n % len(clips)]
        start = round((n + dice.uniform(0, 0.5)) * every_s * RATE_HZ)
        end = min(len(track), start + len(clip))
        track[start:end] += clip[: end - start]
    return track
