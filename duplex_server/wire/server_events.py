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
    "AudioMetadata",
    "AudioTextMark",
    "ConversationItemAdded",
    "ConversationItemDeleted",
    "ConversationItemDone",
    "ConversationItemInputAudioTranscriptionCompleted",
    "ConversationItemInputAudioTranscriptionDelta",
    "ConversationItemInputAudioTranscriptionFailed",
    "ConversationItemRetrieved",
    "ConversationItemTruncated",
    "ErrorEvent",
    "FromServer",
    "InputAudioBufferCleared",
    "InputAudioBufferCommitted",
    "InputAudioBufferSpeechStarted",
    "InputAudioBufferSpeechStopped",
    "InputAudioBufferTimeoutTriggered",
    "OutputAudioBufferCleared",
    "OutputAudioBufferStarted",
    "OutputAudioBufferStopped",
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
    "SessionCreated",
    "SessionUpdated",
]


class FromServer(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    """What every event of a server has."""

    event_id: str = ""
    """Unique within the server's life."""
    server_event_seq: int | UnsetType = UNSET
    """Extension: 1, 2, 3 … over all connections of a session that can be resumed."""


class SessionCreated(FromServer, kw_only=True, frozen=True, tag="session.created"):
    """First event of every connection that does not resume a session."""

    session: Session
    resume_token: str | UnsetType = UNSET
    """Extension: what ``session.resume`` has to bring, where the session can be resumed."""
    attachment_generation: int | UnsetType = UNSET
    """Extension: 1; one more with every connection that resumes the session."""


class SessionUpdated(FromServer, kw_only=True, frozen=True, tag="session.updated"):
    """The whole effective session after a ``session.update``."""

    session: Session
    resume_token: str | UnsetType = UNSET
    """Extension: as in ``session.created``, where this update made the session one that can be resumed."""


class ConversationItemAdded(FromServer, kw_only=True, frozen=True, tag="conversation.item.added"):
    """An item entered the conversation; an assistant's is still empty."""

    item: Item
    previous_item_id: str | None = None


class ConversationItemDone(FromServer, kw_only=True, frozen=True, tag="conversation.item.done"):
    """An item is complete."""

    item: Item
    previous_item_id: str | None = None


class ConversationItemRetrieved(FromServer, kw_only=True, frozen=True, tag="conversation.item.retrieved"):
    """Answer to ``conversation.item.retrieve``; audio and pictures are not sent back."""

    item: Item


class ConversationItemDeleted(FromServer, kw_only=True, frozen=True, tag="conversation.item.deleted"):
    """An item is no longer in the conversation."""

    item_id: str


class ConversationItemTruncated(FromServer, kw_only=True, frozen=True, tag="conversation.item.truncated"):
    """An assistant item was cut to what was heard; ``audio_end_ms`` is where it ends now."""

    item_id: str
    content_index: int = 0
    audio_end_ms: int = 0


class ConversationItemInputAudioTranscriptionDelta(
    FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.delta"
):
    """More of what the model understood the user to say."""

    item_id: str
    content_index: int | None = 0
    delta: str | None = ""
    """What was added since the last one; empty when an earlier guess was revised instead."""
    transcript: str | UnsetType = UNSET
    """Extension: the utterance so far."""


class ConversationItemInputAudioTranscriptionCompleted(
    FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.completed"
):
    """What the model understood the user to say; replaces all deltas."""

    item_id: str
    content_index: int = 0
    transcript: str = ""
    usage: TranscriptionUsage = TranscriptionUsage()


class ConversationItemInputAudioTranscriptionFailed(
    FromServer, kw_only=True, frozen=True, tag="conversation.item.input_audio_transcription.failed"
):
    """A transcription failed. Never sent here: no transcript is no error."""

    item_id: str
    error: ResponseError
    content_index: int = 0


class InputAudioBufferSpeechStarted(FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.speech_started"):
    """The user speaks. Clients stop their playback on it."""

    item_id: str
    """Of the user item that will be created."""
    audio_start_ms: int = 0
    """Onset on the input clock."""


class InputAudioBufferSpeechStopped(FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.speech_stopped"):
    """The user has stopped to speak."""

    item_id: str
    audio_end_ms: int = 0


class InputAudioBufferCommitted(FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.committed"):
    """The user's turn became an item."""

    item_id: str
    previous_item_id: str | None = None


class InputAudioBufferCleared(FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.cleared"):
    """Audio that the model had not been given is dropped."""


class InputAudioBufferTimeoutTriggered(
    FromServer, kw_only=True, frozen=True, tag="input_audio_buffer.timeout_triggered"
):
    """Nobody has spoken for ``idle_timeout_ms``: the silence becomes an item, and the model is asked to speak."""

    item_id: str
    audio_start_ms: int = 0
    """Where the silence began, on the input clock."""
    audio_end_ms: int = 0


class ResponseCreated(FromServer, kw_only=True, frozen=True, tag="response.created"):
    """A response begins, asked for or not."""

    response: Response


class ResponseDone(FromServer, kw_only=True, frozen=True, tag="response.done"):
    """A response is over; comes after its last audio was sent."""

    response: Response


class ResponseOutputItemAdded(FromServer, kw_only=True, frozen=True, tag="response.output_item.added"):
    """The item of a response begins."""

    response_id: str
    item: Item
    output_index: int = 0


class ResponseOutputItemDone(FromServer, kw_only=True, frozen=True, tag="response.output_item.done"):
    """The item of a response is complete."""

    response_id: str
    item: Item
    output_index: int = 0


class _PartEvent(FromServer, kw_only=True, frozen=True):
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


class AudioTextMark(msgspec.Struct, kw_only=True, frozen=True):
    """So many characters of the transcript have been spoken at this place of the response's audio."""

    text_chars: int
    audio_end_ms: int


class AudioMetadata(msgspec.Struct, kw_only=True, frozen=True):
    """``metadata`` of an audio delta."""

    unit: int | UnsetType = UNSET
    """The unit that the model made it for; where it holds the sound of several, the first."""
    end_of_turn: bool = False
    """Whether the turn ends with it. One whose end is known only after its last sound was sent has no such delta."""
    audio_text_marks: list[AudioTextMark] = []


class ResponseOutputAudioDelta(_PartEvent, kw_only=True, frozen=True, tag="response.output_audio.delta"):
    """More audio, whole samples in the session's output format. Not sent with a media track."""

    delta: bytes
    """Base64 on the wire."""
    audio_start_ms: int | UnsetType = UNSET
    """Extension: where in the response's audio it starts."""
    sample_rate_hz: int | UnsetType = UNSET
    """Extension (``playback``)."""
    metadata: AudioMetadata | UnsetType = UNSET
    """Extension (``playback``): where the model made it, and which words of the transcript end in it."""


class ResponseOutputAudioDone(_PartEvent, kw_only=True, frozen=True, tag="response.output_audio.done"):
    """No more audio for this response."""


class ResponseOutputAudioTranscriptDelta(
    _PartEvent, kw_only=True, frozen=True, tag="response.output_audio_transcript.delta"
):
    """More of what the model says."""

    delta: str = ""
    audio_start_ms: int | UnsetType = UNSET
    """Extension: where in the response's audio these words start to be heard."""
    audio_end_ms: int | UnsetType = UNSET
    """Extension: where they end to be heard, where the model says that."""


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


class RateLimitsUpdated(FromServer, kw_only=True, frozen=True, tag="rate_limits.updated"):
    """Follows every ``response.done``; this server has no such limits."""

    rate_limits: list[RateLimit] = []


class OutputAudioBufferStarted(FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.started"):
    """First sound of a response left on the media track."""

    response_id: str


class OutputAudioBufferStopped(FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.stopped"):
    """Last sound of a response left on the media track."""

    response_id: str


class OutputAudioBufferCleared(FromServer, kw_only=True, frozen=True, tag="output_audio_buffer.cleared"):
    """Sound that was waiting for the media track was dropped."""

    response_id: str


class ErrorEvent(FromServer, kw_only=True, frozen=True, tag="error"):
    """Something went wrong; the connection stays open unless it is closed right after."""

    error: ErrorObject
