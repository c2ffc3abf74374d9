"""What RTCP says of a stream, counted: as its receiver, and as its sender.

Knows nothing about bytes or when reports are due. Times are the caller's, of any clock that runs evenly; sequence
numbers and jitter are counted as RFC 3550 does in its appendices A.1, A.3 and A.8.
"""

from __future__ import annotations

from duplex_server.media.rtcp import ReportBlock, SenderReport, middle_of, ntp_of, seconds_of
from duplex_server.media.rtp import MAX_DROPOUT, MAX_MISORDER, SEQUENCES, signed32

__all__ = ["Reception", "Transmission"]

_JITTER_GAIN = 1 / 16
"""Source: RFC 3550 A.8."""
_LONGEST_ROUND_TRIP_S = 60.0
"""What is longer was computed from a report that is not ours."""

_ROUNDING_S = 0.001
"""Three times are rounded, so that the shortest round trips may come out negative; peers round to milliseconds."""


class Reception:
    """One stream as its receiver counts it.

    RFC 3550's probation is left out: it guards against strangers' packets, and here every packet is authenticated.

    Args:
        ssrc: of the stream.
        clock_hz: of its timestamps.
    """

    def __init__(self, ssrc: int, clock_hz: int) -> None:
        self.ssrc = ssrc
        self._clock_hz = clock_hz
        self._base = 0  # extended number of the first packet
        self._highest = -1  # extended; -1 before the first packet
        self._restart: int | None = None  # the number that would confirm that the sender began anew
        self._n_received = 0  # since the sender last began
        self._n_before = (0, 0)  # expected and received at the last report
        self._transit: int | None = None  # arrival less timestamp of the packet before, in units of the clock
        self._jitter = 0.0
        self._heard: tuple[int, float] | None = None  # middle of the last sender report's time, and its arrival

    @property
    def n_received(self) -> int:
        """Packets that came, duplicates among them, since the sender last began its numbers."""
        return self._n_received

    @property
    def n_lost(self) -> int:
        """Packets that are missing; negative when duplicates outnumber them."""
        return self._n_expected - self._n_received

    @property
    def jitter_s(self) -> float:
        """How unevenly packets arrive: the smoothed difference between two packets' times on the way."""
        return self._jitter / self._clock_hz

    def add(self, sequence_number: int, timestamp: int, now_s: float) -> None:
        """Count a packet as it arrives."""
        if self._highest < 0:
            self._begin(sequence_number)
        else:
            ahead = (sequence_number - self._highest) % SEQUENCES
            if ahead < MAX_DROPOUT:
                self._highest += ahead
            elif ahead <= SEQUENCES - MAX_MISORDER:
                if sequence_number != self._restart:
                    self._restart = (sequence_number + 1) % SEQUENCES
                    return
                self._begin(sequence_number)
        self._n_received += 1
        transit = round(now_s * self._clock_hz) - timestamp
        if self._transit is not None:
            self._jitter += (abs(signed32(transit - self._transit)) - self._jitter) * _JITTER_GAIN
        self._transit = transit

    def hear(self, report: SenderReport, now_s: float) -> None:
        """Take in the sender's own report, from which it will compute the round trip."""
        self._heard = (middle_of(report.ntp), now_s)

    def block(self, now_s: float) -> ReportBlock:
        """Return what is to be reported now; the next one's fraction counts from here."""
        expected, received = self._n_expected - self._n_before[0], self._n_received - self._n_before[1]
        self._n_before = (self._n_expected, self._n_received)
        lost = expected - received
        last, since = 0, 0
        if self._heard is not None:
            last, since = self._heard[0], round((now_s - self._heard[1]) * (1 << 16))
        return ReportBlock(
            ssrc=self.ssrc,
            fraction_lost=min(255, (lost << 8) // expected) if expected > 0 and lost > 0 else 0,
            cumulative_lost=max(-(1 << 23), min((1 << 23) - 1, self.n_lost)),
            extended_highest=max(0, self._highest) & 0xFFFF_FFFF,
            jitter=min(0xFFFF_FFFF, int(self._jitter)),
            last_sender_report=last,
            since_sender_report=max(0, min(0xFFFF_FFFF, since)),
        )

    @property
    def _n_expected(self) -> int:
        return self._highest - self._base + 1 if self._highest >= 0 else 0

    def _begin(self, sequence_number: int) -> None:
        self._base = self._highest = sequence_number
        self._restart = None
        self._n_received = 0
        self._n_before = (0, 0)
        self._transit = None


class Transmission:
    """One stream as its sender counts it, and what its receiver reports of it.

    Args:
        ssrc: of the stream.
        clock_hz: of its timestamps.

    Attributes:
        n_packets: sent so far.
        n_payload_bytes: sent so far, without headers.
        round_trip_s: as of the receiver's last report; None before the first that tells.
        remote_loss: share of packets that the receiver missed of late, 0..1.
        remote_jitter_s: how unevenly they arrive there.
    """

    def __init__(self, ssrc: int, clock_hz: int) -> None:
        self.ssrc = ssrc
        self._clock_hz = clock_hz
        self._last = (0, 0.0)  # timestamp of the newest packet, and when it was sent
        self.n_packets = 0
        self.n_payload_bytes = 0
        self.round_trip_s: float | None = None
        self.remote_loss = 0.0
        self.remote_jitter_s = 0.0

    def add(self, timestamp: int, n_payload_bytes: int, now_s: float) -> None:
        """Count a packet as it is sent."""
        self.n_packets += 1
        self.n_payload_bytes += n_payload_bytes
        self._last = (timestamp, now_s)

    def report(self, now_s: float, blocks: tuple[ReportBlock, ...] = ()) -> SenderReport:
        """Return the report that is due now.

        Args:
            now_s: the time.
            blocks: what is said of the peer's streams.
        """
        assert self.n_packets, "who has sent nothing makes a receiver report"
        timestamp, sent_s = self._last
        return SenderReport(
            ssrc=self.ssrc,
            ntp=ntp_of(now_s),
            rtp_timestamp=(timestamp + round((now_s - sent_s) * self._clock_hz)) & 0xFFFF_FFFF,
            n_packets=self.n_packets & 0xFFFF_FFFF,
            n_payload_bytes=self.n_payload_bytes & 0xFFFF_FFFF,
            blocks=blocks,
        )

    def hear(self, block: ReportBlock, now_s: float) -> None:
        """Take in what the receiver says of this stream."""
        self.remote_loss = block.fraction_lost / 256
        self.remote_jitter_s = block.jitter / self._clock_hz
        if not block.last_sender_report:
            return
        took = signed32(middle_of(ntp_of(now_s)) - block.last_sender_report - block.since_sender_report)
        if -_ROUNDING_S <= seconds_of(took) <= _LONGEST_ROUND_TRIP_S:
            self.round_trip_s = max(0.0, seconds_of(took))
