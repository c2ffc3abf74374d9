"""The model's voice on its way to the network: speech to RTP packets in spurts, and nothing between them.

Synchronous; time is passed in. Knows nothing about encryption, sockets or what is said.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import numpy as np

from duplex_server.media.rtp import SEQUENCES, RtpPacket, write_rtp
from duplex_server.media.rtp_statistics import Transmission
from duplex_server.transports.rtc_codecs import Encoder
from duplex_server.types import OUTPUT_RATE_HZ, TICK_MS, Pcm

__all__ = ["MAX_QUEUED_PACKETS", "SILENCE_PACKETS", "SILENCE_SLACK_S", "TICK_SAMPLES", "Speaker"]

_TICK_S = TICK_MS / 1000
TICK_SAMPLES = OUTPUT_RATE_HZ * TICK_MS // 1000
"""Speech in one packet."""
_STAMPS = 1 << 32

SILENCE_PACKETS = 10
"""Silence sent after each talk spurt: 200 ms, after which a receiver's concealment has nothing left to stretch."""

SILENCE_SLACK_S = 0.04
"""How late the next tick of a spurt may be before silence is sent in its place."""

AHEAD_S = 0.03
"""How far ahead of its time a packet may leave: a tick that came early by the jitter of a timer, and half a tick."""

MAX_QUEUED_PACKETS = 50
"""Packets that may wait for their time, 1 s; more are a caller's fault, and the oldest goes."""

HISTORY_PACKETS = 50
"""Packets kept for a peer that asks for them again, 1 s: later than that nobody waits for one."""


class Speaker:
    """One stream of speech.

    Timestamps follow the clock through silence, so that the listener's buffer neither grows nor runs dry when speech
    begins again. Packets leave when they are given, or when their time comes if they are given ahead of it.

    Args:
        encoder: of the codec that was agreed.
        payload_type: of the codec.
        ssrc: the stream's name in the description.
        send: takes a packet; false if it could not be sent.
        now_s: the time.

    Attributes:
        transmission: what was sent, and how it arrived.
        n_repeated: packets sent again because the peer asked.
    """

    def __init__(
        self, encoder: Encoder, payload_type: int, ssrc: int, send: Callable[[bytes], bool], now_s: float
    ) -> None:
        self._encoder = encoder
        self._payload_type = payload_type
        self._ssrc = ssrc
        self._send = send
        self._epoch_s = now_s
        self._origin = random.randrange(_STAMPS)  # noqa: S311 - both are random to tell streams apart, not for secrecy
        self._number = random.randrange(SEQUENCES // 2)  # noqa: S311 - its first wrap early on would upset SRTP
        self._queue: deque[Pcm] = deque(maxlen=MAX_QUEUED_PACKETS)
        self._next_tick: int | None = None  # where the spurt goes on, ticks since the epoch; None between spurts
        self._first = True  # the next packet is its spurt's first
        self._free_tick = 0  # from where on nothing was sent
        self._silence_left = 0
        self._silence_from_s = 0.0
        self._history: dict[int, bytes] = {}  # bounded by HISTORY_PACKETS
        self.transmission = Transmission(ssrc, encoder.clock_hz)
        self.n_repeated = 0

    @property
    def due_s(self) -> float | None:
        """When :meth:`advance` must be called next; None while silent."""
        if self._next_tick is None:
            return None
        return self._time_of(self._next_tick) - AHEAD_S if self._queue else self._silence_from_s

    def push(self, pcm: Pcm, now_s: float) -> None:
        """Take one tick of speech: float32 ``[480]``, 24 kHz."""
        if self._next_tick is None:
            self._next_tick = max(self._free_tick, int((now_s - self._epoch_s) / _TICK_S))
            self._first = True
        if len(self._queue) == MAX_QUEUED_PACKETS:
            self._next_tick += 1
        self._queue.append(pcm)
        self._silence_left = SILENCE_PACKETS
        self._send_speech(now_s)

    def clear(self, now_s: float) -> None:
        """Drop what has not left; silence follows within a tick, unless the spurt goes on before."""
        if self._next_tick is not None and self._silence_left == SILENCE_PACKETS:
            self._queue.clear()
            self._silence_from_s = min(self._silence_from_s, now_s + _TICK_S)

    def advance(self, now_s: float) -> None:
        """Send what is due: speech, or silence in its place.

        Who comes more than a tick late was held up together with whoever speaks; silence gives way to what comes now.
        """
        self._send_speech(now_s)
        if self._next_tick is None or self._queue or now_s < self._silence_from_s:
            return
        if now_s - self._silence_from_s > _TICK_S:
            self._silence_from_s = now_s + _TICK_S
            return
        self._send_tick(np.zeros(TICK_SAMPLES, np.float32))
        self._silence_from_s += _TICK_S
        self._silence_left -= 1
        if self._silence_left <= 0:
            self._next_tick = None

    def repeat(self, sequence_number: int) -> None:
        """Send a packet again, if it was sent within the last second."""
        packet = self._history.get(sequence_number)
        if packet is not None:
            self._send(packet)
            self.n_repeated += 1

    def _send_speech(self, now_s: float) -> None:
        while self._queue and self._next_tick is not None and self._time_of(self._next_tick) - AHEAD_S <= now_s:
            self._send_tick(self._queue.popleft())
            self._silence_from_s = self._time_of(self._next_tick) + SILENCE_SLACK_S

    def _send_tick(self, pcm: Pcm) -> None:
        assert self._next_tick is not None, "a spurt is on"
        tick, self._next_tick = self._next_tick, self._next_tick + 1
        payload = self._encoder.encode(pcm)
        stamp = (self._origin + tick * self._encoder.clock_hz * TICK_MS // 1000) % _STAMPS
        packet = write_rtp(RtpPacket(self._payload_type, self._first, self._number, stamp, self._ssrc, payload))
        self._free_tick = self._next_tick
        if not self._send(packet):
            return
        self._first = False
        self._history[self._number] = packet
        if len(self._history) > HISTORY_PACKETS:
            del self._history[next(iter(self._history))]
        self._number = (self._number + 1) % SEQUENCES
        self.transmission.add(stamp, len(payload), self._time_of(tick))

    def _time_of(self, tick: int) -> float:
        return self._epoch_s + tick * _TICK_S
