"""The listener's side of playing: order, pace, flushing, loss and gain."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.client.player import Cut, Loudspeaker, Player
from duplex_server.types import Pcm

RATE_HZ = 1000  # a sample is a millisecond, so that the arithmetic can be read


def level(value: float, n_samples: int) -> Pcm:
    return np.full(n_samples, value, np.float32)


def test_audio_comes_out_in_order_and_silence_follows_it() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 30))
    player.put(level(0.2, 30))
    assert player.queued_ms == 60
    assert player.take(50).tolist() == [*level(0.1, 30), *level(0.2, 20)]
    assert player.take(20).tolist() == [*level(0.2, 10), *level(0, 10)]
    assert not player.playing


def test_start_delay_is_silence_ahead_of_audio_that_comes_into_an_empty_player() -> None:
    player = Player(rate_hz=RATE_HZ, start_delay_ms=40)
    player.put(level(0.5, 20))
    assert player.take(30).tolist() == [0.0] * 30
    player.put(level(0.5, 20))
    assert player.take(60).tolist() == [*level(0, 10), *level(0.5, 40), *level(0, 10)]


def test_flush_reports_what_was_heard_and_what_was_not() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.5, 100), response_id="r1", item_id="i1")
    player.put(level(0.5, 50), response_id="r2", item_id="i2")
    player.take(30)
    assert player.flush() == [Cut("r1", "i1", 30, 70), Cut("r2", "i2", 0, 50)]
    assert player.flush() == [Cut("r1", "i1", 30, 5)]  # the fade-out of the first


def test_flush_fades_out_within_5_ms() -> None:
    player = Player(rate_hz=24_000)
    player.put(level(0.5, 24_000))
    player.take(2400)
    player.flush()
    after = player.take(480)
    assert np.all(np.diff(after[:121]) <= 0)
    assert after[0] == 0.5
    assert not after[120:].any()


def test_flush_of_a_silent_player_reports_nothing() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.5, 10), response_id="r1")
    player.take(20)
    assert player.flush() == []


def test_played_ms_counts_only_what_was_taken() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.5, 100), response_id="r1")
    player.take(40)
    assert player.played_ms("r1") == 40
    assert player.played_ms("unknown") == 0


def test_running_dry_within_a_response_is_an_underrun_and_between_responses_is_not() -> None:
    player = Player(rate_hz=RATE_HZ)
    for response_id in ("r1", "r1", "r2"):
        player.put(level(0.5, 10), response_id=response_id)
        player.take(20)
    assert player.underruns == 1


def test_a_lost_packet_leaves_its_length_of_silence() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 20), position_samples=0)
    player.put(level(0.3, 20), position_samples=40)
    assert player.take(60).tolist() == [*level(0.1, 20), *level(0, 20), *level(0.3, 20)]
    assert player.concealed_ms == 20


def test_a_pause_of_the_sender_is_not_filled() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 20), position_samples=0)
    player.put(level(0.3, 20), position_samples=5000)
    assert player.queued_ms == 40
    assert player.concealed_ms == 0


def test_audio_that_was_already_put_is_dropped() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 20), position_samples=0)
    player.put(level(0.2, 20), position_samples=0)
    player.put(level(0.3, 20), position_samples=10)
    player.put(level(0.4, 20), position_samples=30)
    assert player.take(50).tolist() == [*level(0.1, 20), *level(0.3, 10), *level(0.4, 20)]


def test_a_clock_that_starts_anew_is_followed() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 20), position_samples=90_000)
    player.put(level(0.2, 20), position_samples=0)
    assert player.queued_ms == 40


def test_an_endless_queue_is_refused() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(0.1, 600_000))
    player.put(level(0.1, 1))
    assert player.queued_ms == 600_000
    assert player.overflowed_ms == 1


def test_gain_moves_in_20_ms_and_stays() -> None:
    player = Player(rate_hz=RATE_HZ)
    player.put(level(1, 100))
    player.set_gain_db(-20)
    lowered = player.take(60)
    assert np.all(np.diff(lowered[:18]) < 0)
    assert lowered[20:] == pytest.approx(0.1)
    player.set_gain_db(0)
    raised = player.take(40)
    assert raised[20:] == pytest.approx(1.0)
    assert np.all(np.diff(raised[:18]) > 0)


def test_gain_ramp_does_not_depend_on_how_the_audio_is_taken() -> None:
    tracks = []
    for step in (1, 7, 40):
        player = Player(rate_hz=RATE_HZ)
        player.put(level(1, 40))
        player.set_gain_db(-12)
        tracks.append(np.concatenate([player.take(min(step, 40 - at)) for at in range(0, 40, step)]))
    assert tracks[0] == pytest.approx(tracks[1])
    assert tracks[0] == pytest.approx(tracks[2])


def test_loudspeaker_track_is_exact_however_seldom_it_is_advanced() -> None:
    loudspeaker = Loudspeaker(Player(rate_hz=RATE_HZ), started_s=100.0)
    loudspeaker.advance(100.25)
    loudspeaker.player.put(level(0.5, 100))
    loudspeaker.advance(100.30)
    loudspeaker.player.flush()
    loudspeaker.advance(101.0)
    track = loudspeaker.track
    assert len(track) == 1000
    assert not track[:250].any()
    assert track[250:300].tolist() == level(0.5, 50).tolist()
    assert not track[305:].any()


def test_loudspeaker_does_not_go_back_in_time() -> None:
    loudspeaker = Loudspeaker(Player(rate_hz=RATE_HZ), started_s=10.0)
    loudspeaker.advance(10.5)
    assert not len(loudspeaker.advance(10.4))
    assert len(loudspeaker.track) == 500
