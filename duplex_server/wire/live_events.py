"""Events of OpenAI's Live API, one Struct each, as far as they mean something to a model that lives here.

Keys that are not named here are ignored. Knows nothing about what an event leads to.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from duplex_server.wire.audio_format import AudioFormat
from duplex_server.wire.client_events import MAX_EVENT_ID_CHARS
from duplex_server.wire.session_object import MAX_INSTRUCTIONS_CHARS, Capabilities, ExtraBodyPatch, VoiceId

__all__ = [
    "LiveAudio",
    "LiveAudioOutput",
    "LiveClientEvent",
    "LiveClosed",
    "LiveCommentaryAppend",
    "LiveCommentaryAppended",
    "LiveConfig",
    "LiveContext",
    "LiveError",
    "LiveErrorEvent",
    "LiveInfo",
    "LiveInputAudioAppend",
    "LiveInputImageAppend",
    "LiveInputTranscriptDelta",
    "LiveInstructionsAppend",
    "LiveInstructionsAppended",
    "LiveMessage",
    "LiveMute",
    "LiveMuted",
    "LiveOutputAudioDelta",
    "LiveOutputTranscriptDelta",
    "LiveServerEvent",
    "LiveSession",
    "LiveSessionClose",
    "LiveSessionUpdate",
    "LiveStart",
    "LiveStarted",
    "LiveText",
    "LiveThinkingAppend",
    "LiveThinkingAppended",
    "LiveUnmute",
    "LiveUnmuted",
    "LiveUpdated",
    "LiveUsage",
    "LiveUsageUpdated",
]

MAX_INITIAL_MESSAGES = 128
"""Source: OpenAI Live API reference, ``session.input``."""


class LiveText(msgspec.Struct, kw_only=True, frozen=True):
    """One part of a message; its type says nothing that the message's role does not."""

    text: str


class LiveMessage(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the history that a session begins with."""

    role: Literal["developer", "user", "assistant"]
    content: Annotated[list[LiveText], Meta(min_length=1, max_length=1)]


class LiveAudioOutput(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio.output``."""

    voice: str | VoiceId | None = None


class LiveAudio(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio``."""

    format: AudioFormat | None = None
    """Of input and output; on a WebSocket only."""
    output: LiveAudioOutput | None = None


class LiveConfig(msgspec.Struct, kw_only=True, frozen=True):
    """What a session begins with; nothing of it changes later."""

    model: str | None = None
    """Any: the served model is used."""
    audio: LiveAudio | None = None
    instructions: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    input: Annotated[list[LiveMessage], Meta(max_length=MAX_INITIAL_MESSAGES)] | None = None
    delegation: dict[str, Any] | None = None
    """Accepted and echoed; no model here delegates."""
    extra_body: ExtraBodyPatch | None = None
    """Extension: ``interruption`` and ``language``, as in ``session.update`` of the Realtime API."""


class _FromLiveClient(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", omit_defaults=True):
    event_id: Annotated[str, Meta(max_length=MAX_EVENT_ID_CHARS)] | None = None
    """The client's own name for this event; comes back as ``client_event_id`` in what answers it."""


class _Append(_FromLiveClient, kw_only=True, frozen=True):
    content: str
    delegation_id: str | None = None
    """Ignored: no model here delegates."""


class LiveStart(_FromLiveClient, kw_only=True, frozen=True, tag="session.start"):
    """Begin; the first event on a WebSocket. Answered by ``session.started``."""

    session: LiveConfig


class LiveSessionUpdate(_FromLiveClient, kw_only=True, frozen=True, tag="session.update"):
    """Change delegation or triggers, of which there are none here. Answered by ``session.updated``, unchanged."""

    session: dict[str, Any]


class LiveInputAudioAppend(_FromLiveClient, kw_only=True, frozen=True, tag="session.input_audio.append"):
    """Give audio from the microphone in the session's format. Not answered."""

    audio: bytes
    """Base64 on the wire."""
    video_frames: Annotated[list[str], Meta(max_length=2)] | None = None
    """Extension: pictures (base64 or data URL) taken while this audio was recorded, oldest first."""


class LiveInputImageAppend(_FromLiveClient, kw_only=True, frozen=True, tag="session.input_image.append"):
    """Extension: give a camera picture. Not answered."""

    image: str
    """JPEG, PNG or WebP as base64 or data URL."""
    capture_ms: float | None = None
    """When it was taken, ms on the session's clock; absent: now."""


class LiveMute(_FromLiveClient, kw_only=True, frozen=True, tag="session.input_audio.mute"):
    """Let the model hear silence. Answered by ``session.input_audio.muted``."""


class LiveUnmute(_FromLiveClient, kw_only=True, frozen=True, tag="session.input_audio.unmute"):
    """Let the model hear again. Answered by ``session.input_audio.unmuted``."""


class LiveInstructionsAppend(_Append, kw_only=True, frozen=True, tag="session.instructions.append"):
    """Tell the model something as its developer. Answered by ``session.instructions.appended``."""


class LiveThinkingAppend(_Append, kw_only=True, frozen=True, tag="session.thinking.append"):
    """Tell the model something that it need not say. Answered by ``session.thinking.appended``."""


class LiveCommentaryAppend(_Append, kw_only=True, frozen=True, tag="session.commentary.append"):
    """Tell the model something to say. Answered by ``session.commentary.appended``; the model then speaks."""


class LiveSessionClose(_FromLiveClient, kw_only=True, frozen=True, tag="session.close"):
    """Say goodbye. Answered by ``session.closed``, after which the connection is closed."""


class LiveSession(msgspec.Struct, kw_only=True, frozen=True):
    """The session as it is."""

    id: str
    expires_at: int
    """Unix seconds."""
    model: str
    status: Literal["active"] = "active"
    audio: LiveAudio = LiveAudio()
    delegation: dict[str, Any] | None = None
    instructions: str = ""
    store: bool = False
    capabilities: Capabilities | None = None
    """Extension: what server and model can do."""


class LiveUsage(msgspec.Struct, kw_only=True, frozen=True):
    """What a session has used so far."""

    seconds: float


class LiveContext(msgspec.Struct, kw_only=True, frozen=True):
    """How full the model's context is."""

    usage_ratio: float
    """0..1."""


class LiveError(msgspec.Struct, kw_only=True, frozen=True):
    """What went wrong."""

    type: str
    code: str
    message: str
    param: str | None = None
    client_event_id: str | None = None
    """``event_id`` of the client event at fault."""


class _FromLiveServer(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    event_id: str
    client_event_id: str | UnsetType | None = UNSET
    """``event_id`` of the client event that this answers."""


class _Placed(_FromLiveServer, kw_only=True, frozen=True):
    start_ms: int
    """On the session's clock, which is that of its output."""
    end_ms: int


class LiveStarted(_FromLiveServer, kw_only=True, frozen=True, tag="session.started"):
    """The session has begun. Nothing but ``error`` comes before it."""

    session: LiveSession


class LiveUpdated(_FromLiveServer, kw_only=True, frozen=True, tag="session.updated"):
    """Answer to ``session.update``."""

    session: LiveSession


class LiveMuted(_FromLiveServer, kw_only=True, frozen=True, tag="session.input_audio.muted"):
    """The model hears silence from here on."""


class LiveUnmuted(_FromLiveServer, kw_only=True, frozen=True, tag="session.input_audio.unmuted"):
    """The model hears again."""


class LiveInstructionsAppended(_Placed, kw_only=True, frozen=True, tag="session.instructions.appended"):
    """The model is told."""


class LiveThinkingAppended(_Placed, kw_only=True, frozen=True, tag="session.thinking.appended"):
    """The model is told."""


class LiveCommentaryAppended(_Placed, kw_only=True, frozen=True, tag="session.commentary.appended"):
    """The model is told."""


class _Bare(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    """An event without an id: there are too many of it."""


class LiveOutputAudioDelta(_Bare, kw_only=True, frozen=True, tag="session.output_audio.delta"):
    """The next 40 ms of output, without a gap from the session's start to its end; exact silence while listening."""

    delta: bytes
    """Base64 on the wire, in the session's format."""


class LiveOutputTranscriptDelta(_Placed, kw_only=True, frozen=True, tag="session.output_transcript.delta"):
    """What the model says between these two times."""

    delta: str


class LiveInputTranscriptDelta(_Placed, kw_only=True, frozen=True, tag="session.input_transcript.delta"):
    """What the model understood the user to say between these two times; only from models that transcribe."""

    delta: str


class LiveUsageUpdated(_FromLiveServer, kw_only=True, frozen=True, tag="session.usage.updated"):
    """What the session has used so far; after each turn of the model."""

    usage: LiveUsage
    context_window: LiveContext | UnsetType = UNSET


class LiveClosed(_FromLiveServer, kw_only=True, frozen=True, tag="session.closed"):
    """The session is over; nothing follows."""

    reason: Literal["close_requested", "expired", "remote_hangup", "connection_lost"]
    session: LiveSession
    usage: LiveUsage


class LiveInfo(_FromLiveServer, kw_only=True, frozen=True, tag="info"):
    """Something worth knowing: ``session_ending`` before an end that is planned."""

    code: str
    message: str


class LiveErrorEvent(_FromLiveServer, kw_only=True, frozen=True, tag="error"):
    """Something went wrong; the connection stays open unless it is closed right after."""

    error: LiveError


LiveClientEvent = (
    LiveStart
    | LiveSessionUpdate
    | LiveInputAudioAppend
    | LiveInputImageAppend
    | LiveMute
    | LiveUnmute
    | LiveInstructionsAppend
    | LiveThinkingAppend
    | LiveCommentaryAppend
    | LiveSessionClose
)

LiveServerEvent = (
    LiveStarted
    | LiveUpdated
    | LiveMuted
    | LiveUnmuted
    | LiveInstructionsAppended
    | LiveThinkingAppended
    | LiveCommentaryAppended
    | LiveOutputAudioDelta
    | LiveOutputTranscriptDelta
    | LiveInputTranscriptDelta
    | LiveUsageUpdated
    | LiveClosed
    | LiveInfo
    | LiveErrorEvent
)
