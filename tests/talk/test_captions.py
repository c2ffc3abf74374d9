"""What is shown of a conversation."""

from __future__ import annotations

from duplex_server.talk.captions import Caption, Captions, Speaker, State
from duplex_server.wire.events import (
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    ErrorEvent,
    InputAudioBufferSpeechStarted,
    InputAudioBufferSpeechStopped,
    RateLimitsUpdated,
    ResponseCreated,
    ResponseDone,
    ResponseOutputAudioTranscriptDelta,
    ResponseOutputTextDelta,
    SessionGoAway,
)
from duplex_server.wire.objects import ErrorObject, Response

STARTED = InputAudioBufferSpeechStarted(item_id="u1")
STOPPED = InputAudioBufferSpeechStopped(item_id="u1")


def words(text: str, audio_start_ms: int) -> ResponseOutputAudioTranscriptDelta:
    return ResponseOutputAudioTranscriptDelta(response_id="r1", item_id="i1", delta=text, audio_start_ms=audio_start_ms)


def test_the_users_words_are_a_caption_when_they_are_final() -> None:
    captions = Captions()
    guess = ConversationItemInputAudioTranscriptionDelta(item_id="u1", delta="what", transcript="what")
    assert captions.receive(guess) == []
    assert captions.partial == "what"
    revised = ConversationItemInputAudioTranscriptionDelta(item_id="u1", delta="", transcript="watch")
    captions.receive(revised)
    assert captions.partial == "watch"
    final = ConversationItemInputAudioTranscriptionCompleted(item_id="u1", transcript="watch me")
    assert captions.receive(final) == [Caption(Speaker.USER, "watch me")]
    assert captions.partial == ""


def test_guesses_of_servers_without_the_extension_are_joined() -> None:
    captions = Captions()
    for delta in ("what ", "time"):
        captions.receive(ConversationItemInputAudioTranscriptionDelta(item_id="u1", delta=delta))
    assert captions.partial == "what time"


def test_the_models_words_are_a_caption_when_the_response_is_over() -> None:
    captions = Captions()
    captions.receive(ResponseCreated(response=Response(id="r1")))
    captions.receive(words("Once ", 0))
    captions.receive(words("upon a time", 300))
    assert captions.partial == "Once upon a time"
    done = ResponseDone(response=Response(id="r1", status="completed", played_ms=900))
    assert captions.receive(done) == [Caption(Speaker.MODEL, "Once upon a time")]
    assert captions.partial == ""


def test_what_was_not_heard_is_kept_apart() -> None:
    captions = Captions()
    captions.receive(ResponseCreated(response=Response(id="r1")))
    for start_ms, text in ((0, "Once "), (300, "upon "), (600, "a time")):
        captions.receive(words(text, start_ms))
    done = ResponseDone(response=Response(id="r1", status="cancelled", played_ms=420))
    assert captions.receive(done) == [Caption(Speaker.MODEL, "Once upon", unheard="a time")]


def test_a_server_that_does_not_say_what_was_heard_gets_the_whole_caption() -> None:
    captions = Captions()
    captions.receive(ResponseOutputTextDelta(response_id="r1", item_id="i1", delta="Hello."))
    done = ResponseDone(response=Response(id="r1", status="cancelled"))
    assert captions.receive(done) == [Caption(Speaker.MODEL, "Hello.")]


def test_an_empty_response_is_no_caption() -> None:
    assert Captions().receive(ResponseDone(response=Response(id="r1", status="completed"))) == []


def test_states_follow_the_conversation() -> None:
    captions = Captions()
    assert captions.state(playing=False) is State.LISTENING
    captions.receive(STARTED)
    assert captions.state(playing=False) is State.HEARING
    captions.receive(STOPPED)
    captions.receive(ResponseCreated(response=Response(id="r1")))
    assert captions.state(playing=True) is State.SPEAKING
    captions.receive(STARTED)
    captions.receive(ResponseDone(response=Response(id="r1", status="cancelled")))
    assert captions.state(playing=False) is State.INTERRUPTED
    captions.receive(STOPPED)
    assert captions.state(playing=False) is State.LISTENING


def test_a_response_cancelled_without_speech_is_not_an_interruption() -> None:
    captions = Captions()
    captions.receive(ResponseDone(response=Response(id="r1", status="cancelled")))
    assert captions.state(playing=False) is State.LISTENING


def test_errors_and_the_end_are_told() -> None:
    captions = Captions()
    assert captions.receive(ErrorEvent(error=ErrorObject(message="No."))) == [Caption(Speaker.SERVER, "No.")]
    (caption,) = captions.receive(SessionGoAway(reason="shutdown", time_left_ms=9500))
    assert caption.text == "The session will end in 9 s (shutdown)."
    assert captions.receive(RateLimitsUpdated()) == []
