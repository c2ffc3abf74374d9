"""The oracle accepts what is legal, and every planted fault makes it fail."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from duplex_server.types import Heard
from duplex_server.wire.dialogue import Outcome
from tests.helpers.wire_driver import WireDriver, ramp
from tests.helpers.wire_oracle import OrderError, check

Log = list[dict[str, Any]]


def _legal_log(media_track: bool) -> Log:
    """A question, an answer that is interrupted, a second one that is asked for, and one that never comes."""
    driver = WireDriver(media_track=media_track)
    dialogue = driver.dialogue
    driver.client("session.update", session={"instructions": "Be brief."})
    driver.tell(dialogue.speech_started(300))
    driver.tell(dialogue.speech_stopped(1400))
    driver.tell(dialogue.heard(Heard("what time is it", final=True)))
    for turn, outcome in ((1, Outcome.INTERRUPTED), (2, Outcome.COMPLETED)):
        if turn == 2:
            driver.client("response.create", response={"metadata": {"client_event_id": "e7"}})
        driver.tell(dialogue.begin_response(turn))
        driver.tell(dialogue.playback(turn, "started"))
        driver.tell(dialogue.text(turn, "It is ", 0))
        driver.tell(dialogue.audio(turn, ramp(4800)))
        driver.tell(dialogue.text(turn, "noon.", 200))
        driver.tell(dialogue.end_response(turn, outcome, 150))
        driver.tell(dialogue.playback(turn, "stopped"))
    driver.client("response.create")
    driver.tell(dialogue.no_response())
    driver.client("nonsense")
    return driver.sent


WEBSOCKET = _legal_log(False)
WEBRTC = _legal_log(True)

UNNOTICED_WHEN_LOST = {
    "session.updated",
    "error",
    "conversation.item.truncated",
    "conversation.item.input_audio_transcription.completed",
    "response.output_audio.delta",
    "output_audio_buffer.stopped",
    "output_audio_buffer.cleared",
}
"""Events that are legal to leave out, as far as order can tell."""
HARMLESS_WHEN_REPEATED = {"session.updated", "error", "conversation.item.truncated", "response.output_audio.delta"}


def _places(log: Log, harmless: set[str]) -> list[Any]:
    return [
        pytest.param(log, n, id=f"{event['type']}-{n}") for n, event in enumerate(log) if event["type"] not in harmless
    ]


@pytest.mark.parametrize(("log", "media_track"), [(WEBSOCKET, False), (WEBRTC, True)], ids=["websocket", "webrtc"])
def test_legal_logs_pass(log: Log, media_track: bool) -> None:
    check(log, media_track=media_track)


def test_a_response_keeps_the_format_that_it_began_with() -> None:
    driver = WireDriver(media_track=False)
    driver.tell(driver.dialogue.begin_response(1))
    driver.client("session.update", session={"audio": {"output": {"format": {"type": "audio/pcmu"}}}})
    driver.tell(driver.dialogue.text(1, "Noon.", 0))
    driver.tell(driver.dialogue.audio(1, ramp(4800)))
    assert [event["type"] for event in driver.sent].count("session.updated") == 1
    check(driver.sent, media_track=False, all_ended=False)


@pytest.mark.parametrize(
    ("log", "place"), _places(WEBSOCKET, UNNOTICED_WHEN_LOST) + _places(WEBRTC, UNNOTICED_WHEN_LOST)
)
def test_a_lost_event_is_noticed(log: Log, place: int) -> None:
    with pytest.raises(OrderError):
        check(log[:place] + log[place + 1 :], media_track=log is WEBRTC)


@pytest.mark.parametrize(
    ("log", "place"), _places(WEBSOCKET, HARMLESS_WHEN_REPEATED) + _places(WEBRTC, HARMLESS_WHEN_REPEATED)
)
def test_a_repeated_event_is_noticed(log: Log, place: int) -> None:
    again = {**log[place], "event_id": "event_again"}
    with pytest.raises(OrderError):
        check([*log[: place + 1], again, *log[place + 1 :]], media_track=log is WEBRTC)


ORDERED = (
    "input_audio_buffer.speech",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.",
    "rate_limits.updated",
    "session.created",
)


def _neighbours(log: Log) -> list[Any]:
    found = []
    for place in range(len(log) - 1):
        kinds = log[place]["type"], log[place + 1]["type"]
        if all(kind.startswith(ORDERED) for kind in kinds) and not all(kind.endswith(".delta") for kind in kinds):
            found.append(pytest.param(log, place, id=f"{kinds[0]}-{kinds[1]}-{place}"))
    return found


@pytest.mark.parametrize(("log", "place"), _neighbours(WEBSOCKET) + _neighbours(WEBRTC))
def test_swapped_neighbours_are_noticed(log: Log, place: int) -> None:
    swapped = [*log[:place], log[place + 1], log[place], *log[place + 2 :]]
    with pytest.raises(OrderError):
        check(swapped, media_track=log is WEBRTC)


def _set(kind: str, path: str, value: Any) -> Callable[[Log], None]:
    def plant(log: Log) -> None:
        target: Any = next(event for event in log if event["type"] == kind)
        *steps, last = path.split(".")
        for step in steps:
            target = target[int(step)] if step.isdigit() else target[step]
        if value is _GONE:
            del target[last]
        else:
            target[last] = value

    return plant


_GONE = object()
FAULTS = {
    "no event_id": _set("response.created", "event_id", _GONE),
    "event_id twice": _set("response.created", "event_id", "event_00112233445566770000" + "01"),
    "error of four keys": _set("error", "error.param", _GONE),
    "error type": _set("error", "error.type", "oops"),
    "unknown event": _set("rate_limits.updated", "type", "response.listen"),
    "unknown room": _set("error", "type", "duplex.unit"),
    "extension without asking": _set("error", "type", "overlap.decision"),
    "session without type": _set("session.updated", "session.type", _GONE),
    "another user item": _set("input_audio_buffer.speech_stopped", "item_id", "item_x"),
    "negative time": _set("input_audio_buffer.speech_started", "audio_start_ms", -1),
    "unknown predecessor": _set("conversation.item.added", "previous_item_id", "item_x"),
    "no predecessor key": _set("conversation.item.added", "previous_item_id", _GONE),
    "no transcript key": _set("conversation.item.added", "item.content.0.transcript", _GONE),
    "picture sent back": _set("conversation.item.added", "item.content.0.image_url", "data:"),
    "another response": _set("response.output_audio_transcript.delta", "response_id", "resp_x"),
    "another item": _set("response.output_audio.delta", "item_id", "item_x"),
    "no content_index": _set("response.output_audio.delta", "content_index", _GONE),
    "half a sample": _set("response.output_audio.delta", "delta", "AAAA"),
    "a lump of audio": _set("response.output_audio.delta", "delta", "AAAA" * 4002),
    "audio that begins elsewhere": _set("response.output_audio.delta", "audio_start_ms", 40),
    "another session": _set("session.updated", "session.id", "sess_another"),
    "event_id of another kind": _set("session.updated", "event_id", "item_x"),
    "stopped before it started": _set("input_audio_buffer.speech_stopped", "audio_end_ms", 299),
    "item is not its transcript": _set("response.output_item.done", "item.content.0.transcript", "It is one."),
    "output is not its transcript": _set("response.done", "response.output.0.content.0.transcript", ""),
    "no audio": _set("response.output_audio.delta", "delta", ""),
    "part type": _set("response.content_part.added", "part.type", "output_audio"),
    "transcript is not its deltas": _set("response.output_audio_transcript.done", "transcript", "It is one."),
    "part is not its transcript": _set("response.content_part.done", "part.transcript", ""),
    "status": _set("response.done", "response.status", "listening"),
    "reason": _set("response.done", "response.status_details.reason", "barge_in"),
    "item status": _set("response.done", "response.output.0.status", "completed"),
    "output left out": _set("response.done", "response.output", []),
    "no usage": _set("response.done", "response.usage", _GONE),
    "metadata changed": _set("response.done", "response.metadata", {"unit": "1"}),
    "metadata not strings": _set("response.created", "response.metadata", {"unit": 1}),
    "response of another status": _set("response.created", "response.status", "completed"),
    "text in a spoken part": _set("response.output_audio_transcript.delta", "type", "response.output_text.delta"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_field_is_noticed(fault: Callable[[Log], None]) -> None:
    log = copy.deepcopy(WEBSOCKET)
    fault(log)
    with pytest.raises(OrderError):
        check(log, media_track=False)


def _with(log: Log, place: int, *events: dict[str, Any]) -> Log:
    numbered = [{**event, "event_id": f"event_planted_{n}"} for n, event in enumerate(events)]
    return [*log[:place], *numbered, *log[place:]]


def test_speaking_on_after_an_interruption_is_noticed() -> None:
    place = next(n for n, event in enumerate(WEBSOCKET) if event["type"] == "response.output_audio.delta") + 1
    started = {"type": "input_audio_buffer.speech_started", "item_id": "item_planted", "audio_start_ms": 2000}
    interrupted = _with(WEBSOCKET, place, started)
    with pytest.raises(OrderError, match="speaks on"):
        check(interrupted, media_track=False)


@pytest.mark.parametrize(
    "fault", [{"played_ms": 101}, {"sent_ms": 301}, {"played_ms": -1}, {"response_id": "resp_x"}], ids=str
)
def test_a_wrong_position_is_noticed(fault: dict[str, Any]) -> None:
    response = next(event["response"] for event in WEBSOCKET if event["type"] == "response.done")
    position = {"played_ms": 100, "sent_ms": 100, "generated_ms": 300, "response_id": response["id"]}
    position |= {"type": "playback.position", "item_id": response["output"][0]["id"]}
    check(_with(WEBSOCKET, len(WEBSOCKET), position), media_track=False, opted_in=True)
    with pytest.raises(OrderError):
        check(_with(WEBSOCKET, len(WEBSOCKET), {**position, **fault}), media_track=False, opted_in=True)


def test_audio_deltas_beside_a_media_track_are_noticed() -> None:
    with pytest.raises(OrderError, match="media track"):
        check(WEBSOCKET, media_track=True)


def test_track_events_without_a_track_are_noticed() -> None:
    with pytest.raises(OrderError, match="media track"):
        check(WEBRTC, media_track=False)


def test_stopped_before_done_is_noticed() -> None:
    stopped = next(event for event in WEBRTC if event["type"] == "output_audio_buffer.stopped")
    done = max(n for n, event in enumerate(WEBRTC[: WEBRTC.index(stopped)]) if event["type"] == "response.done")
    log = [event for event in WEBRTC if event is not stopped]
    with pytest.raises(OrderError, match=r"before response\.done"):
        check([*log[:done], stopped, *log[done:]], media_track=True)


def test_transcript_before_its_item_is_noticed() -> None:
    place = next(n for n, event in enumerate(WEBSOCKET) if event["type"].endswith("transcription.completed"))
    added = next(n for n, event in enumerate(WEBSOCKET) if event["type"] == "conversation.item.added")
    log = [event for n, event in enumerate(WEBSOCKET) if n != place]
    with pytest.raises(OrderError, match="not there yet"):
        check([*log[:added], WEBSOCKET[place], *log[added:]], media_track=False)


def test_an_open_response_at_the_end_is_noticed() -> None:
    place = max(n for n, event in enumerate(WEBSOCKET) if event["type"] == "response.done")
    with pytest.raises(OrderError, match="not ended"):
        check(WEBSOCKET[:place], media_track=False)
    check(WEBSOCKET[:place], media_track=False, all_ended=False)
