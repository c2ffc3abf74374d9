"""The peer's streams: which packet goes to whom, what is counted of each, and what is asked for again.

Synchronous; time is passed in. Knows nothing about what packets hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from duplex_server.media.rtcp import ReportBlock, SenderReport
from duplex_server.media.rtp import RtpPacket
from duplex_server.media.rtp_statistics import Reception
from duplex_server.transports.rtc_audio import Microphone
from duplex_server.transports.rtc_pacer import Alarm, Pacer

__all__ = ["Ear", "Receiving", "Sink"]

MAX_STREAMS = 16
"""Streams of one peer that are told apart: a microphone, a camera, and what each was replaced by. The oldest goes."""


class Sink(Protocol):
    """Takes the packets of one track."""

    def add(self, packet: RtpPacket, now_s: float) -> None:
        """Take a packet as it arrives, loop time."""
        ...


class Ear:
    """A microphone that is woken when its patience ends, and asks for what is missing.

    Args:
        microphone: what is heard.
        pacer: of this event loop.
        ask: asks the stream with this SSRC for these sequence numbers; None if the peer would not answer.
        round_trip_s: says how long an answer takes, if that is known.
    """

    def __init__(
        self,
        microphone: Microphone,
        pacer: Pacer,
        ask: Callable[[int, Sequence[int]], None] | None,
        round_trip_s: Callable[[], float | None],
    ) -> None:
        self.microphone = microphone
        self._patience = Alarm(pacer, lambda: microphone.due_s, microphone.advance)
        self._ask = ask
        self._round_trip_s = round_trip_s

    def add(self, packet: RtpPacket, now_s: float) -> None:
        """See :class:`Sink`."""
        buffer = self.microphone.buffer
        self.microphone.add(packet, now_s)
        if not buffer.n_held:
            return
        if self._ask is not None and (numbers := buffer.ask_again(now_s, self._round_trip_s())):
            self._ask(packet.ssrc, numbers)
        self._patience.set()

    def close(self) -> None:
        """Wake no more."""
        self._patience.silence()


@dataclass(slots=True)
class _Stream:
    reception: Reception
    sink: Sink


class Receiving:
    """All streams of one peer."""

    def __init__(self) -> None:
        self._by_ssrc: dict[int, tuple[Sink, int]] = {}  # those that the peer describes, with their clocks
        self._by_type: dict[int, tuple[Sink, int]] = {}  # by payload type, for those that it does not
        self._streams: dict[int, _Stream] = {}  # by SSRC; at most MAX_STREAMS

    def expect(self, sink: Sink, clock_hz: int, payload_types: Iterable[int], ssrcs: Iterable[int]) -> None:
        """Give a track's packets to ``sink``.

        Args:
            sink: takes them.
            clock_hz: of its timestamps.
            payload_types: that the track was agreed to have; of two tracks with the same, the first has it.
            ssrcs: that the peer says the track has, as far as it does.
        """
        for payload_type in payload_types:
            self._by_type.setdefault(payload_type, (sink, clock_hz))
        for ssrc in ssrcs:
            self._by_ssrc[ssrc] = sink, clock_hz

    def forget(self) -> None:
        """Expect nothing any more, as before a new description; what is counted of known streams stays."""
        self._by_ssrc.clear()
        self._by_type.clear()

    def take(self, packet: RtpPacket, now_s: float) -> None:
        """Pass a packet on to whom it is meant for; nobody's ends here."""
        stream = self._streams.get(packet.ssrc)
        if stream is None:
            found = self._by_ssrc.get(packet.ssrc) or self._by_type.get(packet.payload_type)
            if found is None:
                return
            if len(self._streams) == MAX_STREAMS:
                del self._streams[next(iter(self._streams))]
            sink, clock_hz = found
            stream = self._streams[packet.ssrc] = _Stream(Reception(packet.ssrc, clock_hz), sink)
        stream.reception.add(packet.sequence_number, packet.timestamp, now_s)
        stream.sink.add(packet, now_s)

    def hear(self, report: SenderReport, now_s: float) -> None:
        """Take in what the peer says of a stream of its own."""
        stream = self._streams.get(report.ssrc)
        if stream is not None:
            stream.reception.hear(report, now_s)

    def blocks(self, now_s: float) -> tuple[ReportBlock, ...]:
        """Return what is to be reported of each stream now."""
        return tuple(stream.reception.block(now_s) for stream in self._streams.values())

    def of(self, sink: Sink) -> list[Reception]:
        """Return what was counted of a track's streams, oldest first."""
        return [stream.reception for stream in self._streams.values() if stream.sink is sink]
