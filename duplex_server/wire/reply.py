"""What a client event leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from duplex_server.wire.events import ServerEvent
from duplex_server.wire.requests import Request

__all__ = ["Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Events to send now, then requests for the session to carry out, each in order."""

    events: Sequence[ServerEvent] = field(default_factory=list)
    requests: Sequence[Request] = field(default_factory=list)
