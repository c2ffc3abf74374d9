"""Tests of the rule by which rows step together."""

from __future__ import annotations

import random

import numpy as np
import pytest

from duplex_server.engine.batcher import Batcher, Queued, units_ahead
from duplex_server.types import Unit


def queued(row: int, index: int) -> Queued:
    return Queued(row, Unit(index, np.zeros(0, np.float32)), None)


def shape(batch: list[Queued]) -> list[tuple[int, int]]:
    return [(item.row, item.unit.index) for item in batch]


def test_a_batch_holds_one_unit_of_each_waiting_row() -> None:
    batcher = Batcher(units_per_row=4)
    for row, index in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        batcher.put(queued(row, index))
    assert shape(batcher.take()) == [(0, 0), (1, 0), (2, 0)]
    assert shape(batcher.take()) == [(0, 1), (2, 1)]
    assert not batcher.ready


def test_an_empty_batcher_gives_an_empty_batch() -> None:
    batcher = Batcher(units_per_row=1)
    assert not batcher.ready
    assert batcher.take() == []


def test_the_row_that_waits_longest_comes_first() -> None:
    batcher = Batcher(units_per_row=4)
    batcher.put(queued(3, 0))
    batcher.put(queued(1, 0))
    batcher.put(queued(3, 1))
    batcher.take()
    batcher.put(queued(1, 1))
    assert shape(batcher.take()) == [(3, 1), (1, 1)]


def test_a_dropped_row_leaves_nothing() -> None:
    batcher = Batcher(units_per_row=4)
    batcher.put(queued(0, 0))
    batcher.put(queued(1, 0))
    batcher.drop(0)
    batcher.drop(5)
    assert shape(batcher.take()) == [(1, 0)]


def test_a_full_row_refuses_and_others_do_not() -> None:
    batcher = Batcher(units_per_row=2)
    batcher.put(queued(0, 0))
    batcher.put(queued(0, 1))
    with pytest.raises(AssertionError, match="row 0"):
        batcher.put(queued(0, 2))
    batcher.put(queued(1, 0))


def test_any_schedule_keeps_order_and_starves_nobody() -> None:
    chance = random.Random(1)
    for _ in range(200):
        batcher = Batcher(units_per_row=3)
        sent = [0] * 5
        taken: list[list[int]] = [[] for _ in sent]
        while min(sent) < 12 or batcher.ready:
            row = chance.randrange(5)
            if sent[row] < 12 and sent[row] - len(taken[row]) < 3:
                batcher.put(queued(row, sent[row]))
                sent[row] += 1
            if chance.random() < 0.4:
                waiting = {row for row in range(5) if sent[row] > len(taken[row])}
                batch = shape(batcher.take())
                assert {row for row, _ in batch} == waiting
                for row, index in batch:
                    taken[row].append(index)
        assert taken == [list(range(12))] * 5


@pytest.mark.parametrize(("unit_ms", "ahead"), [(20, 8), (40, 4), (80, 2), (1000, 2)])
def test_short_units_may_run_further_ahead(unit_ms: int, ahead: int) -> None:
    assert units_ahead(unit_ms) == ahead
