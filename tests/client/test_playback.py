"""What a player does when the server says something."""

from __future__ import annotations

import numpy as np

from duplex_server.client.link import ReceivedAudio
from duplex_server.client.playback import LOWERED_DB, Playback
from duplex_server.client.player import Player
from duplex_server.wire.events import (
    ConversationItemTruncate,
    InputAudioBufferSpeechStarted,
    OutputAudioBufferCleared,
    OverlapDecision,
    RateLimitsUpdated,
    ResponseDone,
)
from duplex_server.wire.objects import Response, ResponseStatus


def audio(response_id: str, n_ms: int, position_samples: int | None = None) -> ReceivedAudio:
    pcm = np.full(n_ms * 24, 0.5, np.float32)
    item_id = response_id.replace("resp", "item") if position_samples is None else ""
    return ReceivedAudio(pcm, 0.0, response_id if item_id else "", item_id, position_samples)


def done(response_id: str, status: ResponseStatus) -> ResponseDone:
    return ResponseDone(response=Response(id=response_id, status=status))


SPEECH_STARTED = InputAudioBufferSpeechStarted(item_id="user_1")


def test_audio_is_played() -> None:
    player = Player()
    assert Playback(player, media_track=False).receive(audio("resp_1", 100)) == []
    assert player.queued_ms == 100


def test_speech_stops_the_voice_and_the_server_is_told_what_was_heard() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    player.take(24 * 120)
    assert playback.receive(SPEECH_STARTED) == [ConversationItemTruncate(item_id="item_1", audio_end_ms=120)]
    assert player.queued_ms <= 5


def test_late_audio_of_a_response_that_was_cut_is_not_played() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    playback.receive(SPEECH_STARTED)
    player.take(2400)
    playback.receive(audio("resp_1", 500))
    assert not player.playing
    playback.receive(audio("resp_2", 500))
    assert player.playing


def test_a_cut_is_reported_once() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    assert len(playback.receive(SPEECH_STARTED)) == 1
    assert playback.receive(SPEECH_STARTED) == []
    assert playback.receive(done("resp_1", "cancelled")) == []


def test_a_cancelled_response_stops_without_speech() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    player.take(240)
    assert playback.receive(done("resp_1", "cancelled")) == [
        ConversationItemTruncate(item_id="item_1", audio_end_ms=10)
    ]
    player.take(240)
    playback.receive(audio("resp_1", 500))
    assert not player.playing


def test_a_completed_response_is_heard_to_its_end() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    assert playback.receive(done("resp_1", "completed")) == []
    assert player.queued_ms == 500


def test_the_voice_is_lowered_while_the_server_decides() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 2000))
    playback.receive(OverlapDecision(policy="guarded", action="hold"))
    player.take(2400)
    assert np.allclose(player.take(2400), 0.5 * 10 ** (LOWERED_DB / 20))
    playback.receive(OverlapDecision(policy="guarded", action="ignore"))
    player.take(2400)
    assert np.allclose(player.take(2400), 0.5)


def test_the_next_response_is_at_full_level_after_an_interruption() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 1000))
    playback.receive(OverlapDecision(policy="guarded", action="hold"))
    player.take(2400)
    playback.receive(SPEECH_STARTED)
    player.take(2400)
    playback.receive(audio("resp_2", 1000))
    assert np.allclose(player.take(2400), 0.5)


def test_on_a_media_track_the_server_lowers_and_counts() -> None:
    player = Player()
    playback = Playback(player, media_track=True)
    playback.receive(audio("", 400, position_samples=0))
    playback.receive(OverlapDecision(policy="guarded", action="hold"))
    assert np.allclose(player.take(2400), 0.5)
    assert playback.receive(OutputAudioBufferCleared(response_id="resp_1")) == []
    assert player.queued_ms <= 5


def test_other_events_change_nothing() -> None:
    player = Player()
    playback = Playback(player, media_track=False)
    playback.receive(audio("resp_1", 500))
    assert playback.receive(RateLimitsUpdated()) == []
    assert player.queued_ms == 500
