"""Events that the server sends to clients that asked for them: what a full-duplex model adds to the protocol.

As in :mod:`~duplex_server.wire.server_events`, one Struct each. Knows nothing about who asked.
"""

from __future__ import annotations

import msgspec

from duplex_server.wire.server_events import FromServer
from duplex_server.wire.session_object import Session

__all__ = [
    "ConnectionStats",
    "ContextCompacted",
    "DuplexUnit",
    "InputImageConsumed",
    "ListeningResponse",
    "OverlapDecision",
    "PlaybackAcknowledged",
    "PlaybackFigures",
    "PlaybackPosition",
    "PlaybackReport",
    "ResponseListen",
    "ResponseSpeak",
    "SessionClosed",
    "SessionContinued",
    "SessionExpired",
    "SessionGoAway",
    "SessionHeartbeatAck",
    "SessionLimits",
    "SessionPaused",
    "SessionQueueDone",
    "SessionQueueUpdate",
    "SessionQueued",
    "SessionReplaced",
    "SessionResumed",
    "SessionResyncRequired",
    "TurnEvent",
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


class ListeningResponse(msgspec.Struct, kw_only=True, frozen=True):
    """``response`` of ``response.listen``: there is none."""

    status: str = "listening"
    metadata: dict[str, str] = {}


class ResponseListen(FromServer, kw_only=True, frozen=True, tag="response.listen"):
    """Extension (``listen``): the model decided to listen."""

    unit: int
    input_ms: int = 0
    """Where the unit ends on the input clock."""
    response: ListeningResponse = ListeningResponse()


class ResponseSpeak(FromServer, kw_only=True, frozen=True, tag="response.speak"):
    """Extension (``listen``): the model decided to speak, or to go on speaking."""

    unit: int
    response_id: str = ""
    """Empty while the response before it is still being heard."""
    item_id: str = ""


class DuplexUnit(FromServer, kw_only=True, frozen=True, tag="duplex.unit"):
    """Extension (``unit``): how one unit went. Times in ms; of parts that the model does not measure, null."""

    unit: int
    decision: str
    """``listen`` or ``speak``."""
    input_ms: int = 0
    t_recv: float = 0.0
    """When the unit was complete, ms since the session began."""
    queue_ms: float = 0.0
    """It waited in the server, because the worker had as many as it takes."""
    wait_ms: float = 0.0
    """It waited in the worker, for the step before."""
    step_ms: float = 0.0
    """The step took, with all conversations of the batch."""
    batch: int = 1
    t_prefill_ms: float | None = None
    t_llm_ms: float | None = None
    t_tts_ms: float | None = None
    t_total_ms: float = 0.0
    """``queue_ms + wait_ms + step_ms``."""
    n_tokens: int | None = None
    kv_tokens: int | None = None
    late: bool = False
    """It took longer than a unit lasts, so the next ones wait."""
    late_by: str | None = None
    """Which of ``queue``, ``wait`` and ``step`` took longest, if it was late."""


class InputImageConsumed(FromServer, kw_only=True, frozen=True, tag="input_image.consumed"):
    """Extension (``unit``): the model was given a picture."""

    unit: int
    capture_ms: int = 0
    """When it was taken, on the input clock."""
    dropped: int = 0
    """Pictures that newer ones replaced since the last of these events."""


class ConnectionStats(FromServer, kw_only=True, frozen=True, tag="connection.stats"):
    """Extension (``connection``): how media gets through, every 5 s on WebRTC; null is what is not known yet."""

    rtt_ms: float | None = None
    """To the client and back."""
    jitter_ms: float | None = None
    """How unevenly the client's sound arrives."""
    patience_ms: float | None = None
    """How long a missing packet of it is waited for; sound that is there is not delayed."""
    received_packets: int | None = None
    lost_packets: int | None = None
    late_packets: int | None = None
    """Came after they had been given up."""
    requested_packets: int | None = None
    """Were asked for again."""
    concealed_ms: float | None = None
    """Sound that was guessed in place of lost packets."""
    sent_packets: int | None = None
    resent_packets: int | None = None
    """The client asked for again."""
    remote_jitter_ms: float | None = None
    """How unevenly the model's sound arrives at the client."""
    remote_loss: float | None = None
    """Share of it that did not arrive of late, 0..1."""
    seen_pictures: int | None = None
    """Of the client's camera track that were decoded to be shown to the model."""
    requested_pictures: int | None = None
    """Key pictures that were asked for; as many as are looked at, as a rule."""
    corrupt_pictures: int | None = None
    """Packets and pictures of the track that were not what they claimed to be."""


class SessionLimits(FromServer, kw_only=True, frozen=True, tag="session.limits"):
    """Extension (``limits``): what the session may use; at its beginning, and when it changes."""

    max_session_ms: int
    remaining_ms: int = 0
    context_tokens: int | None = None
    """Null where the model has no context that could fill up."""
    context_tokens_max: int | None = None


class ContextCompacted(FromServer, kw_only=True, frozen=True, tag="context.compacted"):
    """Extension (``limits``): the model gave up the oldest part of the conversation to make room."""

    tokens_before: int
    tokens_after: int = 0


class SessionPaused(FromServer, kw_only=True, frozen=True, tag="session.paused"):
    """Extension: answer to ``session.pause``."""

    expires_at: int
    """Unix seconds; a session that is still paused then is over."""


class SessionContinued(FromServer, kw_only=True, frozen=True, tag="session.continued"):
    """Extension: answer to ``session.continue``."""


class TurnEvent(FromServer, kw_only=True, frozen=True, tag="turn.event"):
    """Extension: answer to ``turn.signal``."""

    event: str
