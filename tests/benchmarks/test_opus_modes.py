"""The figures by which Opus's modes are compared: known distortions have known distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.opus_modes import MODES, Mode, band_distance_db, main, segmental_snr_db
from duplex_server.media.opus import BIT_RATE, COMPLEXITY
from duplex_server.types import Pcm


def noise(seed: int, seconds: float = 1.0) -> Pcm:
    return np.random.default_rng(seed).normal(0, 0.1, int(24_000 * seconds)).astype(np.float32)


def test_what_comes_back_unchanged_has_no_distance() -> None:
    assert band_distance_db(noise(1), noise(1)) == 0
    assert segmental_snr_db(noise(1), noise(1)) == 35, "the most that is counted"


def test_halving_the_amplitude_is_six_decibels_in_every_band() -> None:
    assert band_distance_db(noise(1), noise(1) * np.float32(0.5)) == pytest.approx(6.02, abs=0.01)


def test_noise_at_a_tenth_of_the_amplitude_is_twenty_decibels() -> None:
    assert segmental_snr_db(noise(1), noise(1) + noise(2) * np.float32(0.1)) == pytest.approx(20, abs=0.2)


def test_pauses_are_not_compared() -> None:
    pause = np.zeros(12_000, np.float32)
    clip = np.concatenate([noise(1), pause])
    heard = np.concatenate([noise(1), pause + np.float32(1e-4)])
    assert band_distance_db(clip, heard) < 0.5


def test_every_mode_is_measured_once() -> None:
    assert len(MODES) == len(set(MODES))
    assert Mode("LOWDELAY", BIT_RATE, COMPLEXITY) in MODES, "the one that the server uses"


def test_without_a_clip_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clip", str(tmp_path / "none.wav")]) == 0
    assert "skipped" in capsys.readouterr().out
