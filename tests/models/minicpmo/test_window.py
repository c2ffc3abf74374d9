"""Windows drop whole units, and remember what was said where they are asked to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from duplex_server.models.minicpmo.window import UnitRecord, Window, WindowMode, WindowOptions

HEAD = list(range(1000, 1010))
SUFFIX = [2000, 2001]
MARKER = [3000, 3001, 3002]


class FakeCache:
    """Ids in place of keys; None where something was not written."""

    def __init__(self, content: Sequence[int]) -> None:
        self.content: list[int | None] = list(content)
        self.lengths = [len(content)]
        self.moves: list[tuple[int, int, bool]] = []

    def move(self, row: int, start: int, to: int, *, officially: bool = False) -> None:
        assert row == 0
        moved = self.content[start:]
        self.content = [*self.content[: min(start, to)], *[None] * max(0, to - start), *moved]
        self.lengths = [len(self.content)]
        self.moves.append((start, to, officially))

    def refill(self, start: int, ids: Sequence[int]) -> None:
        self.content[start : start + len(ids)] = ids

    def append(self, ids: Sequence[int]) -> None:
        self.content += ids
        self.lengths = [len(self.content)]


def unit(number: int) -> list[int]:
    return [10 * number + i for i in range(3 + number % 3)]


def run(options: WindowOptions, n_units: int, *, official: bool = False) -> tuple[FakeCache, Window]:
    """Give units; every third listens, the others say their first two ids."""
    cache = FakeCache([*HEAD, *SUFFIX])
    window = Window(options, len(HEAD), SUFFIX, MARKER, official=official)
    for number in range(n_units):
        cache.append(unit(number))
        window.add(UnitRecord(len(unit(number)), () if number % 3 == 0 else tuple(unit(number)[:2])))
        due = window.due(cache.lengths[0], with_unit=False)
        before = len(window.units)
        window.slide(0, cache, cache.refill)
        assert due == (len(window.units) < before)
    return cache, window


def ids(first: int, last: int) -> list[int]:
    return [i for number in range(first, last) for i in unit(number)]


def test_off_keeps_everything() -> None:
    cache, window = run(WindowOptions(WindowMode.OFF), 50)
    assert cache.content == [*HEAD, *SUFFIX, *ids(0, 50)]
    assert len(window.units) == 50 and not cache.moves


@pytest.mark.parametrize("official", [True, False])
def test_basic_drops_the_oldest_units_behind_the_head(official: bool) -> None:
    cache, window = run(WindowOptions(WindowMode.BASIC, high_tokens=40, low_tokens=30), 30, official=official)
    assert 25 <= len(cache.content) <= 40
    assert cache.content == [*HEAD, *SUFFIX, *ids(30 - len(window.units), 30)]


def test_basic_moves_once_for_all_units_that_it_drops() -> None:
    options = WindowOptions(WindowMode.BASIC, high_tokens=40, low_tokens=30)
    ours, _ = run(options, 30)
    official, _ = run(options, 30, official=True)
    assert len(ours.moves) * 2 <= len(official.moves)
    assert all(officially for _, _, officially in official.moves)
    assert not any(officially for _, _, officially in ours.moves)


def test_basic_keeps_a_head_that_is_longer_than_the_window() -> None:
    cache, window = run(WindowOptions(WindowMode.BASIC, high_tokens=5, low_tokens=3), 4)
    assert cache.content == [*HEAD, *SUFFIX] and not window.units


def test_context_keeps_what_was_said_as_text() -> None:
    cache, window = run(WindowOptions(WindowMode.CONTEXT, max_units=4, previous_max_tokens=6), 12)
    said = [i for number in range(8) if number % 3 for i in unit(number)[:2]]
    assert cache.content == [*HEAD, *MARKER, *said[-6:], *SUFFIX, *ids(8, 12)]
    assert len(window.units) == 4


def test_context_only_drops_until_something_was_said() -> None:
    cache, _ = run(WindowOptions(WindowMode.CONTEXT, max_units=4), 5)
    assert cache.content == [*HEAD, *SUFFIX, *ids(1, 5)]


def test_an_exchanged_head_keeps_what_was_said() -> None:
    _, window = run(WindowOptions(WindowMode.CONTEXT, max_units=4, previous_max_tokens=6), 12)
    before = window.head_length
    window.rehead(3, [1])
    assert window.head_length == before - len(HEAD) - len(SUFFIX) + 3 + 1
