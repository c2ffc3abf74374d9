from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.jitter_buffer import MAX_PATIENCE_S, MIN_PATIENCE_S, SPAN, JitterBuffer
from duplex_server.media.rtp import MAX_MISORDER, SEQUENCES, RtpPacket

CLOCK_HZ = 48_000
PACKET_S = 0.02


def packet(number: int, ssrc: int = 1) -> RtpPacket:
    return RtpPacket(111, False, number % SEQUENCES, number * 960 % 2**32, ssrc, b"")


def buffer_after(*numbers: int, now_s: float = 0.0) -> JitterBuffer:
    machine = JitterBuffer(CLOCK_HZ)
    for number in numbers:
        machine.add(packet(number), now_s)
    return machine


def released(numbers: list[int]) -> list[int]:
    """Sequence numbers in the order they come out, if all arrive at one moment."""
    machine = JitterBuffer(CLOCK_HZ)
    return [one.sequence_number for number in numbers for _, one in machine.add(packet(number), 0.0)]


def test_packets_in_order_are_released_at_once() -> None:
    machine = JitterBuffer(CLOCK_HZ)
    assert machine.add(packet(7), 0.0) == [(7, packet(7))]
    assert machine.add(packet(8), 0.5) == [(8, packet(8))]
    assert machine.deadline_s is None


def test_order_survives_the_wrap_of_the_sequence_number() -> None:
    assert released([65534, 65535, 0, 2, 1, 3]) == [65534, 65535, 0, 1, 2, 3]


def test_extended_numbers_go_on_over_the_wrap() -> None:
    machine = JitterBuffer(CLOCK_HZ)
    numbers = [number for sequence in (65535, 0, 1) for number, _ in machine.add(packet(sequence), 0.0)]
    assert numbers == [65535, 65536, 65537]


def test_packets_that_were_overtaken_are_put_back_in_their_places() -> None:
    assert released([1, 3, 4, 2, 5, 9, 7, 8, 6]) == list(range(1, 10))


def test_a_lost_packet_is_given_up_when_patience_ends() -> None:
    machine = buffer_after(1, 3, 4)
    assert (machine.missing, machine.n_held) == ([2], 2)
    assert machine.deadline_s == machine.patience_s == pytest.approx(0.06)
    assert machine.expire(0.059) == []
    assert machine.expire(0.0601) == [(3, packet(3)), (4, packet(4))]
    assert (machine.missing, machine.n_lost) == ([], 1)


def test_patience_ends_with_a_packet_too_if_nobody_keeps_the_time() -> None:
    assert [number for number, _ in buffer_after(1, 3).add(packet(4), 0.07)] == [3, 4]


def test_a_packet_that_comes_when_its_time_is_over_but_before_it_was_given_up_is_used() -> None:
    assert [number for number, _ in buffer_after(1, 3).add(packet(2), 0.07)] == [2, 3]


def test_each_gap_is_waited_for_on_its_own() -> None:
    machine = buffer_after(1, 3)
    machine.add(packet(5), 0.04)
    assert [number for number, _ in machine.expire(0.061)] == [3]
    assert machine.deadline_s == pytest.approx(0.1)
    assert [number for number, _ in machine.expire(0.11)] == [5]


def test_a_packet_that_comes_after_it_was_given_up_is_dropped_and_counted() -> None:
    machine = buffer_after(1, 3)
    machine.expire(0.1)
    assert machine.add(packet(2), 0.2) == []
    assert (machine.n_lost, machine.n_late, machine.n_duplicate) == (1, 1, 0)
    assert machine.add(packet(2), 0.2) == []
    assert (machine.n_late, machine.n_duplicate) == (1, 1)


def test_duplicates_are_dropped_and_counted_whether_held_or_gone() -> None:
    machine = buffer_after(1, 3, 3, 1)
    assert machine.n_duplicate == 2


def test_flush_releases_what_was_held_back() -> None:
    machine = buffer_after(1, 4, 3)
    assert machine.flush() == [(3, packet(3)), (4, packet(4))]
    assert machine.add(packet(5), 0.0) == [(5, packet(5))]
    assert machine.n_lost == 1


def test_patience_grows_to_what_late_packets_need_and_shrinks_within_two_seconds() -> None:
    machine = buffer_after(1, now_s=10.0)
    machine.add(packet(3), 10.5)
    machine.add(packet(2), 10.5 + 0.055)
    assert machine.patience_s == pytest.approx(0.055 * 1.25)
    machine.add(packet(4), 11.4)
    assert machine.patience_s == pytest.approx(0.055 * 1.25)
    machine.add(packet(5), 12.5)
    assert machine.patience_s == MIN_PATIENCE_S


def test_a_packet_that_was_given_up_too_early_teaches_patience() -> None:
    machine = buffer_after(1, 3, now_s=10.0)
    machine.expire(10.06)
    machine.add(packet(2), 10.09)
    assert machine.patience_s == pytest.approx(0.09 * 1.25)


def test_patience_has_a_bound_and_is_not_taught_by_the_hopeless() -> None:
    machine = buffer_after(1, 3, 5, now_s=10.0)
    machine.expire(10.06)
    machine.add(packet(2), 10.3)
    assert machine.patience_s == pytest.approx(0.06)
    machine.add(packet(4), 10.12)
    assert machine.patience_s == MAX_PATIENCE_S


def test_a_sender_that_begins_anew_loses_nothing() -> None:
    assert released([5000, 5001, 100, 101]) == [5000, 5001, 100, 101]
    assert released([1, 2, 20000, 20001]) == [1, 2, 20000, 20001]


def test_one_packet_from_long_ago_changes_nothing() -> None:
    assert released([5000, 5001, 4800, 5002]) == [5000, 5001, 5002]


def test_another_stream_begins_with_its_second_packet_and_numbers_that_cannot_be_a_gap() -> None:
    machine = buffer_after(10, 12)
    assert machine.add(packet(500, ssrc=2), 0.0) == []
    assert machine.add(packet(12), 0.0) == [], "the old stream is still there"
    out = machine.add(packet(13), 0.0) + machine.add(packet(500, ssrc=2), 0.0) + machine.add(packet(501, ssrc=2), 0.0)
    assert [(one.ssrc, one.sequence_number) for _, one in out] == [(1, 12), (1, 13), (2, 500), (2, 501)]
    assert out[2][0] - out[1][0] > SEQUENCES


def test_a_long_gap_costs_no_memory() -> None:
    machine = buffer_after(1, 2900)
    assert len(machine.missing) == SPAN - 1
    assert machine.n_lost == 2898 - (SPAN - 1)
    machine.add(packet(2900 - SPAN), 0.01)
    assert machine.n_late == 1, "given up at once"


def test_a_request_is_made_where_its_answer_comes_within_patience() -> None:
    machine = buffer_after(1, 3)  # patience is 60 ms
    assert machine.ask_again(0.0, 0.01) == [2]
    assert machine.ask_again(0.01, 0.01) == [], "on its way"
    assert machine.ask_again(0.02, 0.01) == [2], "lost again"
    assert machine.ask_again(0.055, 0.01) == [], "too late"


def quiet_buffer(*numbers: int) -> JitterBuffer:
    """The last of ``numbers`` arrive at 10 s, with a patience of 20 ms."""
    machine = JitterBuffer(CLOCK_HZ)
    machine.add(packet(numbers[0]), 7.0)
    for number in numbers[1:]:
        machine.add(packet(number), 10.0)
    return machine


def test_a_single_loss_on_a_long_way_is_left_to_the_decoder() -> None:
    assert quiet_buffer(1, 3).ask_again(10.0, 0.08) == []
    assert quiet_buffer(1, 3).ask_again(10.0, None) == []
    assert quiet_buffer(1, 3).ask_again(10.0, 0.015) == [2]


def test_a_burst_on_a_long_way_is_asked_for_and_waited_for() -> None:
    machine = quiet_buffer(1, 7)
    assert machine.ask_again(10.0, 0.08) == [2, 3, 4, 5, 6]
    assert machine.deadline_s == pytest.approx(10.1)
    assert [number for number, _ in machine.add(packet(2), 10.08)] == [2]
    assert quiet_buffer(1, 7).ask_again(10.0, 0.1) == [], "more than can be waited for"


def test_single_losses_that_add_up_are_asked_for() -> None:
    machine = quiet_buffer(1, 3, 4, 6, 7, 9)
    assert machine.ask_again(10.0, 0.04) == [2, 5, 8]


def test_what_an_outage_swallowed_is_not_asked_for() -> None:
    assert quiet_buffer(1, 100).ask_again(10.0, 0.01) == []


ARRIVALS = st.lists(
    st.tuples(st.integers(0, SEQUENCES - 1) | st.integers(0, 300), st.integers(1, 2), st.floats(0, 0.1)), max_size=300
)


@given(ARRIVALS, st.booleans())
def test_any_packets_give_ordered_output_and_bounded_memory(
    arrivals: list[tuple[int, int, float]], keeps_time: bool
) -> None:
    machine, now_s, numbers = JitterBuffer(CLOCK_HZ), 0.0, list[int]()
    for sequence, ssrc, pause_s in arrivals:
        now_s += pause_s
        if keeps_time:
            numbers += [number for number, _ in machine.expire(now_s)]
        out = machine.add(packet(sequence, ssrc), now_s)
        assert all(number % SEQUENCES == one.sequence_number for number, one in out)
        numbers += [number for number, _ in out]
        machine.ask_again(now_s, 0.03)
        assert machine.n_held + len(machine.missing) <= SPAN
        assert len(machine._given_up) <= MAX_MISORDER + SPAN
        assert (machine.deadline_s is None) == (machine.n_held == 0) == (not machine.missing)
        deadline_s = machine.deadline_s
        assert deadline_s is None or deadline_s <= now_s + MAX_PATIENCE_S
        assert deadline_s is None or deadline_s > now_s or not keeps_time
    numbers += [number for number, _ in machine.flush()]
    assert all(earlier < later for earlier, later in itertools.pairwise(numbers))
    n_dropped = machine.n_late + machine.n_duplicate + (machine._stranger is not None)
    assert len(numbers) + n_dropped == len(arrivals), "each packet comes out once or is counted"


@given(
    start=st.integers(0, SEQUENCES - 1),
    n_packets=st.integers(1, 150),
    seed=st.integers(0, 10_000),
    loss=st.floats(0, 0.5),
    duplicates=st.floats(0, 0.5),
)
def test_nothing_that_comes_within_the_least_patience_is_lost_nor_heard_twice(
    start: int, n_packets: int, seed: int, loss: float, duplicates: float
) -> None:
    chance = random.Random(seed)
    arrivals = []
    for number in range(1, n_packets):
        copies = (chance.random() >= loss) * (1 + (chance.random() < duplicates))
        arrivals += [(number * PACKET_S + chance.random() * MIN_PATIENCE_S * 0.99, number) for _ in range(copies)]
    machine, out = JitterBuffer(CLOCK_HZ), list[int]()
    for now_s, number in [(0.0, 0), *sorted(arrivals)]:
        out += [int(one.timestamp) for _, one in machine.add(packet(start + number), now_s)]
    out += [int(one.timestamp) for _, one in machine.flush()]
    expected = sorted({0, *(number for _, number in arrivals)})
    assert out == [(start + number) * 960 % 2**32 for number in expected]
    assert machine.n_lost == max(expected) + 1 - len(expected)


@pytest.mark.parametrize("spread_s", [0.03, 0.05, 0.07, 0.09])
def test_a_stream_whose_packets_overtake_each_other_soon_loses_hardly_any(spread_s: float) -> None:
    late_losses = []
    for seed in range(20):
        chance = random.Random(seed)
        arrivals = sorted((number * PACKET_S + chance.random() * spread_s, number) for number in range(1, 500))
        machine = JitterBuffer(CLOCK_HZ)
        machine.add(packet(0), 0.0)
        n_lost = []
        for now_s, number in arrivals:
            machine.expire(now_s)
            machine.add(packet(number), now_s)
            n_lost.append(machine.n_lost)
        assert n_lost[249] <= 5
        late_losses.append(n_lost[-1] - n_lost[249])
    assert sum(late_losses) <= 0.005 * 20 * 250
