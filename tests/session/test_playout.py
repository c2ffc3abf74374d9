"""Audio leaves at real-time pace, its position is known, and a cut is a cut."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.session.playout import DUCKED_GAIN, Playout, Slice
from duplex_server.types import OUTPUT_RATE_HZ, ModelOutput, Pcm

TICK = 480
TICK_S = 0.02


def output(turn: int, n_samples: int, value: float = 0.5, *, text: str = "", end: bool = False) -> ModelOutput:
    return ModelOutput(turn, np.full(n_samples, value, np.float32), text, end_of_turn=end)


def track() -> Playout:
    return Playout(chunk_ms=20, lead_ms=0)


def messages() -> Playout:
    return Playout(chunk_ms=100, lead_ms=250)


def play(playout: Playout, n_ticks: int, start_s: float = 100.0) -> list[tuple[int, Slice]]:
    slices = []
    for tick in range(n_ticks):
        due = playout.take(start_s + tick * TICK_S)
        if due is not None:
            slices.append((tick, due))
        playout.retire(start_s + tick * TICK_S)
    return slices


def heard(slices: list[tuple[int, Slice]]) -> Pcm:
    return np.concatenate([due.pcm for _, due in slices])


def test_a_track_gets_one_tick_per_tick() -> None:
    playout = track()
    playout.put(output(1, 10 * TICK, end=True))
    slices = play(playout, 20)
    assert [tick for tick, _ in slices] == list(range(10))
    assert all(len(due.pcm) == TICK for _, due in slices)
    assert [due.first for _, due in slices] == [True] + [False] * 9


def test_the_end_of_a_turn_fills_its_tick_with_silence() -> None:
    playout = track()
    playout.put(output(1, TICK + 100, end=True))
    last = play(playout, 5)[-1][1].pcm
    assert len(last) == TICK and np.count_nonzero(last) == 100


def test_messages_leave_ahead_of_real_time_by_the_lead_and_in_large_pieces() -> None:
    playout = messages()
    playout.put(output(1, 2 * OUTPUT_RATE_HZ, end=True))
    sent = 0
    for tick, due in play(playout, 120):
        sent += len(due.pcm)
        assert sent <= (tick * TICK_S + 0.02 + 0.25) * OUTPUT_RATE_HZ + 1
        assert due.first or len(due.pcm) >= 2400 or sent == 2 * OUTPUT_RATE_HZ
    assert sent == 2 * OUTPUT_RATE_HZ


def test_nothing_is_lost_or_doubled_whatever_the_chunks() -> None:
    rng = np.random.default_rng(1)
    for make in (track, messages):
        playout, generated = make(), rng.standard_normal(50_000).astype(np.float32)
        cuts = np.sort(rng.integers(0, 50_000, 40))
        for part in np.split(generated, cuts):
            playout.put(ModelOutput(1, part))
        playout.put(ModelOutput(1, end_of_turn=True))
        assert np.array_equal(heard(play(playout, 200))[:50_000], generated)


def test_output_of_a_cut_turn_is_dropped_at_the_gate() -> None:
    playout = track()
    playout.put(output(1, 100 * TICK))
    play(playout, 5)
    assert playout.cut(100.1).newest_turn == 1
    assert not playout.put(output(1, 50 * TICK))
    assert playout.n_stale_samples == 50 * TICK
    assert playout.put(output(2, TICK, end=True))


def test_a_cut_leaves_ten_milliseconds_of_fade_and_then_nothing() -> None:
    playout = track()
    playout.put(output(1, 100 * TICK))
    play(playout, 5)
    playout.cut(100.1)
    rest = play(playout, 10, 100.1)
    assert [tick for tick, _ in rest] == [0]
    fade = rest[0][1].pcm
    assert np.all(np.diff(fade[:240]) <= 0) and not fade[240:].any()


def test_a_cut_knows_what_was_played() -> None:
    playout = track()
    playout.put(output(1, 100 * TICK))
    play(playout, 5)
    cut = playout.cut(100.1)
    assert (cut.turn, cut.played_samples) == (1, 5 * TICK)


def test_what_the_peers_player_still_holds_does_not_count_as_played() -> None:
    playout = messages()
    playout.put(output(1, 100 * TICK))
    play(playout, 10)
    front = playout.front(100.18)
    assert front is not None
    assert front.sent_samples > front.played_samples == pytest.approx(0.18 * OUTPUT_RATE_HZ, abs=2)


def test_a_cut_covers_turns_that_have_not_begun_to_play() -> None:
    playout = track()
    playout.put(output(1, 100 * TICK, end=True))
    playout.put(output(2, 100 * TICK))
    assert playout.cut(100.0).newest_turn == 2
    assert not playout.put(output(2, TICK))
    assert not playout.pending


def test_turns_follow_each_other() -> None:
    playout = track()
    playout.put(output(1, 2 * TICK, 0.1, end=True))
    playout.put(output(2, 2 * TICK, 0.2, end=True))
    slices = play(playout, 10)
    assert [due.turn for _, due in slices] == [1, 1, 2, 2]
    assert heard(slices)[::TICK].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_a_turn_that_runs_dry_goes_on_later_and_silence_is_not_played() -> None:
    playout = track()
    playout.put(output(1, 2 * TICK))
    play(playout, 10)
    playout.put(output(1, 2 * TICK, end=True))
    play(playout, 1, 100.2)
    front = playout.front(100.22)
    assert front is not None and front.played_samples == 3 * TICK
    assert playout.n_underruns == 1


def test_texts_come_with_the_position_they_are_spoken_at() -> None:
    playout = track()
    playout.put(output(1, 1000, text="one "))
    playout.put(output(1, 500, text="two", end=True))
    assert [(piece.text, piece.audio_samples) for piece in playout.take_texts()] == [("one ", 0), ("two", 1000)]
    assert playout.take_texts() == []


def test_ducking_lowers_the_voice_by_18_db_without_a_jump_and_raises_it_again() -> None:
    playout = track()
    playout.put(output(1, 100 * TICK, 1.0))
    playout.duck(True)
    lowered = heard(play(playout, 5))
    playout.duck(False)
    raised = heard(play(playout, 10, 100.1))
    assert lowered[-1] == pytest.approx(DUCKED_GAIN) and 20 * np.log10(lowered[-1]) == pytest.approx(-18, abs=0.1)
    assert lowered[TICK - 1] == pytest.approx(DUCKED_GAIN), "within one tick"
    assert raised[-1] == pytest.approx(1.0)
    assert np.abs(np.diff(np.concatenate([lowered, raised]))).max() < 0.01


def test_a_cut_forgets_that_the_voice_was_lowered() -> None:
    playout = track()
    playout.put(output(1, 10 * TICK, 1.0))
    playout.duck(True)
    play(playout, 3)
    playout.cut(100.06)
    playout.take(100.06)
    playout.put(output(2, TICK, 1.0, end=True))
    assert play(playout, 2, 101.0)[0][1].pcm[0] == 1.0


def test_a_message_peer_hears_the_end_of_a_turn_that_has_been_sent() -> None:
    playout = messages()
    playout.put(output(1, 4800, end=True))
    assert playout.take(100.0) is not None
    assert playout.retire(100.0) is not None
    assert playout.audible(100.1) and not playout.audible(100.21)


def test_room_is_limited() -> None:
    playout = Playout(chunk_ms=20, lead_ms=0, capacity_s=1.0)
    playout.put(output(1, OUTPUT_RATE_HZ - 1))
    assert playout.room
    playout.put(output(1, 1))
    assert not playout.room
