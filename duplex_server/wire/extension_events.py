"""Events that the server sends to clients that asked for them: what a full-duplex model adds to the protocol.

As in :mod:`~duplex_server.wire.server_events`, one Struct each. Knows nothing about who asked.
"""

from __future__ import annotations

import msgspec

from duplex_server.wire.server_events import FromServer
from duplex_server.wire.session_object import Session

__all__ = [
    "OverlapDecision",
    "PlaybackAcknowledged",
    "PlaybackFigures",
    "PlaybackPosition",
    "PlaybackReport",
    "SessionClosed",
    "SessionExpired",
    "SessionGoAway",
    "SessionHeartbeatAck",
    "SessionQueueDone",
    "SessionQueueUpdate",
    "SessionQueued",
    "SessionReplaced",
    "SessionResumed",
    "SessionResyncRequired",
]


class OverlapDecision(FromServer, kw_only=True, frozen=True, tag="overlap.decision"):
    """Extension (``overlap``): the user spoke over the model, and this is what the server made of it."""

    policy: str
    action: str
    """``hold`` (undecided, voice lowered), ``ignore`` or ``interrupt``."""
    reason: str = ""
    audio_start_ms: int = 0
    """Onset on the input clock."""


class PlaybackPosition(FromServer, kw_only=True, frozen=True, tag="playback.position"):
    """Extension (``playback``): how much of a response was made, sent and, as the server believes, heard."""

    response_id: str
    item_id: str
    played_ms: int = 0
    sent_ms: int = 0
    generated_ms: int = 0


class PlaybackFigures(msgspec.Struct, kw_only=True, frozen=True):
    """How far a response's audio has come, ms."""

    generated_ms: int = 0
    sent_ms: int = 0
    played_ms: int = 0
    committed_ms: int = 0


class PlaybackReport(msgspec.Struct, kw_only=True, frozen=True):
    """``event`` of ``playback.acknowledged``."""

    response_id: str
    item_id: str
    played_ms: int = 0
    committed_ms: int = 0
    playback: PlaybackFigures = PlaybackFigures()


class PlaybackAcknowledged(FromServer, kw_only=True, frozen=True, tag="playback.acknowledged"):
    """Extension: answer to ``playback.ack``."""

    event: PlaybackReport


class SessionGoAway(FromServer, kw_only=True, frozen=True, tag="session.go_away"):
    """Extension (``limits``): the server will close this session."""

    reason: str
    """``timeout``, ``shutdown``, ``model`` or ``context_full``."""
    time_left_ms: int = 0


class SessionClosed(FromServer, kw_only=True, frozen=True, tag="session.closed"):
    """Extension: last event after a ``session.close``."""

    reason: str = "client"


class SessionHeartbeatAck(FromServer, kw_only=True, frozen=True, tag="session.heartbeat_ack"):
    """Extension: answer to ``session.heartbeat``."""


class SessionResumed(FromServer, kw_only=True, frozen=True, tag="session.resumed"):
    """Extension: first event of a connection that resumes a session; what the client missed follows."""

    session: Session
    """As it is now; the events that changed it may be among those that follow."""
    resume_token: str
    """The new one. The old one is void as soon as the client has sent anything over this connection."""
    attachment_generation: int
    replay_from_seq: int
    """Number of the first event that follows, the next one if nothing was missed."""
    client_events_received: int
    """How many of the client's events came through, over all connections, ``session.resume`` not counted."""


class SessionReplaced(FromServer, kw_only=True, frozen=True, tag="session.replaced"):
    """Extension: last event of a connection whose session was resumed over another one."""

    attachment_generation: int = 0
    """Of the other one."""


class SessionExpired(FromServer, kw_only=True, frozen=True, tag="session.expired"):
    """Extension: there is no session to resume, or not any more. The connection is closed."""

    session_id: str
    reason: str = "unknown"


class SessionResyncRequired(FromServer, kw_only=True, frozen=True, tag="session.resync_required"):
    """Extension: the session is resumed, but these events are gone; ask for the items that matter."""

    reason: str
    """``journal_overflow``, or ``unknown_seq`` for a number that was never reached."""
    first_missing_seq: int = 0
    last_missing_seq: int = 0


class _InLine(FromServer, kw_only=True, frozen=True):
    ticket_id: str
    position: int = 1
    """How many places have to fall free."""
    estimated_wait_s: float = 0.0
    queue_length: int = 0
    """How many wait, this one included."""


class SessionQueued(_InLine, kw_only=True, frozen=True, tag="session.queued"):
    """Extension: the server is full, and this connection waits for a place; comes before ``session.created``."""


class SessionQueueUpdate(_InLine, kw_only=True, frozen=True, tag="session.queue_update"):
    """Extension: how the waiting goes."""


class SessionQueueDone(FromServer, kw_only=True, frozen=True, tag="session.queue_done"):
    """Extension: there is a place; ``session.created`` follows."""

    ticket_id: str
