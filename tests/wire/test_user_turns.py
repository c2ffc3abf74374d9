from __future__ import annotations

from typing import Any

from duplex_server.types import Heard
from duplex_server.wire.dialogue import Outcome
from tests.helpers.wire_driver import WireDriver, types_of
from tests.helpers.wire_oracle import check

TRANSCRIPT = "conversation.item.input_audio_transcription"


def _hear(driver: WireDriver, text: str, *, final: bool = True) -> list[dict[str, Any]]:
    return driver.tell(driver.dialogue.heard(Heard(text, final)))


def _utter(driver: WireDriver) -> list[dict[str, Any]]:
    driver.tell(driver.dialogue.speech_started(100))
    return driver.tell(driver.dialogue.speech_stopped(1600))


def test_a_transcript_follows_its_item() -> None:
    driver = WireDriver()
    item_id = _utter(driver)[-1]["item"]["id"]
    (completed,) = _hear(driver, "what time is it")
    completed.pop("event_id")
    assert completed == {
        "type": f"{TRANSCRIPT}.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": "what time is it",
        "usage": {"type": "duration", "seconds": 1.5},
    }
    (shown,) = driver.client("conversation.item.retrieve", item_id=item_id)
    assert shown["item"]["content"] == [{"type": "input_audio", "transcript": "what time is it"}]


def test_guesses_are_sent_as_what_they_add() -> None:
    driver = WireDriver()
    _utter(driver)
    sent = [_hear(driver, text, final=False) for text in ("what", "what time", "what time", "watch this")]
    assert [[(event["delta"], event["transcript"]) for event in events] for events in sent] == [
        [("what", "what")],
        [(" time", "what time")],
        [],
        [("", "watch this")],
    ]
    assert types_of(_hear(driver, "watch this")) == [f"{TRANSCRIPT}.completed"]


def test_what_is_heard_while_the_user_speaks_waits_for_the_item() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.speech_started(100))
    assert _hear(driver, "what", final=False) == []
    assert _hear(driver, "what time is it") == []
    events = driver.tell(driver.dialogue.speech_stopped(900))
    assert types_of(events)[-2:] == ["conversation.item.done", f"{TRANSCRIPT}.completed"]
    assert events[-1]["transcript"] == "what time is it"


def test_a_guess_that_waited_is_sent_with_the_item() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.speech_started(100))
    _hear(driver, "what", final=False)
    assert driver.tell(driver.dialogue.speech_stopped(900))[-1]["delta"] == "what"


def test_two_utterances_of_one_speech_are_joined() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.speech_started(100))
    _hear(driver, "stop")
    _hear(driver, "")
    _hear(driver, "what time is it")
    assert driver.tell(driver.dialogue.speech_stopped(900))[-1]["transcript"] == "stop what time is it"


def test_speech_that_was_not_announced_becomes_an_item_when_understood() -> None:
    driver = WireDriver()
    assert _hear(driver, "what", final=False) == []
    assert _hear(driver, "") == []
    assert types_of(_hear(driver, "what time is it")) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{TRANSCRIPT}.completed",
    ]


def test_what_is_heard_over_the_models_voice_waits_for_the_verdict() -> None:
    driver = WireDriver()
    driver.speak()
    assert _hear(driver, "stop") == []
    (started,) = driver.tell(driver.dialogue.speech_started(700))
    ended = driver.tell(driver.dialogue.end_response(1, Outcome.INTERRUPTED, 100))
    assert types_of(ended)[-1] == "rate_limits.updated"
    completed = driver.tell(driver.dialogue.speech_stopped(1200))[-1]
    assert (completed["item_id"], completed["transcript"]) == (started["item_id"], "stop")
    check(driver.sent, media_track=False)


def test_a_backchannel_becomes_an_item_when_it_is_ignored() -> None:
    driver = WireDriver()
    driver.speak()
    driver.tell(driver.dialogue.overlap("hold", "onset", 600))
    assert _hear(driver, "uh-huh") == []
    ignored = driver.tell(driver.dialogue.overlap("ignore", "backchannel", 600))
    assert types_of(ignored)[0] == "input_audio_buffer.committed"
    assert ignored[-1]["transcript"] == "uh-huh"
    driver.tell(driver.dialogue.speech_started(1600))
    _hear(driver, "stop")
    assert driver.tell(driver.dialogue.speech_stopped(2100))[-1]["transcript"] == "stop"
    check(driver.sent, media_track=False, all_ended=False)


def test_what_nobody_judged_becomes_an_item_after_the_response() -> None:
    driver = WireDriver()
    driver.speak()
    assert _hear(driver, "uh-huh") == []
    ended = driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    assert ended[-1]["transcript"] == "uh-huh"
    check(driver.sent, media_track=False)


def test_where_the_model_decides_it_is_told_at_once() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"extra_body": {"interruption": "model"}})
    driver.speak()
    assert _hear(driver, "uh-huh")[-1]["transcript"] == "uh-huh"


def test_push_to_talk_waits_for_the_button() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"audio": {"input": {"turn_detection": None}}})
    driver.speak()
    assert _hear(driver, "what time is it") == []
    ended = driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    assert types_of(ended)[-1] == "rate_limits.updated"
    driver.append(bytes(9600))
    assert driver.client("input_audio_buffer.commit")[-1]["transcript"] == "what time is it"


def test_transcripts_of_a_deleted_item_are_dropped() -> None:
    driver = WireDriver()
    item_id = _utter(driver)[-1]["item"]["id"]
    driver.client("conversation.item.delete", item_id=item_id)
    assert _hear(driver, "what time is it") == []


def test_a_client_that_wants_no_transcripts_gets_none() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"audio": {"input": {"transcription": None}}})
    _utter(driver)
    assert _hear(driver, "what time is it") == []


def test_speech_cannot_end_before_it_began() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.speech_started(500))
    assert driver.tell(driver.dialogue.speech_stopped(400))[0]["audio_end_ms"] == 500
