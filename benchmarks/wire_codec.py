"""How long events take to encode and decode, against openai-python's pydantic models; part of ``benchmarks.wire``."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from openai.types.realtime import (
    InputAudioBufferAppendEvent,
    ResponseAudioDeltaEvent,
    ResponseAudioTranscriptDeltaEvent,
    SessionUpdateEvent,
)

from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.events import ResponseOutputAudioDelta, ResponseOutputAudioTranscriptDelta

__all__ = ["CodecCost", "codec_costs"]

_REPEAT_S = 0.5
_EVENT_ID = "event_0011223344556677000001"
_RESPONSE_ID = "resp_0011223344556677000001"
_ITEM_ID = "item_0011223344556677000001"


@dataclass(frozen=True, slots=True)
class CodecCost:
    """One kind of event, µs each."""

    name: str
    ours_us: float
    theirs_us: float
    """With ``json`` between text and objects, as openai-python does it."""
    theirs_json_us: float
    """With pydantic's own reader and writer of JSON."""


def _microseconds(work: Callable[[], object]) -> float:
    """Return the shortest of many runs, µs: what the machine does when nothing disturbs it."""
    best_s, until_s = float("inf"), time.perf_counter() + _REPEAT_S
    while time.perf_counter() < until_s:
        began_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s * 1e6


def _append(length_ms: int) -> str:
    audio = base64.b64encode(bytes(48 * length_ms)).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


def _decode_append(text: str) -> bytes:
    return base64.b64decode(InputAudioBufferAppendEvent.model_validate(json.loads(text)).audio, validate=True)


def _decode_append_json(text: str) -> bytes:
    return base64.b64decode(InputAudioBufferAppendEvent.model_validate_json(text).audio, validate=True)


def _audio_event(pcm: bytes) -> ResponseAudioDeltaEvent:
    delta = base64.b64encode(pcm).decode()
    return ResponseAudioDeltaEvent(
        type="response.output_audio.delta",
        delta=delta,
        output_index=0,
        content_index=0,
        event_id=_EVENT_ID,
        response_id=_RESPONSE_ID,
        item_id=_ITEM_ID,
    )


def _text_event(text: str) -> ResponseAudioTranscriptDeltaEvent:
    return ResponseAudioTranscriptDeltaEvent(
        type="response.output_audio_transcript.delta",
        delta=text,
        output_index=0,
        content_index=0,
        event_id=_EVENT_ID,
        response_id=_RESPONSE_ID,
        item_id=_ITEM_ID,
    )


def _ours_audio(pcm: bytes) -> bytes:
    return encode(ResponseOutputAudioDelta(delta=pcm, event_id=_EVENT_ID, response_id=_RESPONSE_ID, item_id=_ITEM_ID))


def _ours_text(text: str) -> bytes:
    return encode(
        ResponseOutputAudioTranscriptDelta(
            delta=text, audio_start_ms=0, event_id=_EVENT_ID, response_id=_RESPONSE_ID, item_id=_ITEM_ID
        )
    )


def codec_costs() -> list[CodecCost]:
    """Measure all kinds of events."""
    short, long = _append(20), _append(240_000)
    settings = {
        "type": "realtime",
        "instructions": "Be brief.",
        "audio": {"input": {"turn_detection": {"type": "semantic_vad", "interrupt_response": True}}},
    }
    update = json.dumps({"type": "session.update", "session": settings})
    tick, lump = bytes(960), bytes(4800)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object], Callable[[], object]]] = {
        "decode append, 20 ms": (
            lambda: decode_client(short),
            lambda: _decode_append(short),
            lambda: _decode_append_json(short),
        ),
        "decode append, 240 s": (
            lambda: decode_client(long),
            lambda: _decode_append(long),
            lambda: _decode_append_json(long),
        ),
        "decode session.update": (
            lambda: decode_client(update),
            lambda: SessionUpdateEvent.model_validate(json.loads(update)),
            lambda: SessionUpdateEvent.model_validate_json(update),
        ),
        "encode audio delta, 20 ms": (
            lambda: _ours_audio(tick),
            lambda: json.dumps(_audio_event(tick).model_dump()),
            lambda: _audio_event(tick).model_dump_json(),
        ),
        "encode audio delta, 100 ms": (
            lambda: _ours_audio(lump),
            lambda: json.dumps(_audio_event(lump).model_dump()),
            lambda: _audio_event(lump).model_dump_json(),
        ),
        "encode transcript delta": (
            lambda: _ours_text("It is "),
            lambda: json.dumps(_text_event("It is ").model_dump()),
            lambda: _text_event("It is ").model_dump_json(),
        ),
    }
    return [CodecCost(name, *(_microseconds(way) for way in three)) for name, three in ways.items()]
