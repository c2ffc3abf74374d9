"""What is asked for, and what is given, at ``POST /v1/live/sessions``.

Knows nothing about calls.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from duplex_server.wire.codec import decode_as
from duplex_server.wire.live_events import LiveConfig

__all__ = ["LiveAnswer", "LiveCreated", "LiveRequest", "LiveTransport", "read_live_request"]


class LiveTransport(msgspec.Struct, kw_only=True, frozen=True):
    """A session description; an offer in the request, the answer to it in the reply."""

    sdp: str
    type: Literal["webrtc"] = "webrtc"


class LiveRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The body of the request; keys that are not named here are ignored."""

    session: LiveConfig
    transport: LiveTransport


class LiveCreated(msgspec.Struct, kw_only=True, frozen=True):
    """The session that was made."""

    id: str


class LiveAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The reply."""

    session: LiveCreated
    transport: LiveTransport


_decoder = msgspec.json.Decoder(LiveRequest)


def read_live_request(body: bytes) -> LiveRequest:
    """Decode the body.

    Raises:
        InvalidEvent: it is not such an object; ``param`` says where.
    """
    return decode_as(_decoder, body)
