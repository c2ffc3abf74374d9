"""When packets of many outgoing streams leave: by absolute deadlines, and none while there is nothing to say.

A plain machine for all streams of a process; its owner sleeps until :attr:`Pacer.next_deadline_s` and sends what
:meth:`Pacer.due` returns. Knows nothing about encoders, encryption or sockets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from duplex_server.media.rtp import SEQUENCES, RtpPacket
from duplex_server.types import TICK_MS

__all__ = ["PACKET_S", "SILENCE_PACKETS", "PacedStream", "Pacer"]

PACKET_S = TICK_MS / 1000
"""Sound in each packet, and so the pace."""

GRID_S = 0.005
"""Streams' deadlines lie on multiples of this, so that one wake-up serves many and there are 200 a second at most.
Only the first packet of a spurt leaves off the grid: at once."""

MAX_CATCH_UP = 3
"""Packets that a stream may send at one moment when its deadlines have passed, 60 ms. What is later than that stays
late: a larger burst would be dropped by a listener's buffer, or by a router's queue."""

MAX_QUEUED = 50
"""Packets that wait in one stream, 1 s; when more are put in the oldest go."""

SILENCE_PACKETS = 10
"""Silence sent after each spurt: 200 ms, after which a receiver's concealment has nothing left to stretch."""

SILENCE_SLACK_S = 0.04
"""How late the next packet of a spurt may be before silence is sent in its place."""


class PacedStream:
    """One outgoing stream. Made by :meth:`Pacer.open`.

    Timestamps follow the clock through silence, so that the listener's buffer neither grows nor runs dry when speech
    begins again.

    Attributes:
        n_dropped: packets that never left because too many waited.
    """

    def __init__(
        self,
        pacer: Pacer,
        *,
        ssrc: int,
        payload_type: int,
        clock_hz: int,
        first_sequence_number: int,
        first_timestamp: int,
        now_s: float,
        make_silence: Callable[[], bytes],
    ) -> None:
        self._pacer = pacer
        self._ssrc = ssrc
        self._payload_type = payload_type
        self._step = round(clock_hz * PACKET_S)
        self._sequence_number = first_sequence_number
        self._first_timestamp = first_timestamp
        self._epoch_s = now_s
        self._make_silence = make_silence
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUED)
        self._n_steps = 0  # from the epoch to the next packet's timestamp
        self._next_s: float | None = None  # when the next packet is to leave; None between spurts
        self._silence_s = 0.0  # when silence takes its place if the queue is empty
        self._silence_left = 0
        self._begins = False  # the next packet is the first of a spurt
        self.n_dropped = 0

    @property
    def n_queued(self) -> int:
        """Packets that wait."""
        return len(self._queue)

    def put(self, payloads: Iterable[bytes], now_s: float) -> None:
        """Append speech, :data:`PACKET_S` in each payload. Between spurts the first of them is due now."""
        n_before = len(self._queue)
        n_put = 0
        for payload in payloads:
            self._queue.append(payload)
            n_put += 1
        if not n_put:
            return
        self.n_dropped += n_before + n_put - len(self._queue)
        if self._next_s is None:
            self._next_s = now_s
            self._begins = True
            self._n_steps = max(self._n_steps, int((now_s - self._epoch_s) / PACKET_S))
        self._pacer._expect(self)

    def flush(self) -> int:
        """Drop what waits, and end the spurt with silence in its place.

        Returns:
            How many packets were dropped; the listener hears one more at most, the one that has just left.
        """
        n_flushed = len(self._queue)
        self._queue.clear()
        if self._next_s is not None:
            self._silence_s = self._next_s
            self._pacer._expect(self)
        return n_flushed

    def close(self) -> None:
        """Send nothing more."""
        self._queue.clear()
        self._next_s = None
        self._pacer._forget(self)

    @property
    def _wake_s(self) -> float:
        assert self._next_s is not None, "between spurts nothing is due"
        return self._next_s if self._queue else self._silence_s

    def _due(self, now_s: float) -> list[RtpPacket]:
        """Return what is to leave now."""
        packets: list[RtpPacket] = []
        while self._next_s is not None and self._wake_s <= now_s and len(packets) < MAX_CATCH_UP:
            packets.append(self._take(self._next_s))
        if self._next_s is not None and self._wake_s <= now_s:
            delay_s = _on_grid(now_s + PACKET_S) - self._next_s
            self._next_s += delay_s
            self._silence_s += delay_s
        return packets

    def _take(self, due_s: float) -> RtpPacket:
        # The spurt's first packet leaves at once; the others keep to the grid from there.
        next_s = (_on_grid(due_s) if self._begins else due_s) + PACKET_S
        if self._queue:
            payload = self._queue.popleft()
            self._silence_left = SILENCE_PACKETS
            self._silence_s = next_s + SILENCE_SLACK_S
        else:
            payload = self._make_silence()
            self._silence_left -= 1
            self._silence_s += PACKET_S
        packet = RtpPacket(
            self._payload_type,
            self._begins,
            self._sequence_number,
            (self._first_timestamp + self._n_steps * self._step) & 0xFFFF_FFFF,
            self._ssrc,
            payload,
        )
        self._begins = False
        self._sequence_number = (self._sequence_number + 1) % SEQUENCES
        self._n_steps += 1
        self._next_s = next_s if self._queue or self._silence_left > 0 else None
        return packet


class Pacer:
    """All outgoing streams of a process.

    Attributes:
        next_deadline_s: when :meth:`due` must be called next, sooner if something is put into a stream; None while
            nothing is to be sent.
    """

    def __init__(self) -> None:
        self._speaking: dict[PacedStream, None] = {}  # in the order in which they began
        self.next_deadline_s: float | None = None

    def open(
        self,
        *,
        ssrc: int,
        payload_type: int,
        clock_hz: int,
        first_sequence_number: int,
        first_timestamp: int,
        now_s: float,
        make_silence: Callable[[], bytes],
    ) -> PacedStream:
        """Return a new stream, which is silent until something is put into it.

        Args:
            ssrc: of its packets.
            payload_type: of its packets.
            clock_hz: of their timestamps: 48 000 for Opus (RFC 7587 §4.1), 8000 for G.711.
            first_sequence_number: random, and below 32 768, so that SRTP's receivers cannot mistake an early loss for
                a wrap (RFC 3711 §3.3.1).
            first_timestamp: random (RFC 3550 §5.1).
            now_s: the moment that it stands for.
            make_silence: returns the next packet of silence; called for the end of each spurt.
        """
        return PacedStream(
            self,
            ssrc=ssrc,
            payload_type=payload_type,
            clock_hz=clock_hz,
            first_sequence_number=first_sequence_number,
            first_timestamp=first_timestamp,
            now_s=now_s,
            make_silence=make_silence,
        )

    def due(self, now_s: float) -> list[tuple[PacedStream, RtpPacket]]:
        """Return what must leave now, in order within each stream; the owner sends it at once."""
        if self.next_deadline_s is None or self.next_deadline_s > now_s:
            return []
        leaving: list[tuple[PacedStream, RtpPacket]] = []
        next_s = math.inf
        for stream in list(self._speaking):
            leaving += [(stream, packet) for packet in stream._due(now_s)]
            if stream._next_s is None:
                del self._speaking[stream]
            else:
                next_s = min(next_s, stream._wake_s)
        self.next_deadline_s = None if next_s == math.inf else next_s
        return leaving

    def _expect(self, stream: PacedStream) -> None:
        self._speaking[stream] = None
        earlier = math.inf if self.next_deadline_s is None else self.next_deadline_s
        self.next_deadline_s = min(earlier, stream._wake_s)

    def _forget(self, stream: PacedStream) -> None:
        self._speaking.pop(stream, None)
        if not self._speaking:
            self.next_deadline_s = None


def _on_grid(time_s: float) -> float:
    """Return the next moment on the grid; a moment that is on it but for rounding is its own."""
    return math.ceil(time_s / GRID_S - 1e-3) * GRID_S
