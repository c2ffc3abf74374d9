"""What is said, by either side, as fragments placed on the clock of a Live session.

Knows nothing about the rest of that API.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import UnsetType

from duplex_server.wire import live_events as live
from duplex_server.wire import server_events as s
from duplex_server.wire.events import ServerEvent

__all__ = ["LiveWord", "LiveWords"]

LiveWord = live.LiveOutputTranscriptDelta | live.LiveInputTranscriptDelta

MAX_WAITING = 64
"""Fragments that wait for their response's first sound; a model gives one or two. Beyond it the oldest is told now."""
MAX_UTTERANCES = 16
"""Of the user, whose times are known and whose words are not; beyond it the oldest is placed where its words come."""


class LiveWords:
    """Places fragments. The model's are told once its voice is heard, the user's once they are certain.

    Args:
        now_ms: the time on the session's clock.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._response_began_ms: int | None = None  # where the open response's sound begins; None before it does
        self._waiting: list[s.ResponseOutputAudioTranscriptDelta] = []  # bounded by MAX_WAITING
        self._utterances: dict[str, tuple[int, int | None]] = {}  # by item id; bounded by MAX_UTTERANCES
        self._anything_heard = False

    def tell(self, event: ServerEvent) -> Sequence[LiveWord]:
        """Take an event, and return the fragments that it brings."""
        match event:
            case s.ResponseCreated():
                self._response_began_ms = None
            case s.ResponseOutputAudioTranscriptDelta():
                self._waiting.append(event)
                if self._response_began_ms is not None or len(self._waiting) > MAX_WAITING:
                    return self._flush()
            case s.OutputAudioBufferStarted():
                self._response_began_ms = self._now_ms()
                return self._flush()
            case s.ResponseOutputAudioDone():  # words that had no sound
                return self._flush()
            case s.InputAudioBufferSpeechStarted():
                self._utterances[event.item_id] = (event.audio_start_ms, None)
                if len(self._utterances) > MAX_UTTERANCES:
                    del self._utterances[next(iter(self._utterances))]
            case s.InputAudioBufferSpeechStopped():
                start_ms, _ = self._utterances.get(event.item_id, (event.audio_end_ms, None))
                self._utterances[event.item_id] = (start_ms, event.audio_end_ms)
            case s.ConversationItemInputAudioTranscriptionCompleted():
                return self._heard(event)
        return []

    def _flush(self) -> Sequence[LiveWord]:
        began_ms = self._now_ms() if self._response_began_ms is None else self._response_began_ms
        told: list[LiveWord] = []
        for waiting in self._waiting:
            start_ms = began_ms + _known(waiting.audio_start_ms, 0)
            end_ms = began_ms + _known(waiting.audio_end_ms, start_ms - began_ms)
            told.append(
                live.LiveOutputTranscriptDelta(
                    event_id=waiting.event_id, delta=waiting.delta, start_ms=start_ms, end_ms=end_ms
                )
            )
        self._waiting.clear()
        return told

    def _heard(self, event: s.ConversationItemInputAudioTranscriptionCompleted) -> Sequence[LiveWord]:
        now_ms = self._now_ms()
        start_ms, end_ms = self._utterances.pop(event.item_id, (now_ms, now_ms))
        if not event.transcript:
            return []
        # Fragments are joined as they are, and this is the next utterance.
        delta = f" {event.transcript}" if self._anything_heard else event.transcript
        self._anything_heard = True
        return [
            live.LiveInputTranscriptDelta(
                event_id=event.event_id, delta=delta, start_ms=start_ms, end_ms=max(start_ms, end_ms or now_ms)
            )
        ]


def _known(value_ms: int | UnsetType, otherwise_ms: int) -> int:
    return otherwise_ms if isinstance(value_ms, UnsetType) else value_ms
