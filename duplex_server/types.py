"""The values that cross room borders: what the model is given, what it gives back, what a session is set to.

All are frozen. Knows nothing about wire formats, sockets or tensors. Arrays are handed over, not shared: whoever
puts one in here does not write to it afterwards.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = [
    "Compaction",
    "INPUT_RATE_HZ",
    "OUTPUT_RATE_HZ",
    "TICK_MS",
    "Floor",
    "Heard",
    "InterruptionPolicy",
    "ModelOutput",
    "ModelSpec",
    "Pcm",
    "Pcm16",
    "Refusal",
    "SessionSetup",
    "Tokens",
    "Unit",
    "UnitCost",
    "VideoFrame",
]

Pcm = npt.NDArray[np.float32]
"""Mono audio, float32 ``[n_samples]``, −1..1."""

Pcm16 = npt.NDArray[np.int16]
"""Mono audio, int16 ``[n_samples]``."""

INPUT_RATE_HZ = 16_000
"""Rate of all audio that a model hears. Source: Whisper and Silero VAD take 16 kHz; MiniCPM-o 4.5 too."""

OUTPUT_RATE_HZ = 24_000
"""Rate of all audio that a model speaks. Source: MiniCPM-o 4.5's token2wav; OpenAI Realtime's ``audio/pcm``."""

TICK_MS = 20
"""The session's clock: input is heard and output is sent in slices of this length.

20 ms is the packet length that every WebRTC endpoint sends by default (RFC 7874 §3 names it as the usual Opus ptime).
"""


class Floor(enum.Enum):
    """Who may speak during a unit, as the server sees it."""

    FREE = "free"
    """The model decides by itself whether to listen or to speak."""
    LISTEN = "listen"
    """The model must listen: the user was just given the floor, or nobody asked it to speak."""
    SPEAK = "speak"
    """The model must say something now: a client asked for a response."""


class InterruptionPolicy(enum.Enum):
    """What lets a user who speaks over the model take the floor."""

    GUARDED = "guarded"
    """Enough voiced speech that is neither echo nor a backchannel nor noise; the voice is lowered meanwhile."""
    IMMEDIATE = "immediate"
    """The onset of speech."""
    MODEL = "model"
    """Only the model's own decision. Both may speak at once."""
    PUSH_TO_TALK = "push_to_talk"
    """Only the client's word: it commits a turn, asks for a response, or cancels one."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture that the user's camera took."""

    captured_s: float
    """When it was taken, seconds on the session's input clock (0 at the session's first sample)."""
    rgb: npt.NDArray[np.uint8]
    """uint8 ``[height, width, 3]``; the longer side is at most :attr:`ModelSpec.frame_max_px`."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One time slice of the world, the model's only input."""

    index: int
    """0, 1, 2 … without gaps."""
    audio: Pcm
    """float32 ``[spec.unit_samples]``, 16 kHz, −1..1; silence where nothing came."""
    speech_probability: float = 0.0
    """Highest probability (0..1) within the unit that the user, and not the model's own echo, is speaking."""
    frames: tuple[VideoFrame, ...] = ()
    """Pictures of this unit by capture time, at most ``spec.max_frames``, the newest kept."""
    texts: tuple[str, ...] = ()
    """What the user typed, or the application injected, since the unit before."""
    floor: Floor = Floor.FREE


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model understood the user to say; only models that transcribe (``spec.transcribes``) report it."""

    text: str
    """The utterance so far; a later report of the same utterance replaces an earlier one."""
    final: bool


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model read and wrote, by kind."""

    text_in: int = 0
    audio_in: int = 0
    image_in: int = 0
    text_out: int = 0
    audio_out: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.text_in + other.text_in,
            self.audio_in + other.audio_in,
            self.image_in + other.image_in,
            self.text_out + other.text_out,
            self.audio_out + other.audio_out,
        )


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What one unit cost, as far as the model measures it; shown to clients that ask why an answer was late."""

    prefill_ms: float = 0.0
    """Taking the unit in: encoders, and the language model over what they give."""
    decode_ms: float = 0.0
    """Deciding, and writing the text."""
    voice_ms: float = 0.0
    """Making sound of it."""
    n_tokens: int = 0
    """Written for this unit."""
    context_tokens: int = 0
    """What the conversation's context holds now."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The model made room in a conversation's context by giving its oldest part up."""

    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a model will not do, though it goes on with the conversation as if that had not been asked for."""

    message: str
    """Why; the peer is told."""
    param: str
    """The field at fault, as the wire names it, e.g. ``session.instructions``."""
    revision: int | None = None
    """:attr:`SessionSetup.revision` of the set-up that cannot be had; None where it is something else."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a model yields for one row, as soon as it exists."""

    turn: int
    """The turn it was computed for: 1 for the row's first, one more for each new one. 0 while it only listens.

    After :meth:`~duplex_server.models.base.Model.cancel` of turn *t* every new turn has a number above *t*.
    """
    audio: Pcm = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 ``[n_samples]`` at ``spec.output_rate_hz``; empty while listening."""
    text: str = ""
    """Text that starts to be spoken at the first sample of ``audio``. Concatenated over a turn it is the transcript."""
    listening: bool = False
    """The model decided to listen for this unit."""
    end_of_turn: bool = False
    """Nothing more comes for ``turn``."""
    yields: bool = False
    """The model gives ``turn`` up because of what it understood the user to say: stop its sound at once."""
    heard: Heard | None = None
    end_of_session: bool = False
    """The model said goodbye: close the session when all has been heard."""
    tokens: Tokens | None = None
    """What was read and written since the last output that said so; only from models that count."""
    cost: UnitCost | None = None
    """Of the unit that is being taken; once per unit at most, in its last output."""
    compaction: Compaction | None = None
    """The context has just been made smaller."""
    refusal: Refusal | None = None
    unit: int = 0
    """Index of the unit that it answers. Filled in by the engine."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the rest of the server must know of a model before it opens a row."""

    name: str
    """As clients see it, e.g. ``"embedded"``."""
    unit_ms: int
    """Length of a unit; a multiple of :data:`TICK_MS`. 1000 for MiniCPM-o."""
    max_frames: int = 1
    """Pictures that one unit may hold; 0 for a blind model."""
    frame_max_px: int = 448
    """Pictures are scaled down so that their longer side is at most this."""
    transcribes: bool = False
    """Whether the model reports what it hears (:class:`Heard`)."""
    counts_tokens: bool = False
    """Whether outputs carry :attr:`ModelOutput.tokens`."""
    uses_speech_probability: bool = False
    """Whether the model reads :attr:`Unit.speech_probability`; if not, the server may skip its own VAD."""
    languages: tuple[str, ...] = ("en",)
    """BCP 47 tags that it can speak."""
    voices: tuple[str, ...] = ("default",)
    """Names that ``session.audio.output.voice`` may take; the first is the default."""
    context_tokens_max: int = 0
    """What a conversation's context holds at most; 0 where the model has none that could fill up."""
    clones_voices: bool = False
    """Whether the model speaks with the voice of :attr:`SessionSetup.voice_reference`."""
    examples: tuple[str, ...] = ()
    """Sentences a user can try, shown by the page."""
    output_rate_hz: int = OUTPUT_RATE_HZ

    @property
    def unit_samples(self) -> int:
        """Samples of input audio in one unit."""
        return INPUT_RATE_HZ * self.unit_ms // 1000


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """What the peer asked the model to be. Applied when a row is opened and whenever it changes."""

    instructions: str = ""
    """System prompt; models that take none ignore it."""
    language: str = "en"
    voice: str = "default"
    """One of ``spec.voices``."""
    voice_reference: Pcm | None = None
    """float32 mono 16 kHz clip of the voice to clone, for models that can."""
    speed: float = 1.0
    """Speaking rate, 0.25..1.5; 1 is the model's normal one."""
    listen_scale: float = 1.0
    """How much likelier than by itself the model is to go on listening where it may speak; the wire's ``eagerness``."""
    revision: int = 0
    """Which of the conversation's set-ups this is, for a :class:`Refusal` to name; nothing else."""
