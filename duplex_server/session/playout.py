"""What the listener hears, when: audio of turns goes out at real-time pace, and can be cut at any sample.

Pure and synchronous; time is passed in. The one gate at which late output of a cut turn dies is :meth:`Playout.put`.
Knows nothing about events, codecs or sockets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from duplex_server.types import OUTPUT_RATE_HZ, TICK_MS, ModelOutput, Pcm

__all__ = ["Cut", "Playout", "Slice", "TextPiece", "TurnView"]

_TICK_SAMPLES = OUTPUT_RATE_HZ * TICK_MS // 1000
_FADE_SAMPLES = OUTPUT_RATE_HZ // 100
"""10 ms: short enough to be "at once", long enough not to click."""
DUCKED_GAIN = 10 ** (-18 / 20)
"""A ducked voice is 18 dB down: clearly giving way, still understood. 12 dB is what listeners call half as loud
twice over; 6 dB of margin are kept because codecs and rooms smear levels."""
_DUCK_SAMPLES = OUTPUT_RATE_HZ * 15 // 1000
_RISE_SAMPLES = OUTPUT_RATE_HZ * 30 // 1000
"""The voice drops within 15 ms and comes back within 30 ms: fast, yet without a click."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of a turn and where in its audio it starts to be spoken."""

    text: str
    audio_samples: int
    end_samples: int
    """Where the audio that came with it ends; ``audio_samples`` if none did."""

    @property
    def span_ms(self) -> tuple[int, int]:
        """Both, ms."""
        return self.audio_samples * 1000 // OUTPUT_RATE_HZ, self.end_samples * 1000 // OUTPUT_RATE_HZ


@dataclass(frozen=True, slots=True)
class Slice:
    """Audio to send now, all of one turn."""

    turn: int
    pcm: Pcm
    """float32 ``[n]`` at 24 kHz, n > 0."""
    first: bool
    """The turn's first audio."""
    last: bool
    """The turn ends with it."""
    unit: int
    """Index of the unit that its first sample was made for."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What was stopped."""

    turn: int
    """The turn that was on, 0 if none."""
    newest_turn: int
    """The newest turn that output has been seen of; everything up to it is void."""
    played_samples: int
    """How much of ``turn`` had been heard."""


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn as the listener has it."""

    number: int
    generated_samples: int
    sent_samples: int
    played_samples: int
    complete: bool
    """All of it was generated and sent."""
    finished: bool
    """All of it was heard."""


@dataclass(slots=True)
class _Turn:
    number: int
    chunks: deque[Pcm] = field(default_factory=deque)  # bounded by Playout's capacity
    waiting: int = 0
    generated: int = 0
    sent: int = 0
    ended: bool = False
    anchor_s: float | None = None  # when its sample 0 is heard, moved by every underrun
    texts: deque[TextPiece] = field(default_factory=deque)  # bounded by the turn's length: one per output
    units: deque[tuple[int, int]] = field(default_factory=deque)  # first sample, unit; bounded likewise

    def unit_sent_next(self) -> int:
        """Return the unit of the sample that is sent next; there must be one."""
        while len(self.units) > 1 and self.units[1][0] <= self.sent:
            self.units.popleft()
        return self.units[0][1]


class Playout:
    """Turns of audio, waiting to be heard in their order.

    Positions: ``generated`` by the model, ``sent`` to the peer, ``played`` to the listener; on a connection with a
    lead, ``played`` is ``sent`` less what the peer's player still holds by the clock.
    """

    def __init__(self, *, chunk_ms: int, lead_ms: int, capacity_s: float = 60.0) -> None:
        """
        Args:
            chunk_ms: audio leaves in pieces of this length, but for a turn's first and last.
            lead_ms: how far ahead of real time it leaves.
            capacity_s: most audio that waits; beyond it :attr:`room` is False and the reader should pause.
        """
        self._chunk_samples = OUTPUT_RATE_HZ * chunk_ms // 1000
        self._lead_samples = OUTPUT_RATE_HZ * lead_ms // 1000
        self._capacity_samples = int(OUTPUT_RATE_HZ * capacity_s)
        self._turns: deque[_Turn] = deque()  # the front one is on; bounded by the capacity, see `room`
        self._retired: _Turn | None = None  # all sent, of which the peer's player may hold the end
        self._newest = 0
        self._cut_through = 0  # turns up to this number are void
        self._gain = self._gain_target = 1.0
        self._farewell: Slice | None = None
        self.n_stale_samples = 0
        """Samples that came for turns already cut."""
        self.n_underruns = 0
        """Times that a turn ran dry in its middle."""

    def put(self, output: ModelOutput) -> bool:
        """Queue a turn's audio and text. The gate: output of a cut turn is dropped here and nowhere else.

        Returns:
            False if the output was stale.
        """
        if output.turn <= self._cut_through:
            self.n_stale_samples += len(output.audio)
            return False
        if output.turn > self._newest:
            if self._turns:  # a model that starts a new turn has ended the old one
                self._turns[-1].ended = True
            self._turns.append(_Turn(output.turn))
            self._newest = output.turn
        turn = self._turns[-1] if self._turns else None
        if turn is None or turn.number != output.turn or turn.ended:
            self.n_stale_samples += len(output.audio)
            return False
        if output.text:
            turn.texts.append(TextPiece(output.text, turn.generated, turn.generated + len(output.audio)))
        if len(output.audio):
            turn.units.append((turn.generated, output.unit))
            turn.chunks.append(output.audio)
            turn.waiting += len(output.audio)
            turn.generated += len(output.audio)
        turn.ended = turn.ended or output.end_of_turn
        return True

    @property
    def room(self) -> bool:
        """Whether more should be taken from the model now."""
        return sum(turn.waiting for turn in self._turns) < self._capacity_samples

    @property
    def pending(self) -> bool:
        """Whether a turn is on or waits."""
        return bool(self._turns)

    def front(self, now_s: float) -> TurnView | None:
        """Return the turn that is on, if any."""
        if not self._turns:
            return None
        turn = self._turns[0]
        played = self._played(turn, now_s)
        complete = turn.ended and not turn.waiting
        return TurnView(turn.number, turn.generated, turn.sent, played, complete, complete and played >= turn.sent)

    def take_texts(self) -> list[TextPiece]:
        """Return and forget the text pieces of the turn that is on."""
        if not self._turns:
            return []
        texts = list(self._turns[0].texts)
        self._turns[0].texts.clear()
        return texts

    def audible(self, now_s: float) -> bool:
        """Whether the listener hears the model now."""
        if self._retired is not None and self._played(self._retired, now_s) < self._retired.sent:
            return True
        return any(turn.sent and (turn.waiting or self._played(turn, now_s) < turn.sent) for turn in self._turns)

    def take(self, now_s: float) -> Slice | None:
        """Return the audio due at ``now_s``, or None. Called once per tick; each call may move ``now_s`` forward."""
        if self._farewell is not None:
            farewell, self._farewell = self._farewell, None
            return farewell
        turn = self._turns[0] if self._turns else None
        if turn is None or not turn.waiting:
            return None
        if turn.waiting < _TICK_SAMPLES and not turn.ended:
            return None
        first = turn.sent == 0
        anchor_s = now_s if turn.anchor_s is None else turn.anchor_s
        elapsed = round((now_s - anchor_s) * OUTPUT_RATE_HZ)
        if elapsed > turn.sent:  # it ran dry: what comes now is heard later
            self.n_underruns += 1
            anchor_s = now_s - turn.sent / OUTPUT_RATE_HZ
            elapsed = turn.sent
        turn.anchor_s = anchor_s
        due = elapsed + _TICK_SAMPLES + self._lead_samples - turn.sent
        n_samples = min(due, turn.waiting)
        last = turn.ended and n_samples == turn.waiting
        urgent = first or last or turn.sent - elapsed < 3 * _TICK_SAMPLES
        if n_samples <= 0 or (n_samples < self._chunk_samples and not urgent):
            return None
        if self._lead_samples == 0:
            n_samples = min(n_samples, _TICK_SAMPLES)
        return self._slice(turn, n_samples, first)

    def _slice(self, turn: _Turn, n_samples: int, first: bool) -> Slice:
        unit = turn.unit_sent_next()
        pcm = self._shape(self._pop(turn, n_samples))
        if self._lead_samples == 0 and n_samples < _TICK_SAMPLES:  # a media track takes whole ticks
            pcm = np.concatenate([pcm, np.zeros(_TICK_SAMPLES - n_samples, np.float32)])
        return Slice(turn.number, pcm, first, turn.ended and not turn.waiting, unit)

    def current(self, turn: int) -> bool:
        """Whether ``turn`` has not been cut."""
        return turn > self._cut_through

    def retire(self, now_s: float) -> TurnView | None:
        """Forget the turn that is on if all of it was generated and sent; return how it ended."""
        front = self.front(now_s)
        if front is None or not front.complete:
            return None
        self._retired = self._turns.popleft()
        return front

    def cut(self, now_s: float) -> Cut:
        """Stop everything: drop what waits, void every turn seen so far; a 10 ms fade is all that still leaves."""
        turn = self._turns[0] if self._turns else None
        played = 0
        if turn is not None:
            played = self._played(turn, now_s)
            if turn.waiting and turn.sent and self._lead_samples == 0:
                unit = turn.unit_sent_next()
                tail = self._shape(self._pop(turn, min(_FADE_SAMPLES, turn.waiting)))
                faded = np.zeros(_TICK_SAMPLES, np.float32)
                faded[: len(tail)] = tail * np.linspace(1, 0, len(tail), dtype=np.float32)
                self._farewell = Slice(turn.number, faded, first=False, last=False, unit=unit)
        self._turns.clear()
        self._retired = None
        self._cut_through = self._newest
        self._gain = self._gain_target = 1.0
        return Cut(turn.number if turn else 0, self._newest, played)

    def seal(self, turn: int) -> int:
        """End a turn where it is: what was made of it is played, what still comes is stale.

        Returns:
            How many samples were made; 0 if it is over.
        """
        for waiting in self._turns:
            if waiting.number == turn:
                waiting.ended = True
                return waiting.generated
        return 0

    def duck(self, lowered: bool) -> None:
        """Lower the voice, or raise it again; the change is smooth."""
        self._gain_target = DUCKED_GAIN if lowered else 1.0

    def _played(self, turn: _Turn, now_s: float) -> int:
        if turn.anchor_s is None:
            return 0
        return max(0, min(turn.sent, round((now_s - turn.anchor_s) * OUTPUT_RATE_HZ)))

    def _pop(self, turn: _Turn, n_samples: int) -> Pcm:
        parts: list[Pcm] = []
        turn.waiting -= n_samples
        turn.sent += n_samples
        while n_samples:
            head = turn.chunks.popleft()
            if len(head) > n_samples:
                turn.chunks.appendleft(head[n_samples:])
                head = head[:n_samples]
            parts.append(head)
            n_samples -= len(head)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _shape(self, pcm: Pcm) -> Pcm:
        if self._gain == self._gain_target:
            return pcm if self._gain == 1.0 else pcm * np.float32(self._gain)
        falling = self._gain_target < self._gain
        step = (1 - DUCKED_GAIN) / (_DUCK_SAMPLES if falling else _RISE_SAMPLES)
        ramp = self._gain + (-step if falling else step) * np.arange(1, len(pcm) + 1)
        ramp = np.maximum(ramp, self._gain_target) if falling else np.minimum(ramp, self._gain_target)
        self._gain = float(ramp[-1])
        shaped: Pcm = (pcm * ramp).astype(np.float32)
        return shaped
