"""The session object: every setting with its effective value, updates to it, and what it means to the session.

:func:`merge` is the only way a session object changes, and it changes all that was asked for or nothing. Knows nothing
about events or their order.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from duplex_server.wire.audio_format import PCM_FORMAT, AudioFormat

__all__ = [
    "MAX_INSTRUCTIONS_CHARS",
    "OPT_IN_NAMES",
    "SEMANTIC_VAD",
    "SERVER_VAD",
    "AudioConfig",
    "AudioConfigPatch",
    "AudioInputConfig",
    "AudioInputPatch",
    "AudioOutputConfig",
    "AudioOutputPatch",
    "Capabilities",
    "ExtraBody",
    "ExtraBodyPatch",
    "Session",
    "SessionPatch",
    "Transcription",
    "TurnDetection",
    "TurnDetectionPatch",
    "VoiceId",
]

OPT_IN_NAMES = frozenset({"connection", "unit", "playback", "limits", "overlap", "listen", "resume"})
"""Groups of extension events that a client can ask for in ``session.extra_body.duplex_events``."""

MAX_INSTRUCTIONS_CHARS = 65_536
"""Ours: a bound on what one session can make the server keep and echo."""

MIN_IDLE_MS = 1_000
"""Ours: a shorter silence is a pause between two sentences."""

Eagerness = Literal["low", "medium", "high", "auto"]
PolicyName = Literal["guarded", "immediate", "model", "push_to_talk"]


class TurnDetection(msgspec.Struct, kw_only=True, frozen=True):
    """Who decides when a turn ends; every key that belongs to ``type`` is present.

    Default values are OpenAI's: threshold 0.5, padding 300 ms, silence 500 ms.
    """

    type: Literal["semantic_vad", "server_vad"] = "semantic_vad"
    create_response: bool = True
    interrupt_response: bool = True
    eagerness: Eagerness | UnsetType = UNSET
    threshold: float | UnsetType = UNSET
    prefix_padding_ms: int | UnsetType = UNSET
    silence_duration_ms: int | UnsetType = UNSET
    idle_timeout_ms: int | UnsetType | None = UNSET


SEMANTIC_VAD = TurnDetection(type="semantic_vad", eagerness="auto")
SERVER_VAD = TurnDetection(
    type="server_vad", threshold=0.5, prefix_padding_ms=300, silence_duration_ms=500, idle_timeout_ms=None
)


class TurnDetectionPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``turn_detection`` as a client sends it; a key that is ``null`` goes back to its default."""

    type: Literal["semantic_vad", "server_vad"] | UnsetType = UNSET
    create_response: bool | UnsetType | None = UNSET
    interrupt_response: bool | UnsetType | None = UNSET
    eagerness: Eagerness | UnsetType | None = UNSET
    threshold: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET
    prefix_padding_ms: Annotated[float, Meta(ge=0, le=10_000)] | UnsetType | None = UNSET
    silence_duration_ms: Annotated[float, Meta(ge=0, le=10_000)] | UnsetType | None = UNSET
    idle_timeout_ms: Annotated[float, Meta(ge=MIN_IDLE_MS, le=3_600_000)] | UnsetType | None = UNSET


class Transcription(msgspec.Struct, kw_only=True, frozen=True):
    """What transcribes the user: the model itself, where it reports what it hears."""

    model: str | None = None
    language: str | None = None


class AudioInputConfig(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio.input``."""

    format: AudioFormat | None = PCM_FORMAT
    transcription: Transcription | None = None
    noise_reduction: dict[str, Any] | None = None
    """Always null here: accepted, not done."""
    turn_detection: TurnDetection | None = SEMANTIC_VAD


class AudioOutputConfig(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio.output``."""

    format: AudioFormat | None = PCM_FORMAT
    voice: str | None = None
    speed: float | None = 1.0


class AudioConfig(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio``."""

    input: AudioInputConfig = AudioInputConfig()
    output: AudioOutputConfig = AudioOutputConfig()


class ExtraBody(msgspec.Struct, kw_only=True, frozen=True):
    """Extension settings, all in one key that other servers ignore."""

    interruption: PolicyName | None = None
    """Effective policy (``TurnTaking.policy``)."""
    language: str | None = None
    duplex_events: list[str] = []
    """Groups of extension events that this client is sent."""


class Capabilities(msgspec.Struct, kw_only=True, frozen=True):
    """Extension: what this server and its model can do."""

    implementation_level: str = "model_native_duplex"
    chunk_period_ms: int = 0
    """Length of the model's unit."""
    input_modes: list[str] = []
    supports_barge_in: bool = True
    supports_session_resume: bool = True
    supports_pause: bool = True
    supports_audio_truncate: bool = True
    max_video_fps: float = 0.0
    transcribes: bool = False
    languages: list[str] = []
    voices: list[str] = []
    clones_voices: bool = False
    """Whether ``ref_audio`` gives the model a voice."""
    context_tokens_max: int | None = None
    """Null where the model has no context that could fill up."""
    examples: list[str] = []
    """Sentences to try."""
    interruption_policies: list[str] = []
    duplex_events: list[str] = []
    """Groups of extension events that a client may ask for."""


class Session(msgspec.Struct, kw_only=True, frozen=True):
    """The effective session, as ``session.created`` and ``session.updated`` show it."""

    type: str = "realtime"
    object: str = "realtime.session"
    id: str = ""
    model: str = ""
    expires_at: int | None = 0
    """Unix seconds; 0: no limit."""
    output_modalities: list[Literal["audio", "text"]] = msgspec.field(default_factory=lambda: ["audio"])
    instructions: str | None = ""
    audio: AudioConfig = AudioConfig()
    tools: list[dict[str, Any]] | None = []
    """The client's own objects, echoed unread."""
    tool_choice: str | dict[str, Any] | None = "auto"
    parallel_tool_calls: bool | None = True
    max_output_tokens: int | Literal["inf"] | None = "inf"
    tracing: Any = None
    truncation: str | dict[str, Any] | None = "auto"
    prompt: Any = None
    include: list[str] | None = None
    reasoning: Any = None
    extra_body: ExtraBody | None = None
    capabilities: Capabilities | None = None


class VoiceId(msgspec.Struct, kw_only=True, frozen=True):
    """A voice by id."""

    id: str


class AudioInputPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio.input`` of an update. ``noise_reduction`` is ignored like any unknown key."""

    format: AudioFormat | UnsetType | None = UNSET
    transcription: dict[str, Any] | UnsetType | None = UNSET
    turn_detection: TurnDetectionPatch | bool | UnsetType | None = UNSET
    """``False`` means null: pipecat sends it."""


class AudioOutputPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio.output`` of an update."""

    format: AudioFormat | UnsetType | None = UNSET
    voice: str | VoiceId | UnsetType | None = UNSET
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] | UnsetType | None = UNSET


class AudioConfigPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``session.audio`` of an update."""

    input: AudioInputPatch | UnsetType | None = UNSET
    output: AudioOutputPatch | UnsetType | None = UNSET


class ExtraBodyPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``session.extra_body`` of an update; ``null`` goes back to what the server decides."""

    interruption: PolicyName | UnsetType | None = UNSET
    language: str | UnsetType | None = UNSET
    duplex_events: Annotated[list[str], Meta(max_length=32)] | UnsetType | None = UNSET
    """Replaces what was asked for before. Unknown names are ignored."""


class SessionPatch(msgspec.Struct, kw_only=True, frozen=True):
    """``session`` of ``session.update``: only the keys that are present change anything.

    ``model``, ``tracing``, ``prompt``, ``include``, ``reasoning``, ``noise_reduction`` and unknown keys are accepted
    and have no effect.
    """

    type: Literal["realtime"] | UnsetType | None = UNSET
    output_modalities: Annotated[list[Literal["audio", "text"]], Meta(max_length=2)] | UnsetType | None = UNSET
    instructions: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] | UnsetType | None = UNSET
    audio: AudioConfigPatch | UnsetType | None = UNSET
    tools: Annotated[list[dict[str, Any]], Meta(max_length=128)] | UnsetType | None = UNSET
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] | UnsetType | None = UNSET
    truncation: Literal["auto", "disabled"] | dict[str, Any] | UnsetType | None = UNSET
    ref_audio: str | UnsetType | None = UNSET
    """Extension: a recording of the voice to speak with, WAV in base64 or as a data URL; null: a named voice again."""
    tts_ref_audio: str | UnsetType | None = UNSET
    """The same under MiniCPM-o's own name; this one counts where both are given."""
    extra_body: ExtraBodyPatch | UnsetType | None = UNSET
