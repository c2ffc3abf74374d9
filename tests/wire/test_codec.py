from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.errors import InvalidEvent
from duplex_server.wire.codec import MAX_MESSAGE_BYTES, decode_client, decode_server, encode
from duplex_server.wire.events import (
    ClientEvent,
    ErrorEvent,
    InputAudioBufferAppend,
    ResponseCreate,
    ResponseOutputAudioDelta,
    SessionUpdate,
    UnknownEvent,
)
from duplex_server.wire.objects import ErrorObject


def _refusal(text: str | bytes, **limits: int) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        decode_client(text, **limits)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        '{"type":"nonsense"',
        "[1]",
        "42",
        "null",
        '"text"',
        "\ufeff{}",
        '{"type":"barge_in"} x',
        b"\xff\xfe",
        "\ud800",
    ],
)
def test_what_is_not_a_json_object_is_invalid_json(text: str | bytes) -> None:
    refusal = _refusal(text)
    assert (refusal.error_code, refusal.param, refusal.event_id) == ("invalid_json", None, None)


@pytest.mark.parametrize("place", ['"padding":', '"session":{"tools":', '"response":{"input":'])
def test_json_nested_too_deeply_is_refused(place: str) -> None:
    assert _refusal('{"type":"barge_in",' + place + "[" * 200_000).error_code == "invalid_json"


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({}, "missing_required_parameter", "type"),
        ({"type": 7}, "invalid_value", "type"),
        ({"type": "response.started"}, "invalid_value", "type"),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        ({"type": "session.update", "session": []}, "invalid_value", "session"),
        ({"type": "session.update", "session": {"instructions": 5}}, "invalid_value", "session.instructions"),
        ({"type": "session.update", "session": {"type": "transcription"}}, "invalid_value", "session.type"),
        (
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "model"}}}}},
            "invalid_value",
            "session.audio.input.turn_detection.type",
        ),
        (
            {"type": "session.update", "session": {"audio": {"output": {"speed": 9}}}},
            "invalid_value",
            "session.audio.output.speed",
        ),
        ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
        ({"type": "input_audio_buffer.append", "audio": 1}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": None}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "not base64"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_value", "audio"),
        (
            {"type": "input_audio_buffer.append", "audio": "", "video_frames": ["", 1]},
            "invalid_value",
            "video_frames[1]",
        ),
        ({"type": "input_audio_buffer.append", "audio": "", "video_frames": [""] * 3}, "invalid_value", "video_frames"),
        ({"type": "conversation.item.create", "item": {"type": "poem"}}, "invalid_value", "item.type"),
        ({"type": "conversation.item.create", "item": {"type": "message"}}, "missing_required_parameter", "item.role"),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "user", "content": [{"type": "input_text"}, {"type": "x"}]},
            },
            "invalid_value",
            "item.content[1].type",
        ),
        ({"type": "conversation.item.truncate", "item_id": "i"}, "missing_required_parameter", "audio_end_ms"),
        ({"type": "conversation.item.truncate", "item_id": "i", "audio_end_ms": "5"}, "invalid_value", "audio_end_ms"),
        ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "invalid_value", "response.metadata[...]"),
        ({"type": "response.create", "response": {"metadata": {"k" * 65: ""}}}, "invalid_value", "response.metadata"),
        ({"type": "response.cancel", "response_id": 4}, "invalid_value", "response_id"),
    ],
)
def test_a_wrong_field_is_named_and_the_event_id_comes_back(event: dict[str, Any], code: str, param: str) -> None:
    refusal = _refusal(json.dumps({**event, "event_id": "mine"}))
    assert (refusal.error_code, refusal.param, refusal.event_id) == (code, param, "mine")
    assert refusal.message.endswith(".")


@pytest.mark.parametrize("event_id", [5, ["x"], "x" * 513, None])
def test_an_event_id_that_is_none_is_not_echoed(event_id: Any) -> None:
    assert _refusal(json.dumps({"type": "nonsense", "event_id": event_id})).event_id is None


def test_an_event_id_of_the_wrong_type_is_refused() -> None:
    assert _refusal('{"type":"barge_in","event_id":5}').param == "event_id"


def test_a_long_wrong_value_does_not_make_a_long_message() -> None:
    assert len(_refusal(json.dumps({"type": "x" * 100_000})).message) <= 300


def test_the_message_says_base64_rather_than_bytes() -> None:
    assert "base64" in _refusal('{"type":"input_audio_buffer.append","audio":1}').message


def test_fifteen_mebibytes_of_audio_are_taken_in_one_event() -> None:
    audio = bytes(range(256)) * (11 * 4096)
    text = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})
    assert 14 * 2**20 < len(text) < MAX_MESSAGE_BYTES
    event = decode_client(text)
    assert isinstance(event, InputAudioBufferAppend)
    assert event.audio == audio


def test_an_event_beyond_the_limit_is_refused_without_being_read() -> None:
    assert _refusal("{" * 101, max_bytes=100).error_code == "message_too_large"
    assert _refusal("{" * 100, max_bytes=100).error_code == "invalid_json"


def test_unknown_keys_are_ignored() -> None:
    event = decode_client(
        '{"type":"session.update","session":{"type":"realtime","tracing":"auto","model":"gpt-realtime","x":{"y":[1]},'
        '"audio":{"input":{"noise_reduction":{"type":"near_field"}}}},"z":1}'
    )
    assert isinstance(event, SessionUpdate)


def test_the_type_may_come_last() -> None:
    assert decode_client('{"audio":"AAA=","type":"input_audio_buffer.append"}') == InputAudioBufferAppend(audio=b"\0\0")


def test_absent_keys_stay_absent_in_client_events() -> None:
    assert json.loads(encode(ResponseCreate())) == {"type": "response.create"}


def test_all_five_keys_of_an_error_are_sent() -> None:
    sent = json.loads(encode(ErrorEvent(event_id="event_1", error=ErrorObject(message="No."))))
    assert sent["error"] == {"type": "server_error", "code": None, "message": "No.", "param": None, "event_id": None}


def test_audio_comes_back_as_it_was_sent() -> None:
    event = ResponseOutputAudioDelta(event_id="e", response_id="r", item_id="i", delta=b"\x01\x02\x03\x04")
    assert json.loads(encode(event))["delta"] == "AQIDBA=="
    assert decode_server(encode(event)) == event


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"response.hum","unit":3}',
        '{"type":"rate_limits.updated","rate_limits":5}',
        '{"type":5}',
        "{}",
    ],
)
def test_a_client_gets_a_servers_unknown_event_whole(text: str) -> None:
    event = decode_server(text)
    assert isinstance(event, UnknownEvent)
    assert event.payload == json.loads(text)
    assert event.type == str(event.payload.get("type", ""))


@pytest.mark.parametrize("text", ["", "[1]", "{", b"\xff", '{"x":' + "[" * 200_000])
def test_a_client_is_told_of_bytes_that_are_no_event(text: str | bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode_server(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
TYPES = ["session.update", "input_audio_buffer.append", "conversation.item.create", "response.create", "playback.ack"]
KEYS = ["type", "event_id", "session", "audio", "item", "response", "content", "input", "turn_detection", "metadata"]
objects = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=5)


def _read(message: bytes | str) -> ClientEvent | InvalidEvent:
    try:
        return decode_client(message)
    except InvalidEvent as refusal:
        return refusal


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_any_bytes_are_an_event_or_refused(message: bytes | str) -> None:
    assert isinstance(_read(message), ClientEvent | InvalidEvent)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPES), objects, objects)
def test_any_json_is_an_event_or_refused(kind: str, outer: dict[str, Any], inner: dict[str, Any]) -> None:
    event = {**outer, "type": kind, "session": inner, "item": {"type": "message", "role": "user", **inner}}
    assert _read(json.dumps(event)).event_id in (None, event.get("event_id"))
