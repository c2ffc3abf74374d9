"""The analysers on signals whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.analysis import (
    active_level_db,
    back_after_s,
    down_after_s,
    first_audible_s,
    last_audible_s,
    levels_db,
    percentile,
    silent_stretches_s,
)
from duplex_server.types import Pcm

RATE_HZ = 24_000


def tone(duration_s: float, amplitude: float = 0.3) -> Pcm:
    return (amplitude * np.sin(2 * np.pi * 200 * np.arange(round(duration_s * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def silence(duration_s: float) -> Pcm:
    return np.zeros(round(duration_s * RATE_HZ), np.float32)


def speech(duration_s: float, seed: int = 1) -> Pcm:
    """Something with the rhythm of speech: vowels of 80 to 160 ms of varied level, soft gaps, a pause now and then."""
    dice = np.random.default_rng(seed)
    parts: list[Pcm] = []
    while sum(map(len, parts)) < duration_s * RATE_HZ:
        vowel = tone(dice.uniform(0.08, 0.16), 0.3 * 10 ** (-dice.uniform(0, 8) / 20))
        parts += [vowel * np.hanning(len(vowel)).astype(np.float32) ** 0.3, tone(dice.uniform(0.03, 0.08), 0.02)]
        if dice.random() < 0.06:
            parts.append(silence(dice.uniform(0.1, 0.3)))
    return np.concatenate(parts)[: round(duration_s * RATE_HZ)]


def with_gain(pcm: Pcm, start_s: float, end_s: float, gain_db: float) -> Pcm:
    shaped = pcm.copy()
    shaped[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] *= 10 ** (gain_db / 20)
    return shaped


def test_first_and_last_audible_sample_are_exact() -> None:
    track = np.concatenate([silence(1.0), np.full(2400, 0.1, np.float32), silence(1.0)])
    assert first_audible_s(track, RATE_HZ, 0.2) == 1.0
    assert last_audible_s(track, RATE_HZ, 0.2) == 1.1
    assert first_audible_s(track, RATE_HZ, 1.05) == 1.05
    assert last_audible_s(track, RATE_HZ, 0.0, 1.02) == 1.02


def test_codec_noise_is_not_audible() -> None:
    track = (0.001 * np.random.default_rng(0).standard_normal(RATE_HZ)).clip(-0.003, 0.003).astype(np.float32)
    assert first_audible_s(track, RATE_HZ, 0.0) is None
    assert last_audible_s(track, RATE_HZ, 0.0) is None


def test_silent_stretches_are_found_with_their_ends() -> None:
    sound = np.full(2400, 0.1, np.float32)
    track = np.concatenate([silence(0.5), sound, silence(0.2), sound, silence(0.1)])
    expected = [(0.1, 0.5), (0.6, 0.8), (0.9, 1.0)]
    assert silent_stretches_s(track, RATE_HZ, 0.1, 1.0) == [pytest.approx(stretch) for stretch in expected]
    assert silent_stretches_s(sound, RATE_HZ, 0.0, 0.1) == []


def test_level_of_a_tone() -> None:
    levels = levels_db(tone(1.0, 1.0), RATE_HZ)
    assert levels == pytest.approx(-3.01, abs=0.05)
    assert len(levels) == 197


def test_active_level_leaves_pauses_out() -> None:
    assert active_level_db(np.concatenate([tone(1.0), silence(3.0)]), RATE_HZ) == pytest.approx(-13.5, abs=0.2)


@pytest.mark.parametrize("seed", range(8))
def test_a_lowered_voice_is_down_when_the_gain_went_down(seed: int) -> None:
    heard = with_gain(speech(6.0, seed), 4.2, 6.0, -18)
    assert down_after_s(heard, RATE_HZ, 4.0, 5.5) == pytest.approx(0.2, abs=0.15)


def test_the_worst_of_many_lowered_voices_shows_the_gain_exactly() -> None:
    found = [down_after_s(with_gain(speech(6.0, seed), 4.2, 6.0, -18), RATE_HZ, 4.0, 5.5) for seed in range(40)]
    assert percentile(found, 95) == pytest.approx(0.2, abs=0.025)


def test_a_voice_that_is_lowered_too_little_is_not_down() -> None:
    heard = with_gain(speech(6.0, 3), 4.2, 6.0, -8)
    assert down_after_s(heard, RATE_HZ, 4.0, 5.5) > 0.8


def test_a_silent_voice_is_down() -> None:
    track = np.concatenate([speech(4.0), silence(2.0)])
    assert down_after_s(track, RATE_HZ, 4.5, 5.5) == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_a_voice_is_back_when_the_gain_is_back(seed: int) -> None:
    heard = with_gain(speech(8.0, seed), 4.2, 4.8, -18)
    back_s = back_after_s(heard, RATE_HZ, 4.0, 4.5, 7.0)
    assert back_s == pytest.approx(0.3, abs=0.15)


def test_a_pause_of_the_speaker_does_not_count_as_absence() -> None:
    track = np.concatenate([tone(4.0), silence(0.5), tone(1.0)])
    assert back_after_s(track, RATE_HZ, 3.5, 4.1, 5.5) == pytest.approx(0.02, abs=0.03)


def test_a_voice_that_was_never_lowered_is_back_at_once() -> None:
    back_s = back_after_s(speech(8.0, 2), RATE_HZ, 4.0, 4.5, 7.0)
    assert back_s is not None
    assert back_s <= 0.15


def test_a_voice_that_stops_does_not_come_back() -> None:
    assert back_after_s(np.concatenate([speech(4.2), silence(3.0)]), RATE_HZ, 4.0, 4.5, 7.0) is None


def test_percentiles_are_measured_figures() -> None:
    figures = [float(figure) for figure in range(1, 21)]
    assert percentile(figures, 50) == 10
    assert percentile(figures, 95) == 19
    assert percentile([3.0], 95) == 3.0
