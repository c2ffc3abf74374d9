"""What a peer's event asks of the session, freed from the wire's spelling.

:meth:`duplex_server.wire.dialogue.Dialogue.receive` turns each client event into server events that answer it at once
and requests that the session carries out. Knows nothing about JSON or ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from duplex_server.types import InterruptionPolicy, Pcm, SessionSetup
from duplex_server.wire.voice_reference import VoiceReference

__all__ = [
    "AddText",
    "AppendAudio",
    "AppendImage",
    "BargeIn",
    "CancelResponse",
    "ClearInput",
    "ClearOutput",
    "CommitInput",
    "CloseSession",
    "Configure",
    "Continue",
    "CreateResponse",
    "Pause",
    "Request",
    "TurnTaking",
]


@dataclass(frozen=True, slots=True)
class TurnTaking:
    """How the session decides who speaks; the wire's ``turn_detection`` and ``extra_body.interruption``."""

    policy: InterruptionPolicy = InterruptionPolicy.GUARDED
    create_response: bool = True
    """Whether the model may speak without being asked to. If not, units are :attr:`Floor.LISTEN` until a
    :class:`CreateResponse`."""
    report_speech: bool = True
    """Whether the peer is told when the user starts and stops to speak."""
    silence_ms: int = 500
    """Silence after which the user's speech counts as ended, for reporting. 500: OpenAI's server_vad default."""
    idle_ms: int | None = None
    """After so long without a word from either side the model is asked to speak; None: never."""


@dataclass(frozen=True, slots=True)
class AppendAudio:
    """Audio from the microphone."""

    pcm: Pcm
    """float32 mono, −1..1, at ``rate_hz``."""
    rate_hz: int


@dataclass(frozen=True, slots=True)
class AppendImage:
    """A camera picture, still encoded (JPEG, PNG or WebP)."""

    data: bytes
    captured_ms: float | None
    """When it was taken, ms on the input clock; None: now."""
    event_id: str | None
    """The client event that brought it, for an error about it."""


@dataclass(frozen=True, slots=True)
class AddText:
    """A typed message, for the model's next unit."""

    text: str


@dataclass(frozen=True, slots=True)
class Configure:
    """The set-up changed; every value is effective, not a difference."""

    setup: SessionSetup
    turn_taking: TurnTaking
    reference: VoiceReference | None = None
    """The recording of the voice to speak with, for ``setup.voice_reference``."""


@dataclass(frozen=True, slots=True)
class CommitInput:
    """Push-to-talk: the user's turn ends here."""


@dataclass(frozen=True, slots=True)
class ClearInput:
    """Drop input audio that the model has not been given."""


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """Make the model speak at its next unit."""

    instructions: str | None = None


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """The client stops the running response."""


@dataclass(frozen=True, slots=True)
class BargeIn:
    """The client knows that the user interrupts (a button, its own VAD): cut, and listen."""


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """Drop audio that has not been heard yet, and end the running response."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let the session stand still."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on after a pause."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The peer says goodbye."""

    reason: str = "client"


Request = (
    AppendAudio
    | AppendImage
    | AddText
    | Configure
    | CommitInput
    | ClearInput
    | CreateResponse
    | CancelResponse
    | BargeIn
    | ClearOutput
    | Pause
    | Continue
    | CloseSession
)
