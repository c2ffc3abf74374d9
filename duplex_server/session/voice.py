"""The model's turns on their way to the listener: each becomes a response, is played at its pace, and can be cut.

Knows nothing about the user, nor about why a turn is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from duplex_server.media.echo import EchoGuard
from duplex_server.session.attachment import Attachment
from duplex_server.session.playout import Cut, Playout, Slice
from duplex_server.types import OUTPUT_RATE_HZ, TICK_MS, ModelOutput
from duplex_server.wire.dialogue import Dialogue, Outcome
from duplex_server.wire.events import ServerEvent
from duplex_server.wire.response_stream import SoundPlace

__all__ = ["Voice"]

_STALL_S = 10.0
"""A response that does not go on for so long is ended. Clients give up on one after 10 s (protocol notes §3.1)."""

_TICK_SAMPLES = OUTPUT_RATE_HZ * TICK_MS // 1000


class Voice:
    """One session's output. Times are the session's clock.

    Args:
        transport: takes events and audio.
        dialogue: makes the events.
        on_turn: called when a new turn is about to be told.
        on_sound: called when a turn's first audio leaves.
    """

    def __init__(
        self, transport: Attachment, dialogue: Dialogue, *, on_turn: Callable[[], None], on_sound: Callable[[], None]
    ) -> None:
        traits = transport.traits
        self._transport = transport
        self._dialogue = dialogue
        self._on_turn = on_turn
        self._on_sound = on_sound
        self._media_track = traits.media_track
        self._playout = Playout(chunk_ms=traits.chunk_ms, lead_ms=traits.lead_ms)
        self._room = asyncio.Event()
        self._response_turn = 0  # the turn whose response is open on the wire, 0 if none
        self._sealed_turn = 0  # the newest that was ended because it had become too long
        self._moved_s = 0.0  # when something was last said, by the model or to the listener
        self.echo = EchoGuard()
        """Knows what the listener's microphone may pick up."""
        self.turn_open = False
        """The model has begun a turn and not ended it."""
        self.n_turns = 0

    @property
    def playout(self) -> Playout:
        """What waits, and what was heard."""
        return self._playout

    def is_heard(self, now_s: float) -> bool:
        """Whether the listener hears the model, or will."""
        return self._playout.pending or self._playout.audible(now_s)

    def is_stalled(self, now_s: float) -> bool:
        """Whether the model has begun a turn, and neither gone on nor ended it for longer than any model thinks."""
        return self.turn_open and self._playout.pending and now_s - self._moved_s > _STALL_S

    async def room(self) -> None:
        """Wait until more may be taken from the model."""
        while not self._playout.room:
            self._room.clear()
            await self._room.wait()

    def put(self, output: ModelOutput, now_s: float) -> None:
        """Take what the model says."""
        if self._playout.put(output):
            self._moved_s = now_s
            self.turn_open = not output.end_of_turn
            self._announce(now_s)

    def duck(self, lowered: bool) -> None:
        """Lower the voice while an interruption is judged, where the listener hears it at once; or raise it again."""
        self._playout.duck(lowered and self._media_track)

    def play(self, now_s: float) -> None:
        """Send what is due at this tick."""
        self._announce(now_s)
        due = self._playout.take(now_s)
        if due is not None and self._dialogue.is_silent(due.turn):  # a turn to be read passes at the pace of speech
            due = None
        self.echo.sent(due.pcm if due is not None and self._media_track else None, _TICK_SAMPLES)
        if due is not None:
            self._moved_s = now_s
            self._send_slice(due)
        retired = self._playout.retire(now_s)
        if retired is not None:
            outcome = Outcome.INCOMPLETE if retired.number == self._sealed_turn else Outcome.COMPLETED
            self._end_response(retired.number, outcome, retired.sent_samples)
            self._send(self._dialogue.playback(retired.number, "stopped"))
            self._announce(now_s)
        if self._playout.room:
            self._room.set()

    def cut(self, outcome: Outcome, now_s: float) -> Cut:
        """Stop the sound and end the response: nothing queued, nothing late."""
        cut = self._playout.cut(now_s)
        self._transport.clear_audio()
        self.turn_open = False
        if cut.turn:
            self._send(self._dialogue.playback(cut.turn, "cleared"))
            self._end_response(cut.turn, outcome, cut.played_samples)
        return cut

    def end_early(self, turn: int) -> int:
        """Let a turn that has become too long be heard as far as it was made, and no further.

        Returns:
            How many samples that are.
        """
        self._sealed_turn = turn
        self.turn_open = False
        return self._playout.seal(turn)

    def report_position(self, now_s: float) -> None:
        """Tell how far the open response has come."""
        front = self._playout.front(now_s)
        if front is not None and front.number == self._response_turn:
            positions = front.played_samples, front.sent_samples, front.generated_samples
            played_ms, sent_ms, generated_ms = map(_ms, positions)
            self._send(self._dialogue.reports.playback_position(front.number, played_ms, sent_ms, generated_ms))

    def _announce(self, now_s: float) -> None:
        """Tell the peer what is new of the turn that is on."""
        front = self._playout.front(now_s)
        if front is None:
            return
        if front.number != self._response_turn:
            self.n_turns += 1
            self._response_turn = front.number
            self._on_turn()
            self._send(self._dialogue.begin_response(front.number))
        for piece in self._playout.take_texts():
            self._send(self._dialogue.text(front.number, piece.text, *piece.span_ms))

    def _send_slice(self, due: Slice) -> None:
        if due.first:
            self._send(self._dialogue.playback(due.turn, "started"))
            self._on_sound()
        if self._media_track:
            self._transport.send_audio(due.pcm)
        if due.turn == self._response_turn:
            self._send(self._dialogue.audio(due.turn, due.pcm, SoundPlace(due.unit, due.last)))

    def _end_response(self, turn: int, outcome: Outcome, played_samples: int) -> None:
        if turn and turn == self._response_turn:
            self._response_turn = 0
            self._send(self._dialogue.end_response(turn, outcome, _ms(played_samples)))

    def _send(self, events: list[ServerEvent]) -> None:
        for event in events:
            self._transport.send(event)


def _ms(n_samples: int) -> int:
    return n_samples * 1000 // OUTPUT_RATE_HZ
