from __future__ import annotations

from duplex_server.errors import EngineLost, InvalidEvent, ModelError, SessionExpired
from duplex_server.types import InterruptionPolicy
from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.requests import (
    BargeIn,
    CloseSession,
    TurnTaking,
)
from tests.helpers.wire_driver import CHAIN, WireDriver, types_of


def test_extension_requests_are_answered() -> None:
    driver = WireDriver()
    assert driver.client("barge_in") == []
    assert driver.take_requests() == [BargeIn()]
    assert types_of(driver.client("session.heartbeat")) == ["session.heartbeat_ack"]


def test_playback_acks_are_clamped_and_late_ones_ignored() -> None:
    driver = WireDriver()
    assert driver.client("playback.ack", played_ms=10) == []
    driver.speak()
    (answer,) = driver.client("playback.ack", played_ms=9999, committed_ms=-5)
    figures = {"generated_ms": 200, "sent_ms": 200, "played_ms": 200, "committed_ms": 0}
    assert answer["event"]["playback"] == figures
    item_id = answer["event"]["item_id"]
    _, truncated = driver.client("playback.ack", item_id=item_id, played_ms=150, truncate=True)
    assert (truncated["type"], truncated["audio_end_ms"]) == ("conversation.item.truncated", 150)
    assert driver.client("playback.ack", item_id="item_x", played_ms=10) == []
    assert driver.client("playback.ack", response_id="resp_x", played_ms=10) == []


def test_chatty_events_are_sent_to_who_asked() -> None:
    for opt_in, n_sent in ((("overlap", "playback", "limits"), 1), ((), 0)):
        driver = WireDriver(opt_in=opt_in)
        driver.speak()
        assert len(driver.tell(driver.dialogue.overlap("ignore", "backchannel", 700))) == n_sent
        assert len(driver.tell(driver.dialogue.reports.playback_position(1, 100, 150, 200))) == n_sent
        assert len(driver.tell(driver.dialogue.reports.closing("shutdown", 9000))) == n_sent
    assert driver.tell(driver.dialogue.reports.playback_position(2, 100, 150, 200)) == []


def test_an_overlap_names_the_policy_in_force() -> None:
    driver = WireDriver(opt_in=["overlap"], turn_taking=TurnTaking(InterruptionPolicy.IMMEDIATE))
    (event,) = driver.tell(driver.dialogue.overlap("interrupt", "onset", 700))
    event.pop("event_id")
    assert event == {
        "type": "overlap.decision",
        "policy": "immediate",
        "action": "interrupt",
        "reason": "onset",
        "audio_start_ms": 700,
    }


def test_nothing_follows_goodbye() -> None:
    driver = WireDriver(opt_in=["limits"])
    driver.speak()
    answers = driver.client("session.close", reason="done")
    assert types_of(answers) == [*CHAIN, "session.closed"]
    assert driver.take_requests()[-1] == CloseSession("done")
    dialogue = driver.dialogue
    assert driver.client("session.heartbeat") == []
    assert not [
        *dialogue.begin_response(2),
        *dialogue.text(1, "x", 0),
        *dialogue.end_response(1, Outcome.COMPLETED, 0),
        *dialogue.speech_started(1),
        *dialogue.speech_stopped(1),
        *dialogue.reports.closing("timeout", 1),
        *dialogue.playback(1, "stopped"),
        *dialogue.refuse(InvalidEvent("No.")),
        *dialogue.fail(EngineLost("w")),
    ]


def test_a_failed_session_ends_its_response_and_says_why() -> None:
    driver = WireDriver()
    driver.speak()
    events = driver.tell(driver.dialogue.fail(EngineLost("worker-3")))
    assert types_of(events) == [*CHAIN, "error"]
    assert events[5]["response"]["status_details"]["error"]["code"] == "engine_lost"
    assert events[-1]["error"]["type"] == "server_error"
    assert "worker-3" not in str(events)


def test_the_words_of_an_unknown_failure_stay_inside() -> None:
    driver = WireDriver()
    (event,) = driver.tell(driver.dialogue.fail(ModelError("CUDA: /home/me/secret.py")))
    assert event["error"]["code"] == "server_error"
    assert "secret" not in event["error"]["message"]


def test_an_expired_session_says_so() -> None:
    driver = WireDriver()
    (event,) = driver.tell(driver.dialogue.fail(SessionExpired("timeout", "Your session hit the maximum duration.")))
    assert event["error"]["code"] == "session_expired"
    assert event["error"]["message"] == "Your session hit the maximum duration."
