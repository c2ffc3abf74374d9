"""What is asked for, and what is given, at ``POST /v1/realtime/client_secrets``.

Knows nothing about who may ask.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from duplex_server.wire.codec import decode_as
from duplex_server.wire.session_object import Session, SessionPatch

__all__ = ["ClientSecret", "ExpiresAfter", "SecretRequest", "read_secret_request"]


class ExpiresAfter(msgspec.Struct, kw_only=True, frozen=True):
    """How long a secret is good, and for what. Bounds and default of ``seconds``: OpenAI's."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=10, le=7200)] = 600
    """Within which it begins sessions; those go on afterwards."""
    max_session_seconds: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    """Extension: longest session that it begins."""
    max_sessions: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Extension: how many sessions it begins."""


class SecretRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The body of the request; keys that are not named here are ignored."""

    expires_after: ExpiresAfter | None = None
    session: SessionPatch | None = None
    """What the secret's sessions begin with; they may change it as any session may."""


class ClientSecret(msgspec.Struct, kw_only=True, frozen=True):
    """The answer."""

    value: str
    expires_at: int
    """Unix seconds."""
    session: Session
    """What a session would begin with, every default filled in."""


_decoder = msgspec.json.Decoder(SecretRequest)


def read_secret_request(body: bytes) -> SecretRequest:
    """Decode the body; an empty one asks for a secret with all defaults.

    Raises:
        InvalidEvent: it is not such an object; ``param`` says where.
    """
    return decode_as(_decoder, body) if body.strip() else SecretRequest()
