"""JSON to events and back. Strict about types, blind to unknown keys, and never surprised by a peer's bytes.

Knows nothing about order or sessions.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from duplex_server.errors import InvalidEvent
from duplex_server.wire.client_events import MAX_EVENT_ID_CHARS
from duplex_server.wire.events import ClientEvent, ServerEvent, UnknownEvent

__all__ = ["MAX_MESSAGE_BYTES", "decode_as", "decode_client", "decode_server", "encode"]

T = TypeVar("T")

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""One event as JSON. OpenAI takes 15 MiB of audio in one append; the rest is room for the JSON around it."""

_MAX_MESSAGE_CHARS = 300
"""Of an error message: enough for a sentence, whatever the peer wrote into the value at fault."""

_client_decoder: msgspec.json.Decoder[ClientEvent] = msgspec.json.Decoder(ClientEvent)
_server_decoder: msgspec.json.Decoder[ServerEvent] = msgspec.json.Decoder(ServerEvent)
_encoder = msgspec.json.Encoder()


class _Envelope(msgspec.Struct):
    type: Any = None
    event_id: Any = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_object_decoder = msgspec.json.Decoder(dict[str, Any])

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def decode_client(text: str | bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> ClientEvent:
    """Decode one event from a client.

    Args:
        text: one JSON object.
        max_bytes: longest message to look at.

    Raises:
        InvalidEvent: too long, not JSON, not an object, of an unknown type, or with a wrong or missing field. Carries
            ``param`` (where in the event) and the client's ``event_id`` as far as they can be told.
    """
    if len(text) > max_bytes:
        raise InvalidEvent(
            f"The event is longer than {max_bytes} bytes. Send audio in smaller pieces.", code="message_too_large"
        )
    return decode_as(_client_decoder, text)


def decode_as(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    """Decode a JSON object from a client.

    Raises:
        InvalidEvent: not JSON, not an object, or with a wrong or missing field; as :func:`decode_client` says.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _invalid(text, str(error)) from None
    except (ValueError, RecursionError):
        raise InvalidEvent("The message is not valid JSON, or is nested too deeply.", code="invalid_json") from None


def decode_server(text: str | bytes) -> ServerEvent | UnknownEvent:
    """Decode one event from a server, ours or another of the same protocol.

    Returns:
        The event; :class:`UnknownEvent` if its type is not known here or its fields are not as expected.

    Raises:
        InvalidEvent: not a JSON object.
    """
    try:
        return _server_decoder.decode(text)
    except msgspec.ValidationError:
        pass
    except (ValueError, RecursionError):
        raise InvalidEvent("The server sent something that is not JSON.", code="invalid_json") from None
    try:
        payload = _object_decoder.decode(text)
    except (ValueError, RecursionError):
        raise InvalidEvent("The server sent JSON that is not an object.", code="invalid_json") from None
    return UnknownEvent(type=str(payload.get("type", "")), payload=payload)


def encode(event: msgspec.Struct) -> bytes:
    """Encode an event, or any other object of the protocol, as one line of JSON, UTF-8; bytes become base64."""
    return _encoder.encode(event)


def _invalid(text: str | bytes, problem: str) -> InvalidEvent:
    """Build the error for JSON that is not an event, from msgspec's words."""
    try:
        envelope = _envelope_decoder.decode(text)
    except (ValueError, RecursionError):  # not an object, or broken behind the field at fault
        return InvalidEvent("An event must be one whole JSON object.", code="invalid_json")
    event_id = envelope.event_id
    if not isinstance(event_id, str) or len(event_id) > MAX_EVENT_ID_CHARS:
        event_id = None
    found = _PATH.search(problem)
    path = found["path"] if found else ""
    sentence = (problem[: found.start()] if found else problem).replace("`bytes`", "`base64 string`")
    missing = _MISSING.search(problem)
    if missing:
        param = f"{path}.{missing['field']}" if path else missing["field"]
        return InvalidEvent(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter", event_id=event_id
        )
    if path == "type":
        kind = envelope.type
        sentence = f"Unknown event type {kind!r}" if isinstance(kind, str) else "The event's type must be a string"
    message = f"{sentence} (in '{path}')." if path and path != "type" else f"{sentence}."
    return InvalidEvent(_clipped(message), param=path or None, event_id=event_id)


def _clipped(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE_CHARS else message[: _MAX_MESSAGE_CHARS - 1] + "…"
