from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from duplex_server.transports.reorder import MAX_MISORDER, WAIT_PACKETS, Reorderer


def released(sequences: list[int]) -> list[int]:
    """What comes out, as the names of the packets, which are their sequence numbers."""
    machine: Reorderer[int] = Reorderer()
    return [packet for sequence in sequences for _, packet in machine.add(sequence % 65536, sequence % 65536)]


def test_packets_in_order_are_released_at_once() -> None:
    machine: Reorderer[str] = Reorderer()
    assert machine.add(7, "a") == [(7, "a")]
    assert machine.add(8, "b") == [(8, "b")]
    assert not machine.waiting


def test_order_survives_the_wrap_of_the_sequence_number() -> None:
    assert released([65534, 65535, 0, 2, 1, 3]) == [65534, 65535, 0, 1, 2, 3]


def test_extended_numbers_go_on_over_the_wrap() -> None:
    machine: Reorderer[None] = Reorderer()
    numbers = [number for sequence in (65535, 0, 1) for number, _ in machine.add(sequence, None)]
    assert numbers == [65535, 65536, 65537]


def test_a_packet_overtaken_by_two_is_put_back_in_its_place() -> None:
    assert released([1, 3, 4, 2, 5]) == [1, 2, 3, 4, 5]


def test_a_lost_packet_is_given_up_when_three_more_have_come() -> None:
    machine: Reorderer[int] = Reorderer()
    machine.add(1, 1)
    assert machine.add(3, 3) == []
    assert machine.add(4, 4) == []
    assert machine.waiting
    assert machine.add(5, 5) == [(3, 3), (4, 4), (5, 5)]
    assert not machine.waiting


def test_a_packet_that_comes_after_it_was_given_up_is_dropped_and_counted() -> None:
    machine: Reorderer[int] = Reorderer()
    for sequence in (1, 3, 4, 5):
        machine.add(sequence, sequence)
    assert machine.add(2, 2) == []
    assert machine.n_late == 1


def test_flush_releases_what_was_held_back() -> None:
    machine: Reorderer[int] = Reorderer()
    for sequence in (1, 4, 3):
        machine.add(sequence, sequence)
    assert machine.flush() == [(3, 3), (4, 4)]
    assert machine.add(5, 5) == [(5, 5)]


def test_a_sender_that_begins_anew_is_followed_at_once() -> None:
    assert released([5000, 5001, 100, 101]) == [5000, 5001, 100, 101]


def test_a_jump_forward_costs_no_more_than_a_loss() -> None:
    assert released([1, 2, 20000, 20001, 20002]) == [1, 2, 20000, 20001, 20002]


@given(st.lists(st.integers(0, 65535), max_size=300))
def test_any_numbers_give_ordered_output_and_bounded_memory(sequences: list[int]) -> None:
    machine: Reorderer[int] = Reorderer()
    numbers: list[int] = []
    for sequence in sequences:
        for number, packet in machine.add(sequence, sequence):
            assert number % 65536 == packet
            numbers.append(number)
        assert len(machine._held) < WAIT_PACKETS
    numbers += [number for number, _ in machine.flush()]
    assert all(earlier < later for earlier, later in itertools.pairwise(numbers))
    assert len(numbers) + machine.n_late == len(sequences)


@given(
    start=st.integers(0, 65535),
    n_packets=st.integers(1, 150),
    seed=st.integers(0, 10_000),
    loss=st.floats(0, 0.5),
    shift=st.integers(0, WAIT_PACKETS - 1),
)
def test_nothing_that_arrives_less_than_three_packets_late_is_lost(
    start: int, n_packets: int, seed: int, loss: float, shift: int
) -> None:
    chance = random.Random(seed)
    sent = list(range(n_packets))
    delay = {number: chance.randint(0, shift) for number in sent}
    arrived = [number for number in sorted(sent, key=lambda n: (n + delay[n], n)) if chance.random() >= loss]
    if not arrived or arrived[0] != min(arrived):
        return  # what is first to arrive begins the stream
    machine: Reorderer[int] = Reorderer()
    out = [packet for n in arrived for _, packet in machine.add((start + n) % 65536, n)]
    out += [packet for _, packet in machine.flush()]
    assert out == sorted(arrived)


@given(st.lists(st.integers(0, MAX_MISORDER - 1), min_size=1, max_size=60))
def test_a_duplicate_never_comes_out_twice(sequences: list[int]) -> None:
    out = released(sequences + sequences)
    assert len(out) == len(set(out))
