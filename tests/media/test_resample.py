"""Streams resample exactly, however they are cut; nothing drifts, nothing aliases, nothing lags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.resample import StreamResampler, resample

RATES = [(24_000, 16_000), (48_000, 16_000), (16_000, 24_000), (8_000, 16_000), (44_100, 16_000), (22_050, 24_000)]


def tone(rate_hz: int, pitch_hz: float, duration_s: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * pitch_hz * np.arange(int(rate_hz * duration_s)) / rate_hz).astype(np.float32)


@pytest.mark.parametrize(("in_hz", "out_hz"), RATES)
def test_a_tone_keeps_its_pitch_and_place(in_hz: int, out_hz: int) -> None:
    resampled = StreamResampler(in_hz, out_hz).push(tone(in_hz, 1000), last=True)
    assert len(resampled) == out_hz
    error = resampled[100:-100] - tone(out_hz, 1000)[100:-100]
    assert 20 * np.log10(np.sqrt((error**2).mean()) / 0.707) < -85


@given(st.lists(st.integers(0, 900), min_size=1, max_size=30), st.sampled_from(RATES))
def test_the_cut_of_the_stream_makes_no_difference(sizes: list[int], rates: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).standard_normal(sum(sizes)).astype(np.float32)
    stream, position, parts = StreamResampler(*rates), 0, []
    for size in sizes:
        parts.append(stream.push(noise[position : position + size]))
        position += size
    parts.append(stream.push(np.zeros(0, np.float32), last=True))
    assert np.allclose(np.concatenate(parts), StreamResampler(*rates).push(noise, last=True), atol=1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_a_long_piece_is_what_many_short_ones_are(last: bool) -> None:
    noise = np.random.default_rng(0).standard_normal(200_003).astype(np.float32)
    stream = StreamResampler(24_000, 16_000)
    parts = [stream.push(noise[start : start + 4800]) for start in range(0, len(noise), 4800)]
    parts.append(stream.push(np.zeros(0, np.float32), last=last))
    whole = StreamResampler(24_000, 16_000).push(noise, last=last)
    assert np.allclose(np.concatenate(parts), whole, atol=1e-6)


@pytest.mark.parametrize(("in_hz", "out_hz"), RATES)
def test_what_has_come_is_handed_out_within_two_milliseconds(in_hz: int, out_hz: int) -> None:
    stream, n_in, n_out = StreamResampler(in_hz, out_hz), 0, 0
    for _ in range(200):
        block = in_hz // 100
        n_in += block
        n_out += len(stream.push(np.zeros(block, np.float32)))
        assert n_in / in_hz - n_out / out_hz < 0.0022


@pytest.mark.parametrize(("in_hz", "out_hz"), [rates for rates in RATES if rates[0] > rates[1]])
def test_what_the_lower_rate_cannot_hold_is_filtered_out(in_hz: int, out_hz: int) -> None:
    resampled = StreamResampler(in_hz, out_hz).push(tone(in_hz, 0.56 * out_hz), last=True)
    assert np.abs(resampled[100:-100]).max() < 1e-3


def test_equal_rates_pass_through() -> None:
    noise = np.ones(7, np.float32)
    assert StreamResampler(16_000, 16_000).push(noise) is noise
    assert resample(noise, 16_000, 16_000) is noise


def test_a_whole_clip_keeps_its_length() -> None:
    assert len(resample(tone(24_000, 440), 24_000, 16_000)) == 16_000
