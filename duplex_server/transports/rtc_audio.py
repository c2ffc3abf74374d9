"""Sound of a WebRTC call: RTP payloads of the microphone to samples in place, ticks of speech to Opus packets.

Knows nothing about SDP, ICE or events. Times are the event loop's; RTP's clock for Opus is 48 kHz (RFC 7587 §4.1).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
from aiortc import MediaStreamTrack

from duplex_server.media.opus import CorruptPacket, OpusDecoder, OpusEncoder
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.reorder import MAX_WAIT_S, Reorderer
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, TICK_MS, Pcm

__all__ = ["Microphone", "Speaker"]

RTP_RATE_HZ = 48_000
_RTP_TICK = RTP_RATE_HZ * TICK_MS // 1000

MAX_CONCEALED = RTP_RATE_HZ * 60 // 1000
"""Longest gap, in RTP clock units, that is filled with a guess. A longer one stays silent, as it does for listeners."""

MAX_JUMP_S = 10.0
"""A timestamp that runs further ahead of the time of arrival than this belongs to a new stream, not to a pause."""

SILENCE_PACKETS = 10
"""Silence sent after each talk spurt: 200 ms, after which a receiver's concealment has nothing left to stretch."""

SILENCE_SLACK_S = 0.04
"""How late the next tick of a spurt may be before silence is sent in its place."""

MAX_QUEUED_PACKETS = 50
"""Packets that wait for the sender, 1 s. It takes them at once unless the connection is gone; then the oldest goes."""


class RtpPacket(Protocol):
    """What is used of aiortc's RTP packet."""

    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes


class Microphone:
    """Turn the RTP packets of one received track into audio that knows its place in time.

    Stands where aiortc has its jitter buffer: :meth:`add` is called with every packet as it arrives and never returns
    a frame, so that aiortc decodes nothing.

    Args:
        deliver: given the audio, in order.
        rate_hz: of what is delivered and of its positions; a client that listens to a server takes more than a model.

    Attributes:
        n_lost: packets that never came or came too late.
        n_corrupt: packets that Opus could not decode.
    """

    def __init__(self, deliver: Callable[[MediaAudio], None], rate_hz: int = INPUT_RATE_HZ) -> None:
        self._deliver = deliver
        self._rate_hz = rate_hz
        self._rtp_per_sample = RTP_RATE_HZ // rate_hz
        self._reorderer: Reorderer[RtpPacket] = Reorderer()
        self._decoder = OpusDecoder(rate_hz)
        self._patience: asyncio.TimerHandle | None = None
        self._ssrc: int | None = None
        self._number = 0  # extended sequence number of the packet played last
        self._raw = 0  # its timestamp as it was sent
        self._stamp = 0  # its timestamp without wraps and jumps; the track's first is 0
        self._end = 0  # where its sound ended, same clock
        self._arrived_s = 0.0
        self.n_lost = 0
        self.n_corrupt = 0

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take in a packet as it arrives; what can be heard now is delivered before this returns.

        Returns:
            ``(False, None)``, in the words of aiortc's jitter buffer: no picture to ask for, no frame to decode.
        """
        if packet.ssrc != self._ssrc:
            self._play(self._reorderer.flush())
            self._reorderer = Reorderer()
            self._decoder = OpusDecoder(self._rate_hz)
        self._play(self._reorderer.add(packet.sequence_number, packet))
        if not self._reorderer.waiting:
            self.close()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(MAX_WAIT_S, self._give_up)
        return False, None

    def close(self) -> None:
        """Stop waiting for missing packets."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        self._play(self._reorderer.flush())

    def _play(self, packets: list[tuple[int, RtpPacket]]) -> None:
        for number, packet in packets:
            self._place(number, packet)
            try:
                self._fill_gap(number, packet)
                pcm = self._decoder.decode(packet.payload)
            except CorruptPacket:
                self.n_corrupt += 1
                continue
            finally:
                self._number = number
            self._deliver(MediaAudio(pcm, self._stamp // self._rtp_per_sample))
            self._end = self._stamp + len(pcm) * self._rtp_per_sample

    def _place(self, number: int, packet: RtpPacket) -> None:
        """Put the packet on the track's clock: by its timestamp, or by its arrival where that makes no sense."""
        now_s = asyncio.get_running_loop().time()
        if self._ssrc is None:
            self._number, self._stamp, self._end = number - 1, 0, 0
        else:
            step = _signed32(packet.timestamp - self._raw)
            elapsed_s = now_s - self._arrived_s
            if packet.ssrc != self._ssrc or not 0 <= step <= (elapsed_s + MAX_JUMP_S) * RTP_RATE_HZ:
                self._number = number - 1
                elapsed = round(elapsed_s * self._rate_hz) * self._rtp_per_sample
                self._stamp = max(self._end, self._stamp + elapsed)
            else:
                self._stamp += step
        self._ssrc, self._raw, self._arrived_s = packet.ssrc, packet.timestamp, now_s

    def _fill_gap(self, number: int, packet: RtpPacket) -> None:
        """Guess what lost packets held, if there are few; a gap in time without one is the sender's silence."""
        n_missing = number - self._number - 1
        if n_missing <= 0:
            return
        self.n_lost += n_missing
        gap = self._stamp - self._end
        if 0 < gap <= MAX_CONCEALED and gap % (RTP_RATE_HZ // 400) == 0:
            pcm = self._decoder.recover(gap // self._rtp_per_sample, packet.payload)
            self._deliver(MediaAudio(pcm, self._end // self._rtp_per_sample))


class Speaker(MediaStreamTrack):
    """The track that carries the model's voice: packets as they are made, and nothing while it is silent.

    Timestamps follow the clock through silence, so that the listener's buffer neither grows nor runs dry when speech
    begins again. Whoever calls :meth:`push` sets the pace.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._encoder = OpusEncoder()
        self._queue: deque[tuple[int, bytes]] = deque(maxlen=MAX_QUEUED_PACKETS)
        self._epoch_s = asyncio.get_running_loop().time()
        self._next_stamp: int | None = None  # where the spurt goes on; None between spurts
        self._quiet_from_s = 0.0  # when silence is due if nothing more comes
        self._silence_left = 0
        self._arrival = asyncio.Event()

    def push(self, pcm: Pcm) -> None:
        """Send one tick: float32 ``[480]``, 24 kHz."""
        if self._next_stamp is None:
            elapsed = round((asyncio.get_running_loop().time() - self._epoch_s) * RTP_RATE_HZ)
            self._next_stamp = elapsed // _RTP_TICK * _RTP_TICK
        self._append(pcm)
        self._silence_left = SILENCE_PACKETS
        self._quiet_from_s = self._epoch_s + self._next_stamp / RTP_RATE_HZ + SILENCE_SLACK_S
        self._arrival.set()

    def clear(self) -> None:
        """Drop what has not left, and end the spurt with silence now."""
        if self._next_stamp is None:
            return
        if self._queue:
            self._next_stamp = self._queue[0][0]
            self._queue.clear()
        self._quiet_from_s = asyncio.get_running_loop().time()
        self._arrival.set()

    async def recv(self) -> av.Packet[Any]:
        """Wait for the next packet; aiortc's sender calls this in a loop.

        Cancelled, it leaves what waits in the queue.
        """
        while not self._queue:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(None if self._next_stamp is None else self._quiet_from_s):
                    await self._arrival.wait()
            except TimeoutError:
                self._append_silence()
        stamp, payload = self._queue.popleft()
        packet = av.Packet(payload)
        packet.pts = stamp
        packet.time_base = Fraction(1, RTP_RATE_HZ)
        return packet

    def _append(self, pcm: Pcm) -> None:
        assert self._next_stamp is not None
        self._queue.append((self._next_stamp, self._encoder.encode(pcm)))
        self._next_stamp += _RTP_TICK

    def _append_silence(self) -> None:
        self._append(np.zeros(OUTPUT_RATE_HZ * TICK_MS // 1000, np.float32))
        self._quiet_from_s += TICK_MS / 1000
        self._silence_left -= 1
        if self._silence_left <= 0:
            self._next_stamp = None


def _signed32(difference: int) -> int:
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)
