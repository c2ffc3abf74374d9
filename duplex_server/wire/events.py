"""All events of the protocol. The two unions at the end are the contract.

The Structs stand in :mod:`~duplex_server.wire.client_events`, :mod:`~duplex_server.wire.server_events` and
:mod:`~duplex_server.wire.extension_events`; the objects they carry in :mod:`~duplex_server.wire.objects` and
:mod:`~duplex_server.wire.session_object`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from duplex_server.wire.client_events import (
    BargeIn,
    ConversationItemCreate,
    ConversationItemDelete,
    ConversationItemRetrieve,
    ConversationItemTruncate,
    InputAudioBufferAppend,
    InputAudioBufferClear,
    InputAudioBufferCommit,
    InputImageBufferAppend,
    OutputAudioBufferClear,
    PlaybackAck,
    ResponseCancel,
    ResponseCreate,
    ResponseParams,
    SessionClose,
    SessionContinue,
    SessionEventAck,
    SessionHeartbeat,
    SessionPause,
    SessionResume,
    SessionUpdate,
    TurnSignal,
)
from duplex_server.wire.extension_events import (
    ConnectionStats,
    ContextCompacted,
    DuplexUnit,
    InputImageConsumed,
    ListeningResponse,
    OverlapDecision,
    PlaybackAcknowledged,
    PlaybackFigures,
    PlaybackPosition,
    PlaybackReport,
    ResponseListen,
    ResponseSpeak,
    SessionClosed,
    SessionContinued,
    SessionExpired,
    SessionGoAway,
    SessionHeartbeatAck,
    SessionLimits,
    SessionPaused,
    SessionQueued,
    SessionQueueDone,
    SessionQueueUpdate,
    SessionReplaced,
    SessionResumed,
    SessionResyncRequired,
    TurnEvent,
)
from duplex_server.wire.server_events import (
    ConversationItemAdded,
    ConversationItemDeleted,
    ConversationItemDone,
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    ConversationItemInputAudioTranscriptionFailed,
    ConversationItemRetrieved,
    ConversationItemTruncated,
    ErrorEvent,
    InputAudioBufferCleared,
    InputAudioBufferCommitted,
    InputAudioBufferSpeechStarted,
    InputAudioBufferSpeechStopped,
    InputAudioBufferTimeoutTriggered,
    OutputAudioBufferCleared,
    OutputAudioBufferStarted,
    OutputAudioBufferStopped,
    RateLimitsUpdated,
    ResponseContentPartAdded,
    ResponseContentPartDone,
    ResponseCreated,
    ResponseDone,
    ResponseOutputAudioDelta,
    ResponseOutputAudioDone,
    ResponseOutputAudioTranscriptDelta,
    ResponseOutputAudioTranscriptDone,
    ResponseOutputItemAdded,
    ResponseOutputItemDone,
    ResponseOutputTextDelta,
    ResponseOutputTextDone,
    SessionCreated,
    SessionUpdated,
)

__all__ = [
    "BargeIn",
    "ClientEvent",
    "ConnectionStats",
    "ContextCompacted",
    "ConversationItemAdded",
    "ConversationItemCreate",
    "ConversationItemDelete",
    "ConversationItemDeleted",
    "ConversationItemDone",
    "ConversationItemInputAudioTranscriptionCompleted",
    "ConversationItemInputAudioTranscriptionDelta",
    "ConversationItemInputAudioTranscriptionFailed",
    "ConversationItemRetrieve",
    "ConversationItemRetrieved",
    "ConversationItemTruncate",
    "ConversationItemTruncated",
    "DuplexUnit",
    "ErrorEvent",
    "InputAudioBufferAppend",
    "InputAudioBufferClear",
    "InputAudioBufferCleared",
    "InputAudioBufferCommit",
    "InputAudioBufferCommitted",
    "InputAudioBufferSpeechStarted",
    "InputAudioBufferSpeechStopped",
    "InputAudioBufferTimeoutTriggered",
    "InputImageBufferAppend",
    "InputImageConsumed",
    "ListeningResponse",
    "OutputAudioBufferClear",
    "OutputAudioBufferCleared",
    "OutputAudioBufferStarted",
    "OutputAudioBufferStopped",
    "OverlapDecision",
    "PlaybackAck",
    "PlaybackAcknowledged",
    "PlaybackFigures",
    "PlaybackPosition",
    "PlaybackReport",
    "RateLimitsUpdated",
    "ResponseCancel",
    "ResponseContentPartAdded",
    "ResponseContentPartDone",
    "ResponseCreate",
    "ResponseCreated",
    "ResponseDone",
    "ResponseListen",
    "ResponseOutputAudioDelta",
    "ResponseOutputAudioDone",
    "ResponseOutputAudioTranscriptDelta",
    "ResponseOutputAudioTranscriptDone",
    "ResponseOutputItemAdded",
    "ResponseOutputItemDone",
    "ResponseOutputTextDelta",
    "ResponseOutputTextDone",
    "ResponseParams",
    "ResponseSpeak",
    "ServerEvent",
    "SessionClose",
    "SessionClosed",
    "SessionContinue",
    "SessionContinued",
    "SessionCreated",
    "SessionEventAck",
    "SessionExpired",
    "SessionGoAway",
    "SessionHeartbeat",
    "SessionHeartbeatAck",
    "SessionLimits",
    "SessionPause",
    "SessionPaused",
    "SessionQueueDone",
    "SessionQueueUpdate",
    "SessionQueued",
    "SessionReplaced",
    "SessionResume",
    "SessionResumed",
    "SessionResyncRequired",
    "SessionUpdate",
    "SessionUpdated",
    "TurnEvent",
    "TurnSignal",
    "UnknownEvent",
]


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """A server's event that this client does not know, or not in this shape."""

    type: str
    payload: dict[str, Any]
    """The whole JSON object."""


ClientEvent = (
    BargeIn
    | ConversationItemCreate
    | ConversationItemDelete
    | ConversationItemRetrieve
    | ConversationItemTruncate
    | InputAudioBufferAppend
    | InputAudioBufferClear
    | InputAudioBufferCommit
    | InputImageBufferAppend
    | OutputAudioBufferClear
    | PlaybackAck
    | ResponseCancel
    | ResponseCreate
    | SessionClose
    | SessionContinue
    | SessionEventAck
    | SessionHeartbeat
    | SessionPause
    | SessionResume
    | SessionUpdate
    | TurnSignal
)

ServerEvent = (
    ConnectionStats
    | ContextCompacted
    | ConversationItemAdded
    | ConversationItemDeleted
    | ConversationItemDone
    | ConversationItemInputAudioTranscriptionCompleted
    | ConversationItemInputAudioTranscriptionDelta
    | ConversationItemInputAudioTranscriptionFailed
    | ConversationItemRetrieved
    | ConversationItemTruncated
    | DuplexUnit
    | ErrorEvent
    | InputAudioBufferCleared
    | InputAudioBufferCommitted
    | InputAudioBufferSpeechStarted
    | InputAudioBufferSpeechStopped
    | InputAudioBufferTimeoutTriggered
    | InputImageConsumed
    | OutputAudioBufferCleared
    | OutputAudioBufferStarted
    | OutputAudioBufferStopped
    | OverlapDecision
    | PlaybackAcknowledged
    | PlaybackPosition
    | RateLimitsUpdated
    | ResponseContentPartAdded
    | ResponseContentPartDone
    | ResponseCreated
    | ResponseDone
    | ResponseListen
    | ResponseOutputAudioDelta
    | ResponseOutputAudioDone
    | ResponseOutputAudioTranscriptDelta
    | ResponseOutputAudioTranscriptDone
    | ResponseOutputItemAdded
    | ResponseOutputItemDone
    | ResponseOutputTextDelta
    | ResponseOutputTextDone
    | ResponseSpeak
    | SessionClosed
    | SessionContinued
    | SessionCreated
    | SessionExpired
    | SessionGoAway
    | SessionHeartbeatAck
    | SessionLimits
    | SessionPaused
    | SessionQueueDone
    | SessionQueueUpdate
    | SessionQueued
    | SessionReplaced
    | SessionResumed
    | SessionResyncRequired
    | SessionUpdated
    | TurnEvent
)
