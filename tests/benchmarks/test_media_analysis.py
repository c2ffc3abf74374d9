"""Gaps and delays, on made-up packets whose answers are known."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from benchmarks.media_analysis import (
    MATCH_RATE_HZ,
    Arrivals,
    active_s,
    arrivals_of,
    gap_s,
    holes_s,
    listened,
    matches,
    place,
    played_s,
    returned_s,
)
from duplex_server.types import Pcm


def even(n: int, start_s: float = 5.0) -> Arrivals:
    numbers = np.arange(n, dtype=np.int64)
    return Arrivals(start_s + numbers * 0.02, numbers, numbers * 960, np.zeros(n, np.bool_))


def header(number: int, stamp: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 111, number % 65536, stamp % (1 << 32), 7) + b"sound"


def test_wraps_reordering_and_repetition_are_read_off_the_headers() -> None:
    numbers = [65534, 65535, 0, 2, 1, 1, 3]
    stamps = {number: (1 << 32) - 1920 + index * 960 for index, number in enumerate([65534, 65535, 0, 1, 2, 3])}
    packets = [(float(index), header(number, stamps[number])) for index, number in enumerate(numbers)]
    arrivals, places = arrivals_of(packets)
    assert np.diff(arrivals.number).tolist() == [1] * 5
    assert np.diff(arrivals.stamp).tolist() == [960] * 5
    assert arrivals.at_s.tolist() == [0, 1, 2, 4, 3, 6]
    assert places.tolist() == [0, 1, 2, 4, 3, 6]
    assert len(arrivals_of([])[0].number) == 0


def test_an_even_stream_has_no_gap() -> None:
    assert gap_s(even(100), pauses=False) == 0
    assert returned_s(even(100)) == pytest.approx(2.0)


def test_lateness_within_the_buffer_is_not_heard_and_beyond_it_is() -> None:
    stream = even(100)
    stream.at_s[40] += 0.05
    assert gap_s(stream, pauses=False) == pytest.approx(0.0)
    stream.at_s[60] += 0.1
    assert gap_s(stream, pauses=False) == pytest.approx(0.04)


def test_a_stream_that_falls_behind_for_good_is_waited_for_once() -> None:
    stream = even(100)
    stream.at_s[50:] += 0.3
    assert gap_s(stream, pauses=False) == pytest.approx(0.24)


def test_missing_packets_are_silence() -> None:
    stream = even(100)
    keep = np.ones(100, bool)
    keep[30:33] = False
    assert gap_s(stream.of(keep), pauses=False) == pytest.approx(0.06)


def test_a_jump_in_time_is_a_pause_where_the_sender_says_so() -> None:
    stream = even(100)
    stream.at_s[50:] += 0.1
    stream.stamp[50:] += 4_800
    assert gap_s(stream, pauses=False) == pytest.approx(0.1)
    stream.marked[50] = True
    assert gap_s(stream, pauses=False) == pytest.approx(0.0)
    stream.number[50:] += 1
    assert gap_s(stream, pauses=False) == pytest.approx(0.1), "a packet is missing, whatever the mark says"


def test_a_jump_in_time_is_a_pause_only_where_the_talker_pauses() -> None:
    stream = even(100)
    stream.at_s[50:] += 0.5
    stream.stamp[50:] += 24_000
    assert gap_s(stream, pauses=True) == pytest.approx(0.0)
    assert gap_s(stream, pauses=False) == pytest.approx(0.5)
    stream = even(100)
    stream.at_s[50:] += 0.1
    stream.stamp[50:] += 4_800
    assert gap_s(stream, pauses=True) == pytest.approx(0.1), "too short for a pause"


def voice(seconds: float) -> Pcm:
    """Noise whose level goes up and down like syllables."""
    dice = np.random.default_rng(3)
    n = round(seconds * MATCH_RATE_HZ)
    swell = np.interp(np.arange(n), np.arange(0, n + 800, 800), dice.uniform(0.1, 1, n // 800 + 1))
    return (0.1 * swell * dice.standard_normal(n)).astype(np.float32)


def test_the_delay_is_found_also_when_it_changes() -> None:
    sent = voice(8.0)
    departures_s = 100 + np.arange(len(sent) // 160) * 0.02
    heard = np.concatenate([np.zeros(400, np.float32), sent])[: len(sent)]  # 50 ms later in the sound itself
    arrivals_s = departures_s + 0.08
    arrivals_s[200:] += 0.1
    found = matches(sent, departures_s, heard, arrivals_s, most_s=2.0)
    before = [match.delay_s for match in found if match.sent_s < 103]
    after = [match.delay_s for match in found if match.sent_s > 104.1]
    assert len(before) > 8 and np.mean(before) == pytest.approx(0.13, abs=0.003)
    assert len(after) > 8 and np.mean(after) == pytest.approx(0.23, abs=0.003)


def test_silence_within_speech_is_a_hole_and_silence_within_a_pause_is_not() -> None:
    sent = voice(8.0)
    sent[24_000:28_000] = 0
    times_s = np.arange(len(sent) // 160) * 0.02
    inserted = np.concatenate([sent[:16_000], np.zeros(800, np.float32), sent[16_000:]])[: len(sent)]
    for heard, least_s, most_s in (
        (sent, 0, 0),
        (inserted, 0.06, 0.1),
        (np.where(np.arange(64_000) // 800 == 5, 0, sent), 0.06, 0.1),
    ):
        found = matches(sent, times_s, heard, times_s + 0.05, most_s=2.0)
        assert len(found) > 20
        assert least_s <= holes_s(sent, heard, found, 0, len(heard)) <= most_s
    assert holes_s(sent, sent, [], 0, len(sent)) == 0


def test_a_pause_that_has_become_shorter_or_longer_is_no_hole() -> None:
    sent = voice(8.0)
    sent[24_000:28_000] = 0
    times_s = np.arange(len(sent) // 160) * 0.02
    longer = np.concatenate([sent[:26_000], np.zeros(1_600, np.float32), sent[26_000:]])[: len(sent)]
    shorter = np.concatenate([sent[:25_000], sent[27_000:], np.zeros(2_000, np.float32)])
    for heard in (longer, shorter):
        found = matches(sent, times_s, heard, times_s + 0.3, most_s=2.0)
        assert len(found) > 20
        assert holes_s(sent, heard, found, 0, len(heard)) == 0


def test_another_sound_is_not_taken_for_what_was_sent() -> None:
    sent = voice(4.0)
    times_s = np.arange(len(sent) // 160) * 0.02
    other = np.random.default_rng(8).standard_normal(len(sent)).astype(np.float32)
    assert not matches(sent, times_s, 0.1 * other, times_s + 0.1, most_s=2.0)
    assert not matches(sent, times_s, np.zeros_like(sent), times_s + 0.1, most_s=2.0)


def test_packets_lie_where_their_stamps_say() -> None:
    frames = [np.full(160, value, np.float32) for value in (1, 2, 3)]
    track, holder = place(frames, np.array([500, 500 + 960, 500 + 3 * 960]))
    assert track[::160].tolist() == [1, 2, 0, 3]
    assert holder.tolist() == [0, 1, -1, 2]
    assert [len(part) for part in place([], np.zeros(0, np.int64))] == [0, 0]


def test_a_loudspeaker_plays_what_is_there_and_silence_where_nothing_is() -> None:
    stream = even(6)
    stream.at_s[3:] += 0.1
    times_s = played_s(stream, pauses=False)
    assert times_s - 5.0 == pytest.approx([0.06, 0.08, 0.1, 0.16, 0.18, 0.2])
    frames = [np.full(160, 0.1 * (number + 1), np.float32) for number in range(6)]
    track = listened(frames, times_s, 5.0, 5.2, MATCH_RATE_HZ)
    assert track[::160] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0, 0, 0.4, 0.5])
    assert active_s(track, MATCH_RATE_HZ) == pytest.approx(0.1)
    assert listened(frames, times_s, 5.07, 5.11, MATCH_RATE_HZ)[::80] == pytest.approx([0.1, 0.2, 0.2, 0.3])
