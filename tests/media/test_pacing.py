from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.pacing import (
    GRID_S,
    MAX_CATCH_UP,
    MAX_QUEUED,
    PACKET_S,
    SILENCE_PACKETS,
    SILENCE_SLACK_S,
    PacedStream,
    Pacer,
)
from duplex_server.media.rtp import SEQUENCES, RtpPacket

STEP = 960


def open_stream(pacer: Pacer, ssrc: int = 1, now_s: float = 0.0) -> PacedStream:
    return pacer.open(
        ssrc=ssrc,
        payload_type=111,
        clock_hz=48_000,
        first_sequence_number=65530,
        first_timestamp=2**32 - STEP,
        now_s=now_s,
        make_silence=lambda: b"silence",
    )


def speech(n_packets: int) -> list[bytes]:
    return [b"%d" % number for number in range(n_packets)]


def run(pacer: Pacer, until_s: float) -> list[tuple[float, RtpPacket]]:
    """What leaves when somebody keeps every deadline."""
    sent: list[tuple[float, RtpPacket]] = []
    while pacer.next_deadline_s is not None and pacer.next_deadline_s <= until_s:
        now_s = pacer.next_deadline_s
        sent += [(now_s, packet) for _, packet in pacer.due(now_s)]
    return sent


def test_nothing_leaves_and_nothing_is_due_while_nothing_is_said() -> None:
    pacer = Pacer()
    open_stream(pacer)
    assert pacer.next_deadline_s is None
    assert pacer.due(100.0) == []


def test_the_first_packet_of_a_spurt_leaves_at_once_and_is_marked_and_the_others_follow_at_even_pace() -> None:
    pacer = Pacer()
    open_stream(pacer).put(speech(4), 1.0)
    sent = run(pacer, 1.07)
    assert [moment for moment, _ in sent] == pytest.approx([1.0, 1.02, 1.04, 1.06])
    assert [packet.payload for _, packet in sent] == speech(4)
    assert [packet.marker for _, packet in sent] == [True, False, False, False]
    assert [packet.sequence_number for _, packet in sent] == [65530, 65531, 65532, 65533]


def test_timestamps_count_samples_within_a_spurt_and_the_time_between_spurts() -> None:
    pacer = Pacer()
    stream = open_stream(pacer)
    stream.put(speech(2), 0.0)
    first = run(pacer, 5.0)
    stream.put(speech(2), 10.0)
    second = run(pacer, 10.03)
    stamps = [packet.timestamp for _, packet in first + second]
    assert stamps[:3] == [2**32 - STEP, 0, STEP]
    assert stamps[-2] == 10 * 48_000 - STEP
    assert [packet.marker for _, packet in second] == [True, False]


def test_a_spurt_ends_with_silence_and_then_nothing() -> None:
    pacer = Pacer()
    open_stream(pacer).put(speech(1), 0.0)
    sent = run(pacer, 100.0)
    assert [packet.payload for _, packet in sent] == [b"0"] + [b"silence"] * SILENCE_PACKETS
    assert sent[1][0] == pytest.approx(PACKET_S + SILENCE_SLACK_S)
    assert [packet.timestamp for _, packet in sent[1:]] == [number * STEP for number in range(SILENCE_PACKETS)]
    assert pacer.next_deadline_s is None


def test_speech_that_is_a_little_late_takes_its_own_place() -> None:
    pacer = Pacer()
    stream = open_stream(pacer)
    stream.put(speech(1), 0.0)
    run(pacer, 0.05)
    stream.put([b"a", b"b"], 0.055)
    sent = run(pacer, 0.07)
    assert [(packet.payload, packet.timestamp) for _, packet in sent] == [(b"a", 0), (b"b", STEP)]
    assert [moment for moment, _ in sent] == pytest.approx([0.02, 0.04]), "both are overdue"


def test_speech_during_the_silence_goes_on_without_a_mark() -> None:
    pacer = Pacer()
    stream = open_stream(pacer)
    stream.put(speech(1), 0.0)
    sent = run(pacer, 0.1)
    stream.put(speech(1), 0.105)
    sent += run(pacer, 0.12)
    assert [packet.payload for _, packet in sent] == [b"0", b"silence", b"silence", b"silence", b"0"]
    assert [packet.marker for _, packet in sent] == [True, False, False, False, False]
    assert [packet.timestamp for _, packet in sent] == [2**32 - STEP, 0, STEP, 2 * STEP, 3 * STEP]


def test_flush_drops_what_waits_and_the_listener_hears_silence_within_one_packet() -> None:
    pacer = Pacer()
    stream = open_stream(pacer)
    stream.put(speech(20), 0.0)
    run(pacer, 0.05)
    assert stream.flush() == 17
    sent = run(pacer, 100.0)
    assert sent[0][0] == pytest.approx(0.06)
    assert [packet.payload for _, packet in sent] == [b"silence"] * SILENCE_PACKETS


def test_flush_between_spurts_is_nothing() -> None:
    pacer = Pacer()
    assert open_stream(pacer).flush() == 0
    assert pacer.next_deadline_s is None


def test_after_a_stall_only_so_much_is_caught_up_at_once_and_the_rest_keeps_the_pace() -> None:
    pacer = Pacer()
    open_stream(pacer).put(speech(20), 0.0)
    run(pacer, 0.001)
    assert len(pacer.due(0.3)) == MAX_CATCH_UP
    assert pacer.due(0.301) == []
    sent = run(pacer, 0.45)
    assert [later - earlier for (earlier, _), (later, _) in itertools.pairwise(sent)] == pytest.approx(
        [PACKET_S] * (len(sent) - 1)
    )
    assert sent[0][0] == pytest.approx(0.32)


def test_too_much_speech_loses_the_oldest() -> None:
    pacer = Pacer()
    stream = open_stream(pacer)
    stream.put(speech(MAX_QUEUED + 5), 0.0)
    assert (stream.n_dropped, stream.n_queued) == (5, MAX_QUEUED)
    assert run(pacer, 0.0)[0][1].payload == b"5"


def test_streams_that_began_at_odd_moments_are_served_together() -> None:
    pacer = Pacer()
    for number in range(40):
        open_stream(pacer, ssrc=number).put(speech(20), number * 0.0007)
        pacer.due(number * 0.0007)
    moments = {round(moment, 6) for moment, _ in run(pacer, 0.4) if moment > 0.05}
    assert len(moments) <= (0.4 - 0.05) / GRID_S + 1


def test_a_closed_stream_sends_nothing_more_and_the_others_go_on() -> None:
    pacer = Pacer()
    one, other = open_stream(pacer, 1), open_stream(pacer, 2)
    one.put(speech(3), 0.0)
    other.put(speech(3), 0.0)
    one.close()
    assert {packet.ssrc for _, packet in run(pacer, 1.0)} == {2}
    other.close()
    assert pacer.next_deadline_s is None


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["put", "flush", "wait", "stall"]), st.integers(0, 12), st.integers(0, 2)), max_size=60
)


@given(ACTIONS, st.floats(0, 1e6))
def test_whatever_is_done_packets_leave_in_order_in_time_and_in_small_bursts(
    actions: list[tuple[str, int, int]], start_s: float
) -> None:
    pacer, now_s = Pacer(), start_s
    streams = [open_stream(pacer, ssrc, start_s) for ssrc in range(3)]
    sent: list[list[tuple[float, RtpPacket]]] = [[], [], []]

    def send() -> None:
        burst = [0, 0, 0]
        for _, packet in pacer.due(now_s):
            sent[packet.ssrc].append((now_s, packet))
            burst[packet.ssrc] += 1
        assert max(burst) <= MAX_CATCH_UP
        assert pacer.next_deadline_s is None or pacer.next_deadline_s > now_s

    for action, amount, which in actions:
        if action == "put":
            streams[which].put(speech(amount), now_s)
        elif action == "flush":
            streams[which].flush()
        elif action == "stall":
            now_s += amount * 0.05
        else:
            end_s = now_s + amount * 0.05
            while pacer.next_deadline_s is not None and pacer.next_deadline_s <= end_s:
                now_s = max(now_s, pacer.next_deadline_s)
                send()
            now_s = end_s
        send()
    for stream, packets in zip(streams, sent, strict=True):
        assert stream.n_queued <= MAX_QUEUED
        numbers = [packet.sequence_number for _, packet in packets]
        assert numbers == [(65530 + count) % SEQUENCES for count in range(len(numbers))]
        steps = [(packet.timestamp + STEP) % 2**32 // STEP for _, packet in packets]
        assert all(earlier < later for earlier, later in itertools.pairwise(steps))
        for (_, earlier), (_, later) in itertools.pairwise(packets):
            assert later.marker or (later.timestamp - earlier.timestamp) % 2**32 == STEP
        # Never ahead of the clock by more than a packet and the grid.
        assert all(
            step * PACKET_S <= moment - start_s + PACKET_S + 1e-6
            for (moment, _), step in zip(packets, steps, strict=True)
        )
