"""One response on the wire, from ``response.created`` to ``response.done``.

Every event of a response is made here, in the only order that clients accept. Knows nothing about which response is
the current one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from duplex_server.types import OUTPUT_RATE_HZ, Pcm, Tokens
from duplex_server.wire.audio_format import AudioFormat, AudioOutlet
from duplex_server.wire.history import Spoken
from duplex_server.wire.ids import Ids
from duplex_server.wire.objects import (
    ContentPart,
    Item,
    MessageItem,
    Response,
    ResponseAudio,
    ResponseAudioOutput,
    ResponseAudioPart,
    ResponseError,
    ResponseStatus,
    ResponseTextPart,
    StatusDetails,
    usage_of,
)
from duplex_server.wire.server_events import (
    AudioMetadata,
    AudioTextMark,
    ConversationItemAdded,
    ConversationItemDone,
    ConversationItemTruncated,
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
)

__all__ = ["Outcome", "ResponseEvent", "ResponseSettings", "ResponseStream", "SoundPlace"]

_MAX_DELTA_SAMPLES = OUTPUT_RATE_HZ // 4
"""250 ms in one audio delta: players start sooner, and an interruption finds less to throw away."""

ResponseEvent = (
    ResponseCreated
    | ConversationItemAdded
    | ResponseOutputItemAdded
    | ResponseContentPartAdded
    | ResponseOutputAudioTranscriptDelta
    | ResponseOutputTextDelta
    | ResponseOutputAudioDelta
    | ResponseOutputAudioDone
    | ResponseOutputAudioTranscriptDone
    | ResponseOutputTextDone
    | ResponseContentPartDone
    | ResponseOutputItemDone
    | ConversationItemDone
    | ConversationItemTruncated
    | OutputAudioBufferStarted
    | OutputAudioBufferStopped
    | OutputAudioBufferCleared
    | ResponseDone
    | RateLimitsUpdated
)


class Outcome(enum.Enum):
    """How a response ended."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """The user took the floor: ``cancelled/turn_detected``."""
    CANCELLED = "cancelled"
    """The client stopped it: ``cancelled/client_cancelled``."""
    INCOMPLETE = "incomplete"
    """It became too long: ``incomplete/max_output_tokens``."""
    FAILED = "failed"


_STATUS: dict[Outcome, tuple[ResponseStatus, StatusDetails | None]] = {
    Outcome.COMPLETED: ("completed", None),
    Outcome.INTERRUPTED: ("cancelled", StatusDetails(type="cancelled", reason="turn_detected")),
    Outcome.CANCELLED: ("cancelled", StatusDetails(type="cancelled", reason="client_cancelled")),
    Outcome.INCOMPLETE: ("incomplete", StatusDetails(type="incomplete", reason="max_output_tokens")),
    Outcome.FAILED: ("failed", StatusDetails(type="failed", error=ResponseError(type="server_error"))),
}


@dataclass(frozen=True, slots=True)
class SoundPlace:
    """Where in what a model makes a piece of sound belongs."""

    unit: int
    """Index of the unit that it was made for; where there are several, of the first."""
    last: bool
    """Whether it ends its turn."""


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """What holds for a whole response, taken when it is created."""

    audio_format: AudioFormat
    voice: str
    text_only: bool
    media_track: bool
    max_output_tokens: int | Literal["inf"] = "inf"
    metadata: dict[str, str] | None = None
    marks: bool = False
    """Whether audio tells which words it holds."""


class ResponseStream:
    """The events of one response. Created, perhaps begun, finished; the caller keeps to that order."""

    def __init__(self, ids: Ids, settings: ResponseSettings) -> None:
        self._ids = ids
        self._settings = settings
        self._outlet = AudioOutlet(settings.audio_format)
        self.response_id = ids.response()
        self.turn: int | None = None
        """The model's turn that it carries; None while the model was only asked to speak."""
        self.spoken: Spoken | None = None
        self.tokens = Tokens()
        """What was read for it and written in it."""
        self._previous: str | None = None
        self._finished = False
        self._playback: Literal["none", "started", "over"] = "none"
        self._stop_waits = False

    @property
    def item_id(self) -> str:
        """Id of its item; empty before it began."""
        return self.spoken.item_id if self.spoken else ""

    @property
    def is_too_long(self) -> bool:
        """Whether more was written than the client wants."""
        limit = self._settings.max_output_tokens
        return limit != "inf" and self.tokens.text_out + self.tokens.audio_out > limit

    @property
    def text_only(self) -> bool:
        """Whether it is written instead of spoken."""
        return self._settings.text_only

    def create(self) -> list[ResponseEvent]:
        """Announce the response."""
        return [ResponseCreated(event_id=self._ids.event(), response=self._object("in_progress", None))]

    def begin(self, turn: int, spoken: Spoken, previous: str | None) -> list[ResponseEvent]:
        """Start its item.

        Args:
            turn: the model's turn.
            spoken: the item, already in the history.
            previous: id of the item before it.
        """
        self.turn, self.spoken, self._previous = turn, spoken, previous
        item = MessageItem(id=spoken.item_id, role="assistant", status="in_progress", content=[])
        return [
            ConversationItemAdded(event_id=self._ids.event(), item=item, previous_item_id=previous),
            ResponseOutputItemAdded(event_id=self._ids.event(), response_id=self.response_id, item=item),
            ResponseContentPartAdded(
                event_id=self._ids.event(),
                response_id=self.response_id,
                item_id=spoken.item_id,
                part=self._part(""),
            ),
        ]

    def text(self, text: str, audio_ms: int, end_ms: int = 0) -> list[ResponseEvent]:
        """Send text that is heard from ``audio_ms`` to ``end_ms`` of the response's audio; 0: the end is not known."""
        if self.spoken is None or not text:
            return []
        self.spoken.add_text(text, audio_ms)
        event_id, response_id, item_id = self._ids.event(), self.response_id, self.spoken.item_id
        if self._settings.text_only:
            return [ResponseOutputTextDelta(event_id=event_id, response_id=response_id, item_id=item_id, delta=text)]
        return [
            ResponseOutputAudioTranscriptDelta(
                event_id=event_id,
                response_id=response_id,
                item_id=item_id,
                delta=text,
                audio_start_ms=audio_ms,
                audio_end_ms=end_ms if end_ms > audio_ms else UNSET,
            )
        ]

    def audio(self, pcm: Pcm, place: SoundPlace | None = None) -> list[ResponseEvent]:
        """Count audio as made, and send it where it goes over the wire.

        Args:
            pcm: float32 ``[n_samples]`` at 24 kHz.
            place: where the model made it, if that is known.
        """
        if self.spoken is None or not len(pcm):
            return []
        start_samples = self.spoken.generated_samples
        self.spoken.generated_samples += len(pcm)
        if self._settings.media_track or self._settings.text_only:
            return []
        return list(self._deltas(pcm, start_samples, self.spoken, place))

    def playback(self, state: Literal["started", "stopped", "cleared"]) -> list[ResponseEvent]:
        """Report what the media track does; each once, ``stopped`` not before ``response.done``."""
        if not self._settings.media_track or self.spoken is None:
            return []
        event_id = self._ids.event
        if state == "started":
            if self._playback != "none" or self._finished:
                return []
            self._playback = "started"
            return [OutputAudioBufferStarted(event_id=event_id(), response_id=self.response_id)]
        if self._playback != "started":
            return []
        if state == "stopped":
            if not self._finished:
                self._stop_waits = True
                return []
            self._playback = "over"
            return [OutputAudioBufferStopped(event_id=event_id(), response_id=self.response_id)]
        self._playback = "over"
        return [OutputAudioBufferCleared(event_id=event_id(), response_id=self.response_id)]

    def finish(self, outcome: Outcome, played_ms: int, error: ResponseError | None = None) -> list[ResponseEvent]:
        """End the response: everything that is open is closed, then ``response.done``.

        Args:
            outcome: decides the status.
            played_ms: how much was heard; with a media track and a cut, the item is truncated to it.
            error: why it failed.
        """
        events: list[ResponseEvent] = []
        status, details = _STATUS[outcome]
        if error is not None:
            details = StatusDetails(type="failed", error=error)
        spoken = self.spoken
        output: list[Item] = []
        if spoken is not None:
            spoken.status = "completed" if outcome is Outcome.COMPLETED else "incomplete"
            output = [spoken.item_with(spoken.full_text)]
            events += self._close_item(spoken, output[0])
            if self._settings.media_track and outcome is not Outcome.COMPLETED:
                end_ms = spoken.truncate(played_ms)
                events.append(
                    ConversationItemTruncated(event_id=self._ids.event(), item_id=spoken.item_id, audio_end_ms=end_ms)
                )
                events += self.playback("cleared")
        response = self._object(status, details, output, played_ms)
        events.append(ResponseDone(event_id=self._ids.event(), response=response))
        events.append(RateLimitsUpdated(event_id=self._ids.event()))
        self._finished = True
        if self._stop_waits:
            events += self.playback("stopped")
        return events

    def _close_item(self, spoken: Spoken, item: Item) -> Iterator[ResponseEvent]:
        event_id, text = self._ids.event, spoken.full_text
        response_id, item_id = self.response_id, spoken.item_id
        if self._settings.text_only:
            yield ResponseOutputTextDone(event_id=event_id(), response_id=response_id, item_id=item_id, text=text)
        else:
            yield ResponseOutputAudioDone(event_id=event_id(), response_id=response_id, item_id=item_id)
            yield ResponseOutputAudioTranscriptDone(
                event_id=event_id(), response_id=response_id, item_id=item_id, transcript=text
            )
        yield ResponseContentPartDone(
            event_id=event_id(), response_id=response_id, item_id=item_id, part=self._part(text)
        )
        yield ResponseOutputItemDone(event_id=event_id(), response_id=response_id, item=item)
        yield ConversationItemDone(event_id=event_id(), item=item, previous_item_id=self._previous)

    def _deltas(
        self, pcm: Pcm, start_samples: int, spoken: Spoken, place: SoundPlace | None
    ) -> Iterator[ResponseEvent]:
        for offset in range(0, len(pcm), _MAX_DELTA_SAMPLES):
            piece = pcm[offset : offset + _MAX_DELTA_SAMPLES]
            encoded = self._outlet.encode(piece)
            if not encoded:
                continue
            start_ms = (start_samples + offset) * 1000 // OUTPUT_RATE_HZ
            rate_hz: int | UnsetType = UNSET
            metadata: AudioMetadata | UnsetType = UNSET
            if self._settings.marks:
                rate_hz = self._settings.audio_format.rate_hz
                metadata = AudioMetadata(
                    unit=UNSET if place is None else place.unit,
                    end_of_turn=place is not None and place.last and offset + len(piece) == len(pcm),
                    audio_text_marks=_marks(spoken, start_ms, start_ms + len(piece) * 1000 // OUTPUT_RATE_HZ),
                )
            yield ResponseOutputAudioDelta(
                event_id=self._ids.event(),
                response_id=self.response_id,
                item_id=spoken.item_id,
                delta=encoded,
                audio_start_ms=start_ms,
                sample_rate_hz=rate_hz,
                metadata=metadata,
            )

    def _part(self, text: str) -> ContentPart:
        return ResponseTextPart(text=text) if self._settings.text_only else ResponseAudioPart(transcript=text)

    def _object(
        self,
        status: ResponseStatus,
        details: StatusDetails | None,
        output: list[Item] | None = None,
        played_ms: int | None = None,
    ) -> Response:
        settings = self._settings
        over = played_ms is not None
        generated_ms = self.spoken.generated_ms if self.spoken else 0
        response = Response(
            id=self.response_id,
            status=status,
            status_details=details,
            output=output or [],
            conversation_id=self._ids.conversation,
            output_modalities=["text"] if settings.text_only else ["audio"],
            max_output_tokens=settings.max_output_tokens,
            audio=ResponseAudio(output=ResponseAudioOutput(format=settings.audio_format, voice=settings.voice)),
            usage=usage_of(self.tokens) if over else None,
            metadata=settings.metadata,
        )
        if played_ms is None:
            return response
        heard_ms = max(0, min(played_ms, generated_ms))
        return msgspec.structs.replace(response, generated_ms=generated_ms, played_ms=heard_ms)


def _marks(spoken: Spoken, start_ms: int, end_ms: int) -> list[AudioTextMark]:
    return [AudioTextMark(text_chars=n, audio_end_ms=at_ms) for n, at_ms in spoken.marks(start_ms, end_ms)]
