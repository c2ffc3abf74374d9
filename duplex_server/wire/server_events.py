"""Events that the server sends, one Struct each; the class name is the event's ``type`` in CamelCase.

All have an ``event_id``: clients take an event without one for an unknown event. Keys marked *extension* are not
OpenAI's; whole events marked so are sent only to clients that asked for them. Knows nothing about order.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from duplex_server.wire.objects import (
    ContentPart,
    ErrorObject,
    Item,
    RateLimit,
    Response,
    ResponseError,
    TranscriptionUsage,
)
from duplex_server.wire.session_object import Session

__all__ = [
    "ConversationItemAdded",
    "ConversationItemDeleted",
    "ConversationItemDone",
    "ConversationItemInputAudioTranscriptionCompleted",
    "ConversationItemInputAudioTranscriptionDelta",
    "ConversationItemInputAudioTranscriptionFailed",
    "ConversationItemRetrieved",
    "ConversationItemTruncated",
    "ErrorEvent",
    "InputAudioBufferCleared",
    "InputAudioBufferCommitted",
    "InputAudioBufferSpeechStarted",
    "InputAudioBufferSpeechStopped",
    "OutputAudioBufferCleared",
    "OutputAudioBufferStarted",
    "OutputAudioBufferStopped",
    "OverlapDecision",
    "PlaybackAcknowledged",
    "PlaybackFigures",
    "PlaybackPosition",
    "PlaybackReport",
    "RateLimitsUpdated",
    "ResponseContentPartAdded",
    "ResponseContentPartDone",
    "ResponseCreated",
    "ResponseDone",
    "ResponseOutputAudioDelta",
    "ResponseOutputAudioDone",
    "ResponseOutputAudioTranscriptDelta",
    "ResponseOutputAudioTranscriptDone",
    "ResponseOutputItemAdded",
    "ResponseOutputItemDone",
    "ResponseOutputTextDelta",
    "ResponseOutputTextDone",
    "SessionClosed",
    "SessionCreated",
    "SessionGoAway",
    "SessionHeartbeatAck",
    "SessionUpdated",
]


class _FromServer(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    event_id: str = ""
    """Unique within the server's life."""


class SessionCreated(_FromServer, kw_only=True, frozen=True, tag="session.created"):
    """First event of every connection."""

    session: Session


class SessionUpdated(_FromServer, kw_only=True, frozen=True, tag="session.updated"):
    """The whole effective session after a ``session.update``."""

    session: Session


class ConversationItemAdded(_FromServer, kw_only=True, frozen=True, tag="conversation.item.added"):
    """An item entered the conversation; an assistant's is still empty."""

    item: Item
    previous_item_id: str | None = None


class ConversationItemDone(_FromServer, kw_only=True, frozen=True, tag="conversation.item.done"):
    """An item is complete."""

    item: Item
    previous_item_id: str | None = None


class ConversationItemRetrieved(_FromServer, kw_only=True, frozen=True, tag="conversation.item.retrieved"):
    """Answer to ``conversation.item.retrieve``; audio and pictures are not sent back."""

    item: Item


class ConversationItemDeleted(_FromServer, kw_only=True, frozen=True, tag="conversation.item.deleted"):
    """An item is no longer in the conversation."""

    item_id: str


class ConversationItemTruncated(_FromServer, kw_only=True, frozen=True, tag="conversation.item.truncated"):
    """An assistant item was cut to what was heard; ``audio_end_ms`` is where it ends now."""

    item_id: str
    content_index: int = 0
    audio_end_ms: int = 0


class ConversationItemInputAudioTranscriptionDelta(
    _FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.delta"
):
    """More of what the model understood the user to say."""

    item_id: str
    content_index: int | None = 0
    delta: str | None = ""
    """What was added since the last one; empty when an earlier guess was revised instead."""
    transcript: str | UnsetType = UNSET
    """Extension: the utterance so far."""


class ConversationItemInputAudioTranscriptionCompleted(
    _FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.completed"
):
    """What the model understood the user to say; replaces all deltas."""

    item_id: str
    content_index: int = 0
    transcript: str = ""
    usage: TranscriptionUsage = TranscriptionUsage()


class ConversationItemInputAudioTranscriptionFailed(
    _FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.failed"
):
    """A transcription failed. Never sent here: no transcript is no error."""

    item_id: str
    error: ResponseError
    content_index: int = 0


class InputAudioBufferSpeechStarted(_FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.speech_started"):
    """The user speaks. Clients stop their playback on it."""

    item_id: str
    """Of the user item that will be created."""
    audio_start_ms: int = 0
    """Onset on the input clock."""


class InputAudioBufferSpeechStopped(_FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.speech_stopped"):
    """The user has stopped to speak."""

    item_id: str
    audio_end_ms: int = 0


class InputAudioBufferCommitted(_FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.committed"):
    """The user's turn became an item."""

    item_id: str
    previous_item_id: str | None = None


class InputAudioBufferCleared(_FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.cleared"):
    """Audio that the model had not been given is dropped."""


class ResponseCreated(_FromServer, kw_only=True, frozen=True, tag="response.created"):
    """A response begins, asked for or not."""

    response: Response


class ResponseDone(_FromServer, kw_only=True, frozen=True, tag="response.done"):
    """A response is over; comes after its last audio was sent."""

    response: Response


class ResponseOutputItemAdded(_FromServer, kw_only=True, frozen=True, tag="response.output_item.added"):
    """The item of a response begins."""

    response_id: str
    item: Item
    output_index: int = 0


class ResponseOutputItemDone(_FromServer, kw_only=True, frozen=True, tag="response.output_item.done"):
    """The item of a response is complete."""

    response_id: str
    item: Item
    output_index: int = 0


class _PartEvent(_FromServer, kw_only=True, frozen=True):
    response_id: str
    item_id: str
    output_index: int = 0
    content_index: int = 0


class ResponseContentPartAdded(_PartEvent, kw_only=True, frozen=True, tag="response.content_part.added"):
    """The content of an item begins."""

    part: ContentPart


class ResponseContentPartDone(_PartEvent, kw_only=True, frozen=True, tag="response.content_part.done"):
    """The content of an item is complete."""

    part: ContentPart


class ResponseOutputAudioDelta(_PartEvent, kw_only=True, frozen=True, tag="response.output_audio.delta"):
    """More audio, whole samples in the session's output format. Not sent with a media track."""

    delta: bytes
    """Base64 on the wire."""
    audio_start_ms: int | UnsetType = UNSET
    """Extension: where in the response's audio it starts."""


class ResponseOutputAudioDone(_PartEvent, kw_only=True, frozen=True, tag="response.output_audio.done"):
    """No more audio for this response."""


class ResponseOutputAudioTranscriptDelta(
    _PartEvent, kw_only=True, frozen=True, tag="response.output_audio_transcript.delta"
):
    """More of what the model says."""

    delta: str = ""
    audio_start_ms: int | UnsetType = UNSET
    """Extension: where in the response's audio these words start to be heard."""


class ResponseOutputAudioTranscriptDone(
    _PartEvent, kw_only=True, frozen=True, tag="response.output_audio_transcript.done"
):
    """All that the model said: the deltas joined."""

    transcript: str = ""


class ResponseOutputTextDelta(_PartEvent, kw_only=True, frozen=True, tag="response.output_text.delta"):
    """More text, where the client asked for text instead of audio."""

    delta: str = ""


class ResponseOutputTextDone(_PartEvent, kw_only=True, frozen=True, tag="response.output_text.done"):
    """All text: the deltas joined."""

    text: str = ""


class RateLimitsUpdated(_FromServer, kw_only=True, frozen=True, tag="rate_limits.updated"):
    """Follows every ``response.done``; this server has no such limits."""

    rate_limits: list[RateLimit] = []


class OutputAudioBufferStarted(_FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.started"):
    """First sound of a response left on the media track."""

    response_id: str


class OutputAudioBufferStopped(_FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.stopped"):
    """Last sound of a response left on the media track."""

    response_id: str


class OutputAudioBufferCleared(_FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.cleared"):
    """Sound that was waiting for the media track was dropped."""

    response_id: str


class ErrorEvent(_FromServer, kw_only=True, frozen=True, tag="error"):
    """Something went wrong; the connection stays open unless it is closed right after."""

    error: ErrorObject


class OverlapDecision(_FromServer, kw_only=True, frozen=True, tag="overlap.decision"):
    """Extension (``overlap``): the user spoke over the model, and this is what the server made of it."""

    policy: str
    action: str
    """``hold`` (undecided, voice lowered), ``ignore`` or ``interrupt``."""
    reason: str = ""
    audio_start_ms: int = 0
    """Onset on the input clock."""


class PlaybackPosition(_FromServer, kw_only=True, frozen=True, tag="playback.position"):
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


class PlaybackAcknowledged(_FromServer, kw_only=True, frozen=True, tag="playback.acknowledged"):
    """Extension: answer to ``playback.ack``."""

    event: PlaybackReport


class SessionGoAway(_FromServer, kw_only=True, frozen=True, tag="session.go_away"):
    """Extension (``limits``): the server will close this session."""

    reason: str
    """``timeout``, ``shutdown``, ``model`` or ``context_full``."""
    time_left_ms: int = 0


class SessionClosed(_FromServer, kw_only=True, frozen=True, tag="session.closed"):
    """Extension: last event after a ``session.close``."""

    reason: str = "client"


class SessionHeartbeatAck(_FromServer, kw_only=True, frozen=True, tag="session.heartbeat_ack"):
    """Extension: answer to ``session.heartbeat``."""
