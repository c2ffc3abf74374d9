from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.requests import (
    CancelResponse,
    ClearOutput,
    CreateResponse,
)
from tests.helpers.wire_driver import CHAIN, OPENING, WireDriver, ramp, types_of
from tests.helpers.wire_oracle import check


def test_the_model_speaks_unasked() -> None:
    driver = WireDriver()
    driver.speak()
    driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    deltas = ["response.output_audio_transcript.delta", "response.output_audio.delta"]
    assert driver.types == ["session.created", *OPENING, *deltas, deltas[0], *CHAIN]
    done = driver.sent[-2]["response"]
    assert done["status"] == "completed"
    assert done["status_details"] is None
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "It is noon."}]
    assert (done["generated_ms"], done["played_ms"]) == (200, 200)


def test_words_say_where_in_the_audio_they_begin() -> None:
    driver = WireDriver()
    driver.speak()
    places = [event["audio_start_ms"] for event in driver.sent if event["type"].endswith("transcript.delta")]
    assert places == [0, 200]


def test_audio_goes_out_in_pieces_of_a_quarter_second() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.begin_response(1))
    sent = driver.tell(driver.dialogue.audio(1, ramp(15_000)))
    assert [len(base64.b64decode(event["delta"])) // 2 for event in sent] == [6000, 6000, 3000]
    assert [event["audio_start_ms"] for event in sent] == [0, 250, 500]
    pcm = b"".join(base64.b64decode(event["delta"]) for event in sent)
    np.testing.assert_array_equal(np.frombuffer(pcm, "<i2"), np.rint(ramp(15_000) * 32768).astype(np.int16))


def test_audio_beyond_full_scale_is_clipped() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.begin_response(1))
    (sent,) = driver.tell(driver.dialogue.audio(1, np.array([2, 1, -1, -2], np.float32)))
    assert np.frombuffer(base64.b64decode(sent["delta"]), "<i2").tolist() == [32767, 32767, -32768, -32768]


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Outcome.INTERRUPTED, "cancelled", "turn_detected"),
        (Outcome.CANCELLED, "cancelled", "client_cancelled"),
        (Outcome.INCOMPLETE, "incomplete", "max_output_tokens"),
        (Outcome.FAILED, "failed", None),
    ],
)
def test_a_response_that_is_cut_is_closed_all_the_same(outcome: Outcome, status: str, reason: str | None) -> None:
    driver = WireDriver()
    driver.speak()
    closing = driver.tell(driver.dialogue.end_response(1, outcome, 120))
    assert types_of(closing) == CHAIN
    done = closing[-2]["response"]
    assert (done["status"], done["status_details"].get("reason")) == (status, reason)
    assert done["output"][0]["status"] == "incomplete"
    assert done["played_ms"] == 120


def test_on_a_track_the_server_truncates_and_reports_playback() -> None:
    driver = WireDriver(media_track=True)
    driver.speak()
    closing = driver.tell(driver.dialogue.end_response(1, Outcome.INTERRUPTED, 120))
    assert types_of(closing) == [*CHAIN[:5], "conversation.item.truncated", "output_audio_buffer.cleared", *CHAIN[5:]]
    assert closing[5]["audio_end_ms"] == 120
    assert driver.tell(driver.dialogue.playback(1, "stopped")) == []
    (shown,) = driver.client("conversation.item.retrieve", item_id=closing[5]["item_id"])
    assert shown["item"]["content"] == [{"type": "output_audio", "transcript": "It is "}]
    assert "response.output_audio.delta" not in driver.types


def test_playback_stops_after_the_response_is_done() -> None:
    driver = WireDriver(media_track=True)
    driver.speak()
    assert driver.tell(driver.dialogue.playback(1, "stopped")) == []
    closing = driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    assert types_of(closing) == [*CHAIN, "output_audio_buffer.stopped"]


def test_playback_is_not_reported_without_a_track() -> None:
    driver = WireDriver()
    driver.speak()
    assert "output_audio_buffer.started" not in driver.types


def test_a_late_turn_says_nothing() -> None:
    driver = WireDriver()
    driver.speak(3)
    driver.tell(driver.dialogue.end_response(3, Outcome.COMPLETED, 200))
    dialogue = driver.dialogue
    for turn in (2, 3):
        assert dialogue.begin_response(turn) == []
        assert dialogue.text(turn, "late", 0) == []
        assert dialogue.audio(turn, ramp(10)) == []
        assert dialogue.end_response(turn, Outcome.COMPLETED, 0) == []


def test_a_new_turn_ends_the_one_before() -> None:
    driver = WireDriver()
    driver.speak(1)
    answers = driver.tell(driver.dialogue.begin_response(2))
    assert types_of(answers) == [*CHAIN, *OPENING]
    assert answers[-1]["response_id"] != answers[5]["response"]["id"]


def test_text_can_be_had_instead_of_speech() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"output_modalities": ["text"]})
    driver.speak()
    driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 0))
    check(driver.sent, media_track=False)
    assert driver.types[-8:] == [
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        *CHAIN[2:],
    ]
    assert driver.sent[-2]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "It is noon."}]


def test_g711_output_is_8_khz() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"audio": {"output": {"format": {"type": "audio/pcma"}}}})
    driver.tell(driver.dialogue.begin_response(1))
    sent = driver.tell(driver.dialogue.audio(1, np.zeros(4800, np.float32)))
    encoded = b"".join(base64.b64decode(event["delta"]) for event in sent)
    assert len(encoded) == 1600
    assert set(encoded) == {0xD5}


def test_a_new_output_format_begins_with_the_next_response() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.begin_response(1))
    driver.client("session.update", session={"audio": {"output": {"format": {"type": "audio/pcma"}}}})
    (sent,) = driver.tell(driver.dialogue.audio(1, ramp(480)))
    assert len(base64.b64decode(sent["delta"])) == 960


def test_a_response_that_is_asked_for_is_created_at_once() -> None:
    driver = WireDriver()
    metadata = {"client_event_id": "e9"}
    (created,) = driver.client("response.create", response={"metadata": metadata, "instructions": "Greet."})
    assert created["type"] == "response.created"
    assert created["response"]["metadata"] == metadata
    assert driver.take_requests() == [CreateResponse("Greet.")]
    begun = driver.tell(driver.dialogue.begin_response(1))
    assert types_of(begun) == OPENING[1:]
    assert begun[1]["response_id"] == created["response"]["id"]
    closing = driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 0))
    assert closing[-2]["response"]["metadata"] == metadata


def test_a_response_that_the_model_does_not_give_is_done_and_empty() -> None:
    driver = WireDriver()
    driver.client("response.create")
    done, _ = driver.tell(driver.dialogue.no_response())
    assert done["type"] == "response.done"
    assert (done["response"]["status"], done["response"]["output"]) == ("completed", [])
    assert driver.tell(driver.dialogue.no_response()) == []
    check(driver.sent, media_track=False)


def test_no_response_does_not_end_one_that_has_begun() -> None:
    driver = WireDriver()
    driver.speak()
    assert driver.tell(driver.dialogue.no_response()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_response_at_a_time_is_refused(begun: bool) -> None:
    driver = WireDriver()
    if begun:
        driver.speak()
    else:
        driver.client("response.create")
    (answer,) = driver.client("response.create", event_id="r2")
    assert answer["error"]["code"] == "conversation_already_has_active_response"
    assert answer["error"]["event_id"] == "r2"


@pytest.mark.parametrize(("params", "param"), [({"conversation": "none"}, "conversation"), ({"input": []}, "input")])
def test_responses_beside_the_conversation_are_refused(params: dict[str, Any], param: str) -> None:
    driver = WireDriver()
    (answer,) = driver.client("response.create", response=params)
    assert (answer["error"]["code"], answer["error"]["param"]) == ("unsupported_value", f"response.{param}")
    assert driver.requests == []


def test_a_running_response_is_cancelled_by_the_session() -> None:
    driver = WireDriver()
    driver.speak()
    response_id = driver.sent[1]["response"]["id"]
    assert driver.client("response.cancel", response_id=response_id) == []
    assert driver.take_requests() == [CancelResponse()]


def test_a_response_that_has_not_begun_is_cancelled_at_once() -> None:
    driver = WireDriver()
    driver.client("response.create")
    done, _ = driver.client("response.cancel")
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert driver.take_requests()[-1] == CancelResponse()


@pytest.mark.parametrize("fields", [{}, {"response_id": "resp_x"}])
def test_cancelling_what_is_not_active_fails_in_livekits_words(fields: dict[str, Any]) -> None:
    driver = WireDriver()
    if fields:
        driver.speak()
    (answer,) = driver.client("response.cancel", **fields)
    assert answer["error"]["code"] == "response_cancel_not_active"
    assert answer["error"]["message"].startswith("Cancellation failed")


def test_output_can_be_cleared_on_a_track_only() -> None:
    driver = WireDriver()
    driver.speak()
    assert driver.client("output_audio_buffer.clear") == []
    assert driver.take_requests() == []
    driver = WireDriver(media_track=True)
    driver.client("response.create")
    driver.take_requests()
    assert driver.client("output_audio_buffer.clear")[0]["response"]["status"] == "cancelled"
    assert driver.take_requests() == [ClearOutput()]
