"""Sound of a WebRTC call: RTP packets of the microphone to samples in place.

Synchronous; time is passed in. Knows nothing about SDP, ICE or events.
"""

from __future__ import annotations

from collections.abc import Callable

from duplex_server.media.jitter_buffer import JitterBuffer
from duplex_server.media.opus import CorruptPacket
from duplex_server.media.rtp import SEQUENCES, RtpPacket, signed32
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_codecs import Decoder
from duplex_server.types import INPUT_RATE_HZ

__all__ = ["Microphone"]

_FINEST_HZ = 48_000
"""Places are counted at this rate, of which the clocks of Opus and of G.711 are whole parts."""

MAX_CONCEALED = _FINEST_HZ * 60 // 1000
"""Longest gap that is filled with a guess, 60 ms. A longer one stays silent, as it does for listeners."""

MAX_JUMP_S = 10.0
"""A timestamp that runs further ahead of the time of arrival than this belongs to a new stream, not to a pause."""


class Microphone:
    """Turn the RTP packets of one received track into audio that knows its place in time.

    Args:
        deliver: given the audio, in order.
        make_decoder: makes a decoder for each stream that follows the one before.
        payload_type: of the codec; packets of another are silence.
        rate_hz: of what is delivered and of its positions; a client that listens to a server takes more than a model.

    Attributes:
        n_corrupt: packets that could not be decoded.
        concealed_samples: how much was guessed.
    """

    def __init__(
        self,
        deliver: Callable[[MediaAudio], None],
        make_decoder: Callable[[], Decoder],
        payload_type: int,
        rate_hz: int = INPUT_RATE_HZ,
    ) -> None:
        self._deliver = deliver
        self._make_decoder = make_decoder
        self.payload_type = payload_type
        self._rate_hz = rate_hz
        self._decoder = make_decoder()
        self._scale = _FINEST_HZ // self._decoder.clock_hz
        self._per_sample = _FINEST_HZ // rate_hz
        self.buffer = JitterBuffer(self._decoder.clock_hz)
        """Orders the packets, and counts those that are lost."""
        self._ssrc: int | None = None
        self._number = 0  # extended sequence number of the packet played last
        self._raw = 0  # its timestamp as it was sent
        self._stamp = 0  # its place, without wraps and jumps; the track's first is 0
        self._end = 0  # where its sound ended, same clock
        self._played_s = 0.0
        self.n_corrupt = 0
        self.concealed_samples = 0

    @property
    def clock_hz(self) -> int:
        """Of the RTP timestamps."""
        return self._decoder.clock_hz

    @property
    def due_s(self) -> float | None:
        """When :meth:`advance` must be called next; None while nothing is waited for."""
        return self.buffer.deadline_s

    def add(self, packet: RtpPacket, now_s: float) -> None:
        """Take in a packet as it arrives; what can be heard now is delivered before this returns."""
        released = self.buffer.add(packet, now_s)
        if released:
            self._play(released, now_s)

    def advance(self, now_s: float) -> None:
        """Deliver what has waited long enough for packets before it."""
        self._play(self.buffer.expire(now_s), now_s)

    def _play(self, released: list[tuple[int, RtpPacket]], now_s: float) -> None:
        newest = released[-1][1] if released else None
        for number, packet in released:
            assert newest is not None
            self._place(number, packet, newest, now_s)
            try:
                if packet.payload_type == self.payload_type:
                    self._fill_gap(number, packet)
                    pcm = self._decoder.decode(packet.payload)
                    self._deliver(MediaAudio(pcm, self._stamp // self._per_sample))
                    self._end = self._stamp + len(pcm) * self._per_sample
            except CorruptPacket:
                self.n_corrupt += 1
            finally:
                self._number = number

    def _place(self, number: int, packet: RtpPacket, newest: RtpPacket, now_s: float) -> None:
        """Put the packet on the track's clock: by its timestamp, or by its arrival where that makes no sense."""
        if self._ssrc is None:
            self._number = number - 1
        else:
            step = signed32(packet.timestamp - self._raw) * self._scale
            elapsed_s = now_s - self._played_s
            begins = packet.ssrc != self._ssrc or number - self._number >= SEQUENCES
            if begins or not 0 <= step <= (elapsed_s + MAX_JUMP_S) * _FINEST_HZ:
                self._number = number - 1
                before = signed32(newest.timestamp - packet.timestamp) * self._scale  # others that it waited for
                elapsed = round(elapsed_s * self._rate_hz) * self._per_sample
                self._stamp = max(self._end, self._stamp + elapsed - max(0, before))
            else:
                self._stamp += step
            if packet.ssrc != self._ssrc:
                self._decoder = self._make_decoder()
        self._ssrc, self._raw, self._played_s = packet.ssrc, packet.timestamp, now_s

    def _fill_gap(self, number: int, packet: RtpPacket) -> None:
        """Guess what lost packets held, if there are few; a gap in time without one is the sender's silence."""
        gap = self._stamp - self._end
        if number - self._number > 1 and 0 < gap <= MAX_CONCEALED and gap % (_FINEST_HZ // 400) == 0:
            pcm = self._decoder.recover(gap // self._per_sample, packet.payload)
            self.concealed_samples += len(pcm)
            self._deliver(MediaAudio(pcm, self._end // self._per_sample))
