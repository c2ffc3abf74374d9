"""Figures and targets."""

from __future__ import annotations

import pytest

from benchmarks.results import Figures, Target


@pytest.fixture
def figures() -> Figures:
    figures = Figures()
    for n in range(1, 21):
        figures.add("response_s", n / 10, f"trial {n}")
    for obeyed in (1, 1, 0, 1):
        figures.add("obeyed", obeyed, "trial")
    return figures


@pytest.mark.parametrize(
    ("name", "statistic", "expected"),
    [
        ("response_s", "p50", 1.0),
        ("response_s", "p95", 1.9),
        ("response_s", "max", 2.0),
        ("response_s", "p99.9", 2.0),
        ("obeyed", "sum", 3.0),
        ("obeyed", "share", 0.75),
        ("nothing", "p50", None),
    ],
)
def test_statistics(figures: Figures, name: str, statistic: str, expected: float | None) -> None:
    assert figures.statistic(name, statistic) == expected


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("response_s", "p50", "<=", 1.0), True),
        (Target("response_s", "p95", "<=", 1.8), False),
        (Target("obeyed", "share", ">=", 0.75), True),
        (Target("obeyed", "share", ">=", 0.95), False),
        (Target("nothing", "max", "<=", 9.0), False),
    ],
)
def test_a_target_is_met_or_not_and_never_by_measuring_nothing(figures: Figures, target: Target, met: bool) -> None:
    (check,) = figures.check([target])
    assert check.met is met


def test_the_table_shows_what_was_measured(figures: Figures) -> None:
    assert figures.table(figures.values) == [("response_s", 20, "1000 ms", "1900 ms", "2000 ms")]
    assert figures.counts(figures.values) == [("obeyed", 4, "3", "75 %")]


def test_the_file_holds_every_value_with_its_origin(figures: Figures) -> None:
    assert figures.to_json()["obeyed"][2] == {"value": 0.0, "origin": "trial"}
