"""Events that clients send, one Struct each; the class name is the event's ``type`` in CamelCase.

Keys that are not named here are ignored. Knows nothing about what an event leads to.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from duplex_server.wire.objects import Item
from duplex_server.wire.session_object import SessionPatch

__all__ = [
    "MAX_EVENT_ID_CHARS",
    "BargeIn",
    "ConversationItemCreate",
    "ConversationItemDelete",
    "ConversationItemRetrieve",
    "ConversationItemTruncate",
    "InputAudioBufferAppend",
    "InputAudioBufferClear",
    "InputAudioBufferCommit",
    "InputImageBufferAppend",
    "OutputAudioBufferClear",
    "PlaybackAck",
    "ResponseCancel",
    "ResponseCreate",
    "ResponseParams",
    "SessionClose",
    "SessionContinue",
    "SessionEventAck",
    "SessionHeartbeat",
    "SessionPause",
    "SessionResume",
    "SessionUpdate",
    "TurnSignal",
]

MAX_EVENT_ID_CHARS = 512
"""Source: OpenAI Realtime API reference, ``event_id`` of client events."""

_MetadataKey = Annotated[str, Meta(max_length=64)]
_MetadataValue = Annotated[str, Meta(max_length=512)]


class _FromClient(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", omit_defaults=True):
    event_id: Annotated[str, Meta(max_length=MAX_EVENT_ID_CHARS)] | None = None
    """The client's own name for this event; comes back in an ``error`` about it and nowhere else."""


class SessionUpdate(_FromClient, kw_only=True, frozen=True, tag="session.update"):
    """Change settings. Answered by ``session.updated`` with the whole effective session, or by one ``error``."""

    session: SessionPatch


class InputAudioBufferAppend(_FromClient, kw_only=True, frozen=True, tag="input_audio_buffer.append"):
    """Give audio from the microphone, in the session's input format. Not answered."""

    audio: bytes
    """Base64 on the wire. Any number of bytes: half a sample waits for its other half."""
    video_frames: Annotated[list[str], Meta(max_length=2)] | None = None
    """Extension: pictures (base64 or data URL) taken while this audio was recorded, oldest first."""
    force_listen: bool | None = None
    """Extension: the user has the floor; a running response is cut."""


class InputAudioBufferCommit(_FromClient, kw_only=True, frozen=True, tag="input_audio_buffer.commit"):
    """End the user's turn here (push to talk)."""


class InputAudioBufferClear(_FromClient, kw_only=True, frozen=True, tag="input_audio_buffer.clear"):
    """Drop audio that the model has not been given."""


class InputImageBufferAppend(_FromClient, kw_only=True, frozen=True, tag="input_image_buffer.append"):
    """Extension: give a camera picture, where audio is on a media track. Not answered."""

    image: str
    """JPEG, PNG or WebP as base64 or data URL."""
    capture_ms: float | None = None
    """When it was taken, ms on the input clock (0 at the session's first sample); absent: now."""


class ConversationItemCreate(_FromClient, kw_only=True, frozen=True, tag="conversation.item.create"):
    """Put an item into the conversation: typed text, a picture, restored history."""

    item: Item
    previous_item_id: str | None = None
    """``"root"``: to the front; an id: after that item; absent: to the end."""


class ConversationItemRetrieve(_FromClient, kw_only=True, frozen=True, tag="conversation.item.retrieve"):
    """Ask for an item as the server has it."""

    item_id: str


class ConversationItemTruncate(_FromClient, kw_only=True, frozen=True, tag="conversation.item.truncate"):
    """Say how much of an assistant item was heard. Always acknowledged, clamped to what there is."""

    item_id: str
    audio_end_ms: float
    content_index: int = 0


class ConversationItemDelete(_FromClient, kw_only=True, frozen=True, tag="conversation.item.delete"):
    """Remove an item from the conversation."""

    item_id: str


class ResponseParams(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """``response`` of ``response.create``; keys that are not named here are ignored."""

    instructions: Annotated[str, Meta(max_length=65_536)] | None = None
    output_modalities: Annotated[list[Literal["audio", "text"]], Meta(max_length=2)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] | None = None
    """As in the session, for this response."""
    conversation: str | None = None
    input: list[Any] | None = None
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], Meta(max_length=16)] | None = None
    """Echoed in ``response.created`` and ``response.done``. Limits are OpenAI's."""


class ResponseCreate(_FromClient, kw_only=True, frozen=True, tag="response.create"):
    """Make the model speak now. Answered by ``response.created`` at once."""

    response: ResponseParams | None = None


class ResponseCancel(_FromClient, kw_only=True, frozen=True, tag="response.cancel"):
    """Stop the running response."""

    response_id: str | None = None


class OutputAudioBufferClear(_FromClient, kw_only=True, frozen=True, tag="output_audio_buffer.clear"):
    """Drop audio on the media track that has not been heard. Ignored without a media track."""


class BargeIn(_FromClient, kw_only=True, frozen=True, tag="barge_in"):
    """Extension: the client knows that the user interrupts (a button, its own VAD)."""


class PlaybackAck(_FromClient, kw_only=True, frozen=True, tag="playback.ack"):
    """Extension: say how much of a response was really heard. A late one is ignored."""

    played_ms: float
    response_id: str | None = None
    item_id: str | None = None
    committed_ms: float | None = None
    truncate: bool | None = None
    """Also cut the item there, as ``conversation.item.truncate`` does."""


class SessionClose(_FromClient, kw_only=True, frozen=True, tag="session.close"):
    """Extension: say goodbye. Answered by ``session.closed``, after which the connection is closed."""

    reason: Annotated[str, Meta(max_length=128)] | None = None


class SessionHeartbeat(_FromClient, kw_only=True, frozen=True, tag="session.heartbeat"):
    """Extension: ask for a sign of life."""


class SessionResume(_FromClient, kw_only=True, frozen=True, tag="session.resume"):
    """Extension: go on with a session whose connection was lost. Only as the first event of a connection."""

    session_id: str
    resume_token: str
    last_received_server_event_seq: Annotated[int, Meta(ge=0)] = 0
    """Number of the last event that arrived; what came after it is sent again."""
    audio_received_ms: Annotated[float, Meta(ge=0)] | None = None
    """With a media track: how far its sound arrived, on the track's clock from its first packet on."""


class SessionEventAck(_FromClient, kw_only=True, frozen=True, tag="session.event_ack"):
    """Extension: all events up to this number have arrived, and need not be kept. Not answered."""

    server_event_seq: Annotated[int, Meta(ge=0)]


class SessionPause(_FromClient, kw_only=True, frozen=True, tag="session.pause"):
    """Extension: let the session stand still. What the microphone sends meanwhile is dropped."""


class SessionContinue(_FromClient, kw_only=True, frozen=True, tag="session.continue"):
    """Extension: go on after ``session.pause``."""


class TurnSignal(_FromClient, kw_only=True, frozen=True, tag="turn.signal"):
    """Extension: the client knows of the user's turn what the server has to guess. Answered by ``turn.event``."""

    event: Annotated[str, Meta(max_length=64)]
    """``user_started`` and ``barge_in`` give the user the floor, ``user_stopped`` asks the model for an answer; others
    are acknowledged and change nothing."""
