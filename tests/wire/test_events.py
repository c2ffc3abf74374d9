from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest

from duplex_server.wire import client_events, extension_events, server_events
from duplex_server.wire.codec import decode_client, decode_server, encode
from duplex_server.wire.events import ClientEvent, ServerEvent, SessionCreated
from duplex_server.wire.objects import (
    ErrorObject,
    InputAudioPart,
    MessageItem,
    OutputAudioPart,
    Response,
    ResponseAudioPart,
    ResponseError,
    StatusDetails,
)
from duplex_server.wire.session_object import (
    AudioConfigPatch,
    AudioInputPatch,
    Session,
    SessionPatch,
    TurnDetectionPatch,
)
from tests.helpers.openai_schema import known_types, validate
from tests.helpers.wire_driver import WireDriver
from tests.helpers.wire_oracle import EXTENSIONS

USERS = MessageItem(id="item_1", role="user", status="completed", content=[InputAudioPart()])
MODELS = MessageItem(id="item_2", role="assistant", status="incomplete", content=[OutputAudioPart(transcript="Hi")])
VALUES: dict[str, Any] = {
    "session": Session(id="sess_1", model="embedded"),
    "item": MODELS,
    "item_id": "item_2",
    "response_id": "resp_1",
    "response": Response(
        id="resp_1",
        status="cancelled",
        status_details=StatusDetails(type="cancelled", reason="turn_detected"),
        output=[MODELS],
        metadata={"a": "b"},
    ),
    "part": ResponseAudioPart(transcript="Hi"),
    "delta": b"\0\1",
    "error": ErrorObject(type="invalid_request_error", code="invalid_value", message="No."),
    "event": extension_events.PlaybackReport(response_id="resp_1", item_id="item_2", played_ms=5),
    "reason": "timeout",
    "policy": "guarded",
    "action": "hold",
    "audio": b"\0\1\2",
    "image": "/9j/",
    "audio_end_ms": 5.0,
    "played_ms": 5.0,
}
VALUES |= {
    "session_id": "sess_1",
    "resume_token": "token",
    "attachment_generation": 2,
    "replay_from_seq": 3,
    "client_events_received": 4,
    "server_event_seq": 5,
    "ticket_id": "ticket",
    "unit": 7,
    "decision": "speak",
    "max_session_ms": 60_000,
    "tokens_before": 8000,
    "expires_at": 1_700_000_000,
}
CLIENT_VALUES = {
    **VALUES,
    "event": "barge_in",
    "session": SessionPatch(
        instructions="",
        audio=AudioConfigPatch(input=AudioInputPatch(turn_detection=TurnDetectionPatch(type="server_vad"))),
    ),
    "item": USERS,
}


def _kinds(union: Any) -> list[Any]:
    return [pytest.param(kind, id=kind.__struct_config__.tag) for kind in get_args(union)]


def _made(kind: type[msgspec.Struct], values: dict[str, Any]) -> Any:
    needed = [field.name for field in msgspec.structs.fields(kind) if field.required]
    chosen: dict[str, Any] = {name: values[name] for name in needed}
    if chosen.get("error") is not None and "Failed" in kind.__name__:
        chosen["error"] = ResponseError(code="x")
    if kind.__name__ == "TurnEvent":
        chosen["event"] = "barge_in"
    return kind(**chosen)


def test_class_names_are_the_types_in_camel_case() -> None:
    for kind in (*get_args(ClientEvent), *get_args(ServerEvent)):
        words = re.split(r"[._]", kind.__struct_config__.tag)
        assert kind.__name__ in ("".join(word.capitalize() for word in words), "ErrorEvent")


def test_the_unions_hold_every_event() -> None:
    for modules, union in (((client_events,), ClientEvent), ((server_events, extension_events), ServerEvent)):
        offered = [getattr(module, name) for module in modules for name in module.__all__]
        structs = [kind for kind in offered if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        tagged = {kind for kind in structs if kind.__struct_config__.tag not in (None, "FromServer")}
        assert tagged == set(get_args(union))


@pytest.mark.parametrize("kind", _kinds(ClientEvent))
def test_client_events_survive_the_wire(kind: type[msgspec.Struct]) -> None:
    event = _made(kind, CLIENT_VALUES)
    assert decode_client(encode(event)) == event


@pytest.mark.parametrize("kind", _kinds(ServerEvent))
def test_server_events_survive_the_wire(kind: type[msgspec.Struct]) -> None:
    event = _made(kind, VALUES)
    assert decode_server(encode(event)) == event


@pytest.mark.parametrize("kind", _kinds(ServerEvent))
def test_server_events_are_in_openais_shape(kind: type[msgspec.Struct]) -> None:
    event = msgspec.json.decode(encode(_made(kind, VALUES)))
    assert validate(event) == (event["type"] not in EXTENSIONS)


def test_extensions_have_names_of_their_own() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(ServerEvent)}
    assert tags - known_types() == EXTENSIONS


def test_every_event_and_object_has_a_docstring() -> None:
    for kind in (*get_args(ClientEvent), *get_args(ServerEvent)):
        assert (kind.__doc__ or "").endswith((".", "``.")), kind


def test_our_own_events_can_be_read_back_as_a_client_does() -> None:
    for event in WireDriver(opt_in=("limits",)).dialogue.open():
        decoded = decode_server(encode(event))
        assert isinstance(decoded, SessionCreated)
        assert decoded == event


def test_a_strange_servers_session_can_be_read() -> None:
    text = (
        '{"type":"session.created","event_id":"e","session":{"type":"realtime","object":"realtime.session","id":"s",'
        '"model":"gpt-realtime","output_modalities":["audio"],"audio":{"input":{"format":{"type":"audio/pcm","rate":'
        '24000},"transcription":null,"noise_reduction":{"type":"near_field"},"turn_detection":{"type":"server_vad",'
        '"threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"idle_timeout_ms":null,"create_response":'
        'true,"interrupt_response":true}},"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin",'
        '"speed":1.0}},"tools":[],"tool_choice":"auto","max_output_tokens":"inf","tracing":null,"truncation":"auto",'
        '"prompt":null,"expires_at":1,"include":null,"reasoning":{"effort":"low"}}}'
    )
    assert isinstance(decode_server(text), SessionCreated)
