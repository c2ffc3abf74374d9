from __future__ import annotations

import msgspec

from duplex_server.wire import server_events as s
from duplex_server.wire.live_words import MAX_WAITING, LiveWords
from duplex_server.wire.objects import Response


def said(text: str, start_ms: int = 0, end_ms: int | None = None) -> s.ResponseOutputAudioTranscriptDelta:
    delta = s.ResponseOutputAudioTranscriptDelta(response_id="r", item_id="i", delta=text, audio_start_ms=start_ms)
    return delta if end_ms is None else replace(delta, audio_end_ms=end_ms)


def replace(delta: s.ResponseOutputAudioTranscriptDelta, **changes: int) -> s.ResponseOutputAudioTranscriptDelta:
    return msgspec.structs.replace(delta, **changes)


def test_words_wait_for_their_sound() -> None:
    words = LiveWords(lambda: 5000)
    words.tell(s.ResponseCreated(response=Response(id="r")))
    assert not words.tell(said("Hello ", 0, 400))
    (told,) = words.tell(s.OutputAudioBufferStarted(response_id="r"))
    assert (told.delta, told.start_ms, told.end_ms) == ("Hello ", 5000, 5400)
    (told,) = words.tell(said("there.", 400))
    assert (told.start_ms, told.end_ms) == (5400, 5400)


def test_words_that_never_sound_are_told_at_the_end() -> None:
    words = LiveWords(lambda: 7000)
    words.tell(s.ResponseCreated(response=Response(id="r")))
    words.tell(said("Hm."))
    (told,) = words.tell(s.ResponseOutputAudioDone(response_id="r", item_id="i"))
    assert told.start_ms == told.end_ms == 7000


def test_no_more_words_wait_than_fit() -> None:
    words = LiveWords(lambda: 0)
    words.tell(s.ResponseCreated(response=Response(id="r")))
    assert [len(words.tell(said("a"))) for _ in range(MAX_WAITING + 1)] == [0] * MAX_WAITING + [MAX_WAITING + 1]


def test_the_users_words_are_placed_where_they_were_said() -> None:
    words = LiveWords(lambda: 9000)
    heard = s.ConversationItemInputAudioTranscriptionCompleted
    words.tell(s.InputAudioBufferSpeechStarted(item_id="a", audio_start_ms=100))
    words.tell(s.InputAudioBufferSpeechStopped(item_id="a", audio_end_ms=900))
    (told,) = words.tell(heard(item_id="a", transcript="what time is it"))
    assert (told.delta, told.start_ms, told.end_ms) == ("what time is it", 100, 900)
    (told,) = words.tell(heard(item_id="b", transcript="and now"))
    assert (told.delta, told.start_ms, told.end_ms) == (" and now", 9000, 9000)
    assert not words.tell(heard(item_id="c", transcript=""))
