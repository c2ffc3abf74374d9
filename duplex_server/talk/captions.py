"""What a person at a terminal wants to know of a conversation: who speaks, what was said, what was heard of it.

Pure: events in, captions out. Knows nothing about terminals.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from msgspec import UnsetType

from duplex_server.client import Received
from duplex_server.wire.events import (
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    ErrorEvent,
    InputAudioBufferSpeechStarted,
    InputAudioBufferSpeechStopped,
    ResponseCreated,
    ResponseDone,
    ResponseOutputAudioTranscriptDelta,
    ResponseOutputTextDelta,
    SessionGoAway,
)
from duplex_server.wire.objects import Response

__all__ = ["Caption", "Captions", "Speaker", "State"]


class Speaker(enum.Enum):
    """Whose words a caption holds."""

    USER = "you"
    MODEL = "model"
    SERVER = "server"


class State(enum.Enum):
    """What goes on."""

    LISTENING = "listening"
    HEARING = "hearing you"
    SPEAKING = "speaking"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Caption:
    """Something that was said, complete."""

    speaker: Speaker
    text: str
    unheard: str = ""
    """What the model would have gone on to say had it not been interrupted, as far as it was made."""


@dataclass(slots=True)
class _Spoken:
    pieces: list[tuple[int, str]] = field(default_factory=list)  # where in the audio each starts, ms; one turn's worth

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def split(self, played_ms: int) -> tuple[str, str]:
        """Return what was heard and what was not, by the piece."""
        heard = [text for start_ms, text in self.pieces if start_ms < played_ms]
        return "".join(heard), self.text[len("".join(heard)) :]


class Captions:
    """Follow a conversation. One object per conversation."""

    def __init__(self) -> None:
        self._user_speaks = False
        self._interrupted = False
        self._guess = ""
        self._spoken = _Spoken()

    def state(self, *, playing: bool) -> State:
        """Return what goes on.

        Args:
            playing: whether the listener hears the model now.
        """
        if self._interrupted:
            return State.INTERRUPTED
        if playing:
            return State.SPEAKING
        return State.HEARING if self._user_speaks else State.LISTENING

    @property
    def partial(self) -> str:
        """What is being said and is not complete: the model's words, or else the best guess of the user's."""
        return self._spoken.text.strip() or self._guess

    def receive(self, received: Received) -> list[Caption]:
        """Take in one thing that came, and return the captions that it completes."""
        match received:
            case InputAudioBufferSpeechStarted():
                self._user_speaks = True
            case InputAudioBufferSpeechStopped():
                self._user_speaks = self._interrupted = False
            case ConversationItemInputAudioTranscriptionDelta():
                whole = received.transcript
                self._guess = self._guess + (received.delta or "") if isinstance(whole, UnsetType) else whole
            case ConversationItemInputAudioTranscriptionCompleted():
                self._guess = ""
                return [Caption(Speaker.USER, received.transcript)] if received.transcript else []
            case ResponseCreated():
                self._interrupted = False
                self._spoken = _Spoken()
            case ResponseOutputAudioTranscriptDelta():
                start_ms = 0 if isinstance(received.audio_start_ms, UnsetType) else received.audio_start_ms
                self._spoken.pieces.append((start_ms, received.delta))
            case ResponseOutputTextDelta():
                self._spoken.pieces.append((0, received.delta))
            case ResponseDone():
                return self._finish(received.response)
            case ErrorEvent():
                return [Caption(Speaker.SERVER, received.error.message)]
            case SessionGoAway():
                seconds = received.time_left_ms // 1000
                return [Caption(Speaker.SERVER, f"The session will end in {seconds} s ({received.reason}).")]
            case _:
                pass
        return []

    def _finish(self, response: Response) -> list[Caption]:
        spoken, self._spoken = self._spoken, _Spoken()
        heard, unheard = spoken.text, ""
        if response.status == "cancelled":
            self._interrupted = self._user_speaks
            if not isinstance(response.played_ms, UnsetType):
                heard, unheard = spoken.split(response.played_ms)
        if not spoken.text.strip():
            return []
        return [Caption(Speaker.MODEL, heard.strip(), unheard.strip())]
