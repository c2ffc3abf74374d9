"""Made-up sounds have the level, the length and the timing that they claim."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.analysis import active_level_db
from benchmarks.noise import EchoPath, babble, cough, far_away, hum, keyboard, pink, white
from benchmarks.speech import RATE_HZ, at_level, trimmed
from duplex_server.types import Pcm


def rms_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64))))


def tone(duration_s: float, frequency_hz: float) -> Pcm:
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


@pytest.mark.parametrize("noise", [white(2, -40), pink(2, -40), hum(2, -40), babble([tone(1, 200)], 2, -40)])
def test_steady_noise_has_its_level(noise: Pcm) -> None:
    assert len(noise) == 2 * RATE_HZ
    assert noise.dtype == np.float32
    assert rms_db(noise) == pytest.approx(-40, abs=0.1)


def test_pink_noise_falls_by_3_db_per_octave() -> None:
    power = np.abs(np.fft.rfft(pink(20, -20))) ** 2
    frequencies_hz = np.fft.rfftfreq(20 * RATE_HZ, 1 / RATE_HZ)

    def band_db(low_hz: float) -> float:
        return float(10 * np.log10(power[(frequencies_hz >= low_hz) & (frequencies_hz < 1.1 * low_hz)].mean()))

    assert band_db(500) - band_db(4000) == pytest.approx(9, abs=0.7)


def test_keys_are_short_and_peak_where_they_should() -> None:
    keys = keyboard(10, -20)
    assert np.abs(keys).max() == pytest.approx(0.1, rel=0.01)
    assert np.mean(np.abs(keys) > 0.01) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_cough_lasts_less_than_a_second(seed: int) -> None:
    clip = cough(-23, seed)
    assert 0.1 < len(clip) / RATE_HZ < 1.1
    assert active_level_db(clip, RATE_HZ) == pytest.approx(-23, abs=0.5)


def test_levels_of_speech_leave_pauses_out() -> None:
    clip = at_level(np.concatenate([tone(1, 150), np.zeros(RATE_HZ, np.float32)]), -23)
    assert rms_db(clip[:RATE_HZ]) == pytest.approx(-23, abs=0.2)


def test_a_distant_voice_has_its_level() -> None:
    assert active_level_db(far_away(tone(1, 150), -43), RATE_HZ) == pytest.approx(-43, abs=0.5)


def test_trimming_leaves_the_first_and_last_audible_sample() -> None:
    quiet = np.zeros(100, np.float32)
    assert trimmed(np.concatenate([quiet, np.full(7, 0.5, np.float32), quiet])).tolist() == [0.5] * 7
    assert not len(trimmed(quiet))


def test_echo_has_its_delay_and_its_level() -> None:
    played = np.zeros(4 * RATE_HZ, np.float32)
    played[RATE_HZ : 3 * RATE_HZ] = white(2, -20, seed=3)
    path = EchoPath(delay_ms=120, gain_db=-10)
    echo = np.concatenate([path.heard(played[: start + 480], start, 480) for start in range(0, 4 * RATE_HZ, 480)])
    assert np.flatnonzero(np.abs(echo) > 1e-4)[0] / RATE_HZ == pytest.approx(1.12, abs=0.001)
    assert rms_db(echo[2 * RATE_HZ : 3 * RATE_HZ]) == pytest.approx(-30, abs=0.5)


def test_echo_does_not_depend_on_how_it_is_cut() -> None:
    played = white(1, -20)
    path = EchoPath(delay_ms=40, gain_db=-6)
    whole = path.heard(played, 0, RATE_HZ)
    pieces = np.concatenate([path.heard(played, start, 480) for start in range(0, RATE_HZ, 480)])
    assert pieces == pytest.approx(whole, abs=1e-5)
