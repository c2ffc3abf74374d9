"""The user's side of the conversation on the wire: announced speech, items made of it, and their transcripts.

A user item exists from its commit on; what the model understands before that is held back until then. Knows nothing
about responses.
"""

from __future__ import annotations

from duplex_server.types import Heard
from duplex_server.wire.history import Given, History
from duplex_server.wire.ids import Ids
from duplex_server.wire.objects import InputAudioPart, MessageItem, TranscriptionUsage
from duplex_server.wire.server_events import (
    ConversationItemAdded,
    ConversationItemDone,
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    InputAudioBufferCommitted,
    InputAudioBufferSpeechStarted,
    InputAudioBufferSpeechStopped,
    InputAudioBufferTimeoutTriggered,
)

__all__ = ["UserEvent", "UserTurns"]

UserEvent = (
    InputAudioBufferSpeechStarted
    | InputAudioBufferSpeechStopped
    | InputAudioBufferTimeoutTriggered
    | InputAudioBufferCommitted
    | ConversationItemAdded
    | ConversationItemDone
    | ConversationItemInputAudioTranscriptionDelta
    | ConversationItemInputAudioTranscriptionCompleted
)

_MAX_HELD_CHARS = 4096
"""Of transcript that waits for its item; beyond it the oldest words go."""


class UserTurns:
    """Orders what is told of the user: started, stopped, committed, added, done, then the transcript."""

    def __init__(self, ids: Ids, history: History) -> None:
        self._ids = ids
        self._history = history
        self._announced: str | None = None  # item id given out by speech_started
        self._started_ms = 0
        self._awaiting: str | None = None  # newest user item, while its transcript is not complete
        self._awaiting_s = 0.0
        self._told = ""  # of the awaited transcript
        self._held_final = ""
        self._held_guess = ""

    @property
    def announced(self) -> str | None:
        """Id of the item that announced speech will become; None if none is announced."""
        return self._announced

    def speech_started(self, at_ms: int) -> list[UserEvent]:
        """Announce speech and the item that it will become; nothing if it is announced already."""
        if self._announced is not None:
            return []
        self._announced = self._history.new_id(self._ids)
        self._started_ms = max(0, at_ms)
        return [
            InputAudioBufferSpeechStarted(
                event_id=self._ids.event(), item_id=self._announced, audio_start_ms=self._started_ms
            )
        ]

    def speech_stopped(self, at_ms: int) -> list[UserEvent]:
        """End announced speech and make it an item; nothing if none is announced."""
        if self._announced is None:
            return []
        at_ms = max(at_ms, self._started_ms)
        stopped = InputAudioBufferSpeechStopped(event_id=self._ids.event(), item_id=self._announced, audio_end_ms=at_ms)
        return [stopped, *self.commit(at_ms - self._started_ms)]

    def stop_and_commit(self, length_ms: int) -> list[UserEvent]:
        """Make an item on the client's word; speech that was announced ends with it."""
        if self._announced is not None:
            return self.speech_stopped(self._started_ms + length_ms)
        return self.commit(length_ms)

    def idled(self, start_ms: int, end_ms: int) -> list[UserEvent]:
        """Tell that nobody spoke between these times, and make an item of it; nothing while speech is announced."""
        if self._announced is not None:
            return []
        item_id = self._announced = self._history.new_id(self._ids)
        triggered = InputAudioBufferTimeoutTriggered(
            event_id=self._ids.event(), item_id=item_id, audio_start_ms=start_ms, audio_end_ms=end_ms
        )
        return [triggered, *self.commit(end_ms - start_ms)]

    def abandon(self) -> list[UserEvent]:
        """End announced speech whose end nobody will report."""
        return self.speech_stopped(self._started_ms)

    def commit(self, length_ms: int) -> list[UserEvent]:
        """Make an item of what the user said; takes the announced id if there is one."""
        item_id = self._announced or self._history.new_id(self._ids)
        self._announced = None
        item = MessageItem(id=item_id, role="user", status="completed", content=[InputAudioPart()])
        previous = self._history.add(item_id, Given(item))
        self._awaiting, self._awaiting_s, self._told = item_id, length_ms / 1000, ""
        events: list[UserEvent] = [
            InputAudioBufferCommitted(event_id=self._ids.event(), item_id=item_id, previous_item_id=previous),
            ConversationItemAdded(event_id=self._ids.event(), item=item, previous_item_id=previous),
            ConversationItemDone(event_id=self._ids.event(), item=item, previous_item_id=previous),
        ]
        return [*events, *self.release()]

    def heard(self, heard: Heard, *, defer: bool) -> list[UserEvent]:
        """Report what the model understood.

        Args:
            heard: the utterance so far, or its final form.
            defer: an item for it is still to come although no speech is announced yet.
        """
        if self._announced is not None or (self._awaiting is None and (defer or not heard.final)):
            self._hold(heard)
            return []
        if self._awaiting is not None:
            return self._transcribe(heard)
        if not heard.text:
            return []
        self._hold(heard)
        return self.commit(0)

    def release(self) -> list[UserEvent]:
        """Report a transcript that was held back, if there is an item for it now; makes one for a final transcript."""
        if self._announced is not None:
            return []
        if self._awaiting is None:
            return self.commit(0) if self._held_final else []
        if self._held_final:
            text, self._held_final = self._held_final, ""
            return self._transcribe(Heard(text, final=True))
        if self._held_guess:
            text, self._held_guess = self._held_guess, ""
            return self._transcribe(Heard(text, final=False))
        return []

    def _hold(self, heard: Heard) -> None:
        if not heard.final:
            self._held_guess = heard.text[-_MAX_HELD_CHARS:]
            return
        self._held_guess = ""
        joined = f"{self._held_final} {heard.text}" if self._held_final and heard.text else heard.text
        self._held_final = (joined or self._held_final)[-_MAX_HELD_CHARS:]

    def _transcribe(self, heard: Heard) -> list[UserEvent]:
        assert self._awaiting is not None, "there is an item to transcribe"
        item_id = self._awaiting
        entry = self._history.get(item_id)
        if not isinstance(entry, Given):  # the client deleted it
            self._awaiting = None
            return []
        if heard.final:
            self._awaiting = None
            entry.transcribe(heard.text)
            usage = TranscriptionUsage(seconds=self._awaiting_s)
            return [
                ConversationItemInputAudioTranscriptionCompleted(
                    event_id=self._ids.event(), item_id=item_id, transcript=heard.text, usage=usage
                )
            ]
        if heard.text == self._told:
            return []
        added = heard.text[len(self._told) :] if heard.text.startswith(self._told) else ""
        self._told = heard.text
        return [
            ConversationItemInputAudioTranscriptionDelta(
                event_id=self._ids.event(), item_id=item_id, delta=added, transcript=heard.text
            )
        ]
