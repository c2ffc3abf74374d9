from __future__ import annotations

import itertools

import numpy as np
import pytest

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.media.rtp import RtpPacket, parse_rtp, signed32
from duplex_server.transports.rtc_speaker import HISTORY_PACKETS, MAX_QUEUED_PACKETS, SILENCE_PACKETS, Speaker
from duplex_server.types import Pcm

TICK_S = 0.02
BEGAN_S = 50.0


def tone(n_ticks: int) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(n_ticks * 480) / 24_000)).astype(np.float32)


class Line:
    """A speaker, the time, and what has left when."""

    def __init__(self) -> None:
        self.now_s = BEGAN_S
        self.sent: list[tuple[float, RtpPacket]] = []
        self.is_cut = False
        self.speaker = Speaker(OpusEncoder(), 111, 77, self._send, BEGAN_S)

    def _send(self, packet: bytes) -> bool:
        if not self.is_cut:
            self.sent.append((self.now_s - BEGAN_S, parse_rtp(packet)))
        return not self.is_cut

    def wait(self, seconds: float) -> None:
        """Let time pass, as a pacer does: to each deadline, exactly."""
        until_s = self.now_s + seconds
        while (due_s := self.speaker.due_s) is not None and due_s <= until_s:
            self.now_s = max(self.now_s, due_s)
            self.speaker.advance(self.now_s)
        self.now_s = until_s

    def speak(self, n_ticks: int) -> None:
        for tick in tone(n_ticks).reshape(n_ticks, 480):
            self.speaker.push(tick, self.now_s)
            self.wait(TICK_S)

    @property
    def stamps(self) -> list[int]:
        return [signed32(packet.timestamp - self.sent[0][1].timestamp) for _, packet in self.sent]

    @property
    def payloads(self) -> list[bytes]:
        return [packet.payload for _, packet in self.sent]


def test_speech_leaves_at_once_and_is_followed_by_200_ms_of_silence_and_then_by_nothing() -> None:
    line = Line()
    line.speak(25)
    assert [at_s for at_s, _ in line.sent] == [pytest.approx(TICK_S * n) for n in range(25)]
    line.wait(60)
    assert line.speaker.due_s is None
    assert len(line.sent) == 25 + SILENCE_PACKETS
    assert line.stamps == [960 * k for k in range(35)]
    decoder = OpusDecoder()
    levels = [float(np.sqrt(np.mean(decoder.decode(payload) ** 2))) for payload in line.payloads]
    assert min(levels[2:25]) > 0.15
    assert max(levels[27:]) < 0.001


def test_only_the_first_packet_of_a_spurt_is_marked_and_numbers_run_on() -> None:
    line = Line()
    for _ in range(3):
        line.speak(5)
        line.wait(3)
    marked = [n for n, (_, packet) in enumerate(line.sent) if packet.marker]
    assert marked == [0, 5 + SILENCE_PACKETS, 2 * (5 + SILENCE_PACKETS)]
    for (_, one), (_, two) in itertools.pairwise(line.sent):
        assert two.sequence_number == (one.sequence_number + 1) % 65536
    assert {(packet.ssrc, packet.payload_type) for _, packet in line.sent} == {(77, 111)}


def test_timestamps_follow_the_clock_through_silence() -> None:
    line = Line()
    for _ in range(3):
        line.speak(5)
        line.wait(7.3)
    for (at_s, _), stamp in zip(line.sent, line.stamps, strict=True):
        assert abs(at_s - stamp / 48_000) <= 0.06


def test_an_underrun_within_a_turn_is_silence_and_speech_goes_on_in_its_place() -> None:
    line = Line()
    line.speak(5)
    line.wait(0.1)
    line.speak(5)
    line.wait(3)
    assert line.stamps == [960 * k for k in range(len(line.sent))]
    assert sum(packet.marker for _, packet in line.sent) == 1
    for at_s, stamp in zip([at_s for at_s, _ in line.sent], line.stamps, strict=True):
        assert abs(at_s - stamp / 48_000) <= 0.06


def test_ticks_that_come_in_a_burst_after_a_stall_are_sent_at_once() -> None:
    line = Line()
    line.speak(5)
    line.now_s += 0.1
    for tick in tone(5).reshape(5, 480):
        line.speaker.push(tick, line.now_s)
    assert [at_s for at_s, _ in line.sent[5:]] == [pytest.approx(0.2)] * 5


def test_ticks_that_come_ahead_of_time_leave_when_it_is_time() -> None:
    line = Line()
    for tick in tone(20).reshape(20, 480):
        line.speaker.push(tick, line.now_s)
    line.wait(3)
    assert len(line.sent) == 20 + SILENCE_PACKETS
    for n, (at_s, _) in enumerate(line.sent[:20]):
        assert n * TICK_S - 0.0301 <= at_s <= n * TICK_S


def test_a_cut_drops_what_has_not_left_and_silence_follows_within_a_packet() -> None:
    line = Line()
    for tick in tone(20).reshape(20, 480):
        line.speaker.push(tick, line.now_s)
    line.wait(0.1)
    n_before = len(line.sent)
    line.speaker.clear(line.now_s)
    line.wait(3)
    assert len(line.sent) == n_before + SILENCE_PACKETS
    assert line.sent[n_before][0] == pytest.approx(0.1 + TICK_S)
    assert line.stamps == [960 * k for k in range(len(line.sent))]


def test_the_fade_of_a_cut_comes_before_the_silence() -> None:
    line = Line()
    line.speak(5)
    line.speaker.clear(line.now_s)
    line.speak(1)
    line.wait(3)
    assert len(line.sent) == 6 + SILENCE_PACKETS
    assert line.sent[5][0] == pytest.approx(5 * TICK_S)


def test_more_than_a_second_ahead_of_time_the_oldest_goes() -> None:
    line = Line()
    for tick in tone(200).reshape(200, 480):
        line.speaker.push(tick, line.now_s)
    line.wait(60)
    assert len(line.sent) <= MAX_QUEUED_PACKETS + 3 + SILENCE_PACKETS
    assert max(at_s for at_s, _ in line.sent) > 3.5, "what is heard is heard in its place"


def test_a_packet_can_be_had_again_for_a_second() -> None:
    line = Line()
    line.speak(60)
    first, last = line.sent[0][1], line.sent[-1][1]
    line.speaker.repeat(last.sequence_number)
    assert line.sent[-1][1] == last
    n_sent = len(line.sent)
    line.speaker.repeat(first.sequence_number)
    line.speaker.repeat((last.sequence_number + 1) % 65536)
    assert len(line.sent) == n_sent
    assert line.speaker.n_repeated == 1
    assert len(line.speaker._history) == HISTORY_PACKETS


def test_what_could_not_be_sent_is_not_counted_and_leaves_no_gap_in_the_numbers() -> None:
    line = Line()
    line.is_cut = True
    line.speak(5)
    line.is_cut = False
    line.speak(5)
    assert line.speaker.transmission.n_packets == 5
    assert line.sent[0][1].marker, "the first that is heard"
    numbers = [packet.sequence_number for _, packet in line.sent]
    assert numbers == [(numbers[0] + n) % 65536 for n in range(5)]


def test_the_report_shows_the_time_that_the_timestamps_show() -> None:
    line = Line()
    line.speak(10)
    line.wait(1.0)
    report = line.speaker.transmission.report(line.now_s)
    assert report.n_packets == 10 + SILENCE_PACKETS
    assert signed32(report.rtp_timestamp - line.sent[0][1].timestamp) / 48_000 == pytest.approx(1.2, abs=0.03)
