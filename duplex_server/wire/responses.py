"""Which response is open, and which were a moment ago. At most one is open.

Knows nothing about why a response begins or ends, nor, which is :mod:`~duplex_server.wire.response_stream`'s, about the
order within one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from duplex_server.types import Tokens
from duplex_server.wire.client_events import PlaybackAck
from duplex_server.wire.events import (
    ConversationItemTruncated,
    PlaybackAcknowledged,
    PlaybackFigures,
    PlaybackReport,
)
from duplex_server.wire.history import History, Spoken
from duplex_server.wire.ids import Ids
from duplex_server.wire.objects import ResponseError
from duplex_server.wire.response_stream import Outcome, ResponseEvent, ResponseSettings, ResponseStream

__all__ = ["Responses"]

_MAX_RECENT = 4
"""Responses that a late ``playback.ack`` or a draining media track may still name."""


class Responses:
    """The open response and the newest ones before it."""

    def __init__(self, ids: Ids, history: History) -> None:
        self._ids = ids
        self._history = history
        self._recent: OrderedDict[str, ResponseStream] = OrderedDict()  # newest last; beyond _MAX_RECENT the oldest go
        self._newest_turn = 0
        self._read = Tokens()  # since the newest response began
        self._written: dict[int, Tokens] = {}  # in turns that wait for their response; emptied whenever one begins
        self.open: ResponseStream | None = None

    @property
    def speaks(self) -> bool:
        """Whether the open response carries a turn, and was not merely asked for."""
        return self.open is not None and self.open.turn is not None

    @property
    def generated_ms(self) -> int:
        """Audio made for the open response, ms."""
        spoken = self.open.spoken if self.open else None
        return spoken.generated_ms if spoken else 0

    def current(self, turn: int) -> ResponseStream | None:
        """Return the open response if it carries ``turn``."""
        return self.open if self.open is not None and self.open.turn == turn else None

    def is_new(self, turn: int) -> bool:
        """Whether no response has carried ``turn``, or a later one, yet."""
        return turn > self._newest_turn

    def create(self, settings: ResponseSettings) -> list[ResponseEvent]:
        """Open a response; none may be open."""
        assert self.open is None, "one response at a time"
        self.open = ResponseStream(self._ids, settings)
        self._recent[self.open.response_id] = self.open
        while len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)
        return self.open.create()

    def begin(self, turn: int) -> list[ResponseEvent]:
        """Let the open response carry ``turn``."""
        assert self.open is not None and self.is_new(turn), "an open response, a new turn"
        self._newest_turn = turn
        self.open.tokens = self._read + self._written.pop(turn, Tokens())
        self._read = Tokens()
        self._written = {waiting: tokens for waiting, tokens in self._written.items() if waiting > turn}
        spoken = Spoken(self._history.new_id(self._ids), text_only=self.open.text_only)
        previous = self._history.add(spoken.item_id, spoken)
        return self.open.begin(turn, spoken, previous)

    def count(self, turn: int, tokens: Tokens) -> bool:
        """Count what the model read and wrote; return whether the open response has become too long."""
        response = self.current(turn)
        if response is not None:
            response.tokens += tokens
            return response.is_too_long
        if self.is_new(turn):
            self._written[turn] = self._written.get(turn, Tokens()) + tokens
        else:
            self._read += tokens
        return False

    def finish(self, outcome: Outcome, played_ms: int, error: ResponseError | None = None) -> list[ResponseEvent]:
        """Close the open response; nothing if none is."""
        response, self.open = self.open, None
        return response.finish(outcome, played_ms, error) if response else []

    def playback(self, turn: int, state: Literal["started", "stopped", "cleared"]) -> list[ResponseEvent]:
        """Report what the media track does with a recent turn."""
        for response in self._recent.values():
            if response.turn == turn:
                return response.playback(state)
        return []

    def acknowledge(self, event: PlaybackAck) -> list[PlaybackAcknowledged | ConversationItemTruncated]:
        """Answer a client's word on what was heard; nothing if it names no recent response."""
        for response in reversed(self._recent.values()):
            spoken = response.spoken
            if spoken is None or event.response_id not in (None, response.response_id):
                continue
            if event.item_id not in (None, spoken.item_id):
                continue
            played = spoken.clamp_ms(event.played_ms)
            committed = played if event.committed_ms is None else spoken.clamp_ms(event.committed_ms)
            made = spoken.generated_ms
            report = PlaybackReport(
                response_id=response.response_id,
                item_id=spoken.item_id,
                played_ms=played,
                committed_ms=committed,
                playback=PlaybackFigures(generated_ms=made, sent_ms=made, played_ms=played, committed_ms=committed),
            )
            acknowledged = PlaybackAcknowledged(event_id=self._ids.event(), event=report)
            return [acknowledged, *(self._truncated(spoken, played) if event.truncate else [])]
        return []

    def _truncated(self, spoken: Spoken, played_ms: int) -> list[ConversationItemTruncated]:
        end_ms = spoken.truncate(played_ms)
        event_id = self._ids.event()
        return [ConversationItemTruncated(event_id=event_id, item_id=spoken.item_id, audio_end_ms=end_ms)]
