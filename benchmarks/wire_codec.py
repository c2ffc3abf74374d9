"""How long events take to encode and decode, against ``json`` and openai-python's pydantic models.

``python -m benchmarks.wire_codec`` prints a table.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

from openai.types.realtime import (
    InputAudioBufferAppendEvent,
    ResponseAudioDeltaEvent,
    ResponseAudioTranscriptDeltaEvent,
    SessionUpdateEvent,
)

from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.events import ResponseOutputAudioDelta, ResponseOutputAudioTranscriptDelta

_REPEAT_S = 0.5
_EVENT_ID = "event_0011223344556677000001"
_RESPONSE_ID = "resp_0011223344556677000001"
_ITEM_ID = "item_0011223344556677000001"


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


def _encode_audio(pcm: bytes) -> str:
    delta = base64.b64encode(pcm).decode()
    event = ResponseAudioDeltaEvent(
        type="response.output_audio.delta",
        delta=delta,
        output_index=0,
        content_index=0,
        event_id=_EVENT_ID,
        response_id=_RESPONSE_ID,
        item_id=_ITEM_ID,
    )
    return json.dumps(event.model_dump())


def _encode_text(text: str) -> str:
    event = ResponseAudioTranscriptDeltaEvent(
        type="response.output_audio_transcript.delta",
        delta=text,
        output_index=0,
        content_index=0,
        event_id=_EVENT_ID,
        response_id=_RESPONSE_ID,
        item_id=_ITEM_ID,
    )
    return json.dumps(event.model_dump())


def main() -> None:
    """Measure and print."""
    audio_20_ms, audio_4_min = _append(20), _append(240_000)
    update = json.dumps(
        {
            "type": "session.update",
            "session": {
                "type": "realtime",
                "instructions": "Be brief.",
                "audio": {"input": {"turn_detection": {"type": "semantic_vad", "interrupt_response": True}}},
            },
        }
    )
    pcm = bytes(4800)
    rows: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("decode append, 20 ms", lambda: decode_client(audio_20_ms), lambda: _decode_append(audio_20_ms)),
        ("decode append, 240 s", lambda: decode_client(audio_4_min), lambda: _decode_append(audio_4_min)),
        (
            "decode session.update",
            lambda: decode_client(update),
            lambda: SessionUpdateEvent.model_validate(json.loads(update)),
        ),
        (
            "encode audio delta, 100 ms",
            lambda: encode(
                ResponseOutputAudioDelta(delta=pcm, event_id=_EVENT_ID, response_id=_RESPONSE_ID, item_id=_ITEM_ID)
            ),
            lambda: _encode_audio(pcm),
        ),
        (
            "encode transcript delta",
            lambda: encode(
                ResponseOutputAudioTranscriptDelta(
                    delta="It is ", audio_start_ms=0, event_id=_EVENT_ID, response_id=_RESPONSE_ID, item_id=_ITEM_ID
                )
            ),
            lambda: _encode_text("It is "),
        ),
    ]
    print(f"{'':28} {'ours µs':>10} {'json + pydantic µs':>20} {'ratio':>7}")
    for name, ours, theirs in rows:
        ours_us, theirs_us = _microseconds(ours), _microseconds(theirs)
        print(f"{name:28} {ours_us:10.1f} {theirs_us:20.1f} {theirs_us / ours_us:6.1f}×")


if __name__ == "__main__":
    main()
