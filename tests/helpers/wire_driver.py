"""Drives a Dialogue as a session would, and keeps what it sent as JSON objects."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from duplex_server.errors import ClientError
from duplex_server.types import ModelSpec, Pcm, SessionSetup
from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.dialogue import Dialogue
from duplex_server.wire.events import ServerEvent
from duplex_server.wire.requests import Request, TurnTaking

__all__ = ["CHAIN", "OPENING", "SPEC", "WireDriver", "ramp", "types_of"]

SPEC = ModelSpec(
    name="embedded",
    unit_ms=40,
    transcribes=True,
    languages=("en", "zh"),
    voices=("calm", "bright"),
    examples=("What time is it?",),
)


def ramp(n_samples: int) -> Pcm:
    """Return samples whose values tell where they belong."""
    return (np.arange(n_samples, dtype=np.float32) % 1000) / np.float32(1000)


CHAIN = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
    "rate_limits.updated",
]
"""Types of what closes a spoken response without a media track."""
OPENING = [
    "response.created",
    "conversation.item.added",
    "response.output_item.added",
    "response.content_part.added",
]
"""Types of what opens a response."""


def types_of(events: Iterable[dict[str, Any]]) -> list[str]:
    """Return the types of events, in order."""
    return [event["type"] for event in events]


class WireDriver:
    """One conversation; ``sent`` is what the peer got, ``requests`` what the session was asked for."""

    def __init__(
        self,
        *,
        media_track: bool = False,
        opt_in: Iterable[str] = (),
        spec: ModelSpec = SPEC,
        setup: SessionSetup | None = None,
        turn_taking: TurnTaking | None = None,
        session_id: str = "sess_00112233445566778899aabb",
        input_rates_hz: frozenset[int] = frozenset({24_000}),
    ) -> None:
        self.dialogue = Dialogue(
            spec=spec,
            session_id=session_id,
            media_track=media_track,
            setup=setup or SessionSetup(voice=spec.voices[0]),
            turn_taking=turn_taking or TurnTaking(),
            opt_in=frozenset(opt_in),
            expires_at=1_800_000_000,
            input_rates_hz=input_rates_hz,
        )
        self.sent: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.tell(self.dialogue.open())

    def tell(self, events: Iterable[ServerEvent]) -> list[dict[str, Any]]:
        """Send what the dialogue returned; returns it as the peer sees it."""
        new: list[dict[str, Any]] = [json.loads(encode(event)) for event in events]
        self.sent += new
        return new

    def session(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        """Let the session tell something, of the dialogue or of its reports, by the method's name."""
        teller = self.dialogue if hasattr(self.dialogue, name) else self.dialogue.reports
        return self.tell(getattr(teller, name)(*arguments))

    def client(self, type_: str, **fields: Any) -> list[dict[str, Any]]:
        """Let the client send an event; returns the answers."""
        return self.client_text(json.dumps({"type": type_, **fields}))

    def client_text(self, text: str | bytes) -> list[dict[str, Any]]:
        """Let the client send bytes; returns the answers."""
        try:
            event = decode_client(text)
        except ClientError as error:
            return self.tell(self.dialogue.refuse(error))
        reply = self.dialogue.receive(event)
        self.requests += reply.requests
        return self.tell(reply.events)

    @property
    def types(self) -> list[str]:
        """Types of everything sent so far."""
        return types_of(self.sent)

    def append(self, audio: bytes, **fields: Any) -> list[dict[str, Any]]:
        """Let the client send audio."""
        return self.client("input_audio_buffer.append", audio=base64.b64encode(audio).decode(), **fields)

    def speak(self, turn: int = 1) -> None:
        """Let the model say something, 200 ms long, without end."""
        self.tell(self.dialogue.begin_response(turn))
        self.tell(self.dialogue.playback(turn, "started"))
        self.tell(self.dialogue.text(turn, "It is ", 0))
        self.tell(self.dialogue.audio(turn, ramp(4800)))
        self.tell(self.dialogue.text(turn, "noon.", 200))

    def take_requests(self) -> list[Request]:
        """Return and forget what was asked of the session."""
        taken, self.requests = self.requests, []
        return taken
