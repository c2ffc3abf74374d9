from __future__ import annotations

import random

import aiortc.rtcrtpreceiver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.rtcp import ReportBlock
from duplex_server.media.rtp import SEQUENCES
from duplex_server.media.rtp_statistics import Reception, Transmission

CLOCK_HZ = 48_000
PACKET_S = 0.02
STEP = 960


def received(numbers: list[int], delays_s: list[float] | None = None) -> Reception:
    """Packets of 20 ms, each arriving when it was sent or so much later."""
    reception = Reception(7, CLOCK_HZ)
    for at, number in enumerate(numbers):
        delay_s = delays_s[at] if delays_s else 0.0
        reception.add(number % SEQUENCES, number * STEP % 2**32, 5.0 + number * PACKET_S + delay_s)
    return reception


def test_nothing_is_reported_of_a_stream_that_has_not_begun() -> None:
    assert Reception(7, CLOCK_HZ).block(1.0) == ReportBlock(7, 0, 0, 0, 0, 0, 0)


def test_losses_are_counted_since_the_beginning_and_since_the_last_report() -> None:
    reception = received([1, 2, 4, 5, 8])
    assert (reception.n_received, reception.n_lost) == (5, 3)
    block = reception.block(6.0)
    assert (block.fraction_lost, block.cumulative_lost, block.extended_highest) == (3 * 256 // 8, 3, 8)
    for number in (9, 10, 11, 13):
        reception.add(number, number * STEP, 6.0)
    block = reception.block(7.0)
    assert (block.fraction_lost, block.cumulative_lost, block.extended_highest) == (256 // 5, 4, 13)
    assert reception.block(8.0).fraction_lost == 0


def test_duplicates_make_the_loss_negative_as_the_rfc_wants() -> None:
    block = received([1, 2, 2, 2]).block(6.0)
    assert (block.fraction_lost, block.cumulative_lost) == (0, -2)


def test_the_highest_number_goes_on_over_the_wrap() -> None:
    block = received([65534, 65536, 65535, 65537]).block(6.0)
    assert (block.extended_highest, block.cumulative_lost) == (0x10001, 0)


def test_a_sender_that_begins_anew_is_believed_when_it_says_so_twice() -> None:
    reception = received([50_000, 50_001])
    reception.add(10_000, 0, 6.0)
    assert reception.n_received == 2
    reception.add(10_001, 960, 6.02)
    assert (reception.n_received, reception.n_lost) == (1, 0)
    assert reception.block(6.1).extended_highest == 10_001


def test_even_arrival_has_no_jitter_not_even_over_silence() -> None:
    assert received([1, 2, 3, 100, 101]).jitter_s == pytest.approx(0, abs=1e-4)


def test_the_jitter_of_every_other_packet_10_ms_late_is_10_ms() -> None:
    numbers = list(range(200))
    reception = received(numbers, [0.01 * (number % 2) for number in numbers])
    assert reception.jitter_s == pytest.approx(0.01, rel=0.01)
    assert reception.block(9.0).jitter == pytest.approx(480, rel=0.01)


@given(st.lists(st.integers(-50, 200), min_size=1, max_size=200), st.integers(0, 1000))
def test_aiortc_counts_the_same(jumps: list[int], seed: int) -> None:
    chance = random.Random(seed)
    ours, theirs, now_s = Reception(7, CLOCK_HZ), aiortc.rtcrtpreceiver.StreamStatistics(CLOCK_HZ), 5.0
    highest = chance.randrange(SEQUENCES)
    first = highest
    for jump in [0, *jumps]:
        number = max(first, highest + jump)  # before the first, aiortc counts no loss that the RFC would count
        highest = max(highest, number)
        now_s += chance.random() * 0.04
        ours.add(number % SEQUENCES, number * STEP % 2**32, now_s)
        packet = aiortc.rtp.RtpPacket(sequence_number=number % SEQUENCES, timestamp=number * STEP % 2**32)
        theirs.add(packet)
    assert ours.n_received == theirs.packets_received
    assert ours.n_lost == theirs.packets_lost
    block = ours.block(now_s)
    assert block.fraction_lost == theirs.fraction_lost
    assert block.extended_highest == theirs.cycles + (theirs.max_seq or 0)


def test_a_report_tells_the_same_moment_on_both_clocks() -> None:
    transmission = Transmission(9, CLOCK_HZ)
    transmission.add(2**32 - 960, 100, 10.0)
    transmission.add(0, 80, 10.02)
    report = transmission.report(10.5)
    assert (report.n_packets, report.n_payload_bytes) == (2, 180)
    assert report.ntp == int(10.5 * 2**32)
    assert report.rtp_timestamp == round(0.48 * CLOCK_HZ)


def test_the_round_trip_is_what_passed_less_what_the_peer_kept() -> None:
    here, there = Transmission(9, CLOCK_HZ), Reception(9, CLOCK_HZ)
    here.add(0, 100, 10.0)
    there.add(1, 0, 70.0)  # the peer's clock is another
    there.hear(here.report(10.5), 70.51)
    block = there.block(72.0)
    here.hear(block, 10.5 + 0.01 + 1.49 + 0.03)
    assert here.round_trip_s == pytest.approx(0.04, abs=1e-4)


@given(st.floats(1, 10**6), st.floats(0, 50), st.floats(0, 50))
def test_the_round_trip_is_found_whatever_the_clocks_say(now_s: float, there_s: float, kept_s: float) -> None:
    here, there = Transmission(9, CLOCK_HZ), Reception(9, CLOCK_HZ)
    here.add(0, 100, now_s)
    there.hear(here.report(now_s), there_s)
    here.hear(there.block(there_s + kept_s), now_s + kept_s + 0.1)
    assert here.round_trip_s == pytest.approx(0.1, abs=1e-3)


def test_a_report_of_somebody_elses_time_tells_no_round_trip() -> None:
    transmission = Transmission(9, CLOCK_HZ)
    transmission.hear(ReportBlock(9, 128, 10, 20, 96, 0, 0), 10.0)
    assert (transmission.round_trip_s, transmission.remote_loss, transmission.remote_jitter_s) == (None, 0.5, 0.002)
    for long_ago_s in (100, -100):
        transmission.hear(ReportBlock(9, 0, 10, 20, 96, 20_000 - long_ago_s << 16, 0), 20_000.0)
        assert transmission.round_trip_s is None
