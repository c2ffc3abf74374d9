"""The search for the most calls that one core holds, on servers whose limit is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.media_steps import Step, held, next_sessions


def step(n: int, *, gaps: float = 0.0, delay_s: float | None = 0.1, core_share: float = 0.5) -> Step:
    return Step(n, n, 10.0, gaps, gaps, delay_s, delay_s, core_share, 1000 * core_share / n, 1.0, 20.0, 0.1, 0.3, 0.001)


def search(limit: int, cost_ms: float, *, first: int = 8, most: int = 200, most_steps: int = 20) -> list[Step]:
    """Search the limit of a server that holds ``limit`` calls of ``cost_ms`` each."""
    steps: list[Step] = []
    while (n := next_sessions(steps, first=first, most=most, most_steps=most_steps)) is not None:
        assert n not in {earlier.n_sessions for earlier in steps}, "no number is tried twice"
        steps.append(step(n, gaps=0.0 if n <= limit else 0.05, core_share=min(1.0, n * cost_ms / 1000)))
    return steps


@pytest.mark.parametrize(("limit", "cost_ms"), [(17, 60.0), (13, 75.0), (7, 110.0), (85, 10.0), (40, 5.0), (3, 100.0)])
def test_the_limit_is_found_within_its_resolution_in_few_steps(limit: int, cost_ms: float) -> None:
    steps = search(limit, cost_ms)
    best = held(steps)
    assert best is not None
    assert limit - max(1, round(0.08 * limit) + 1) <= best.n_sessions <= limit
    assert any(not tried.good for tried in steps)
    assert len(steps) <= 8


def test_a_server_that_holds_nobody_is_known_for_it() -> None:
    steps = search(0, 500.0)
    assert held(steps) is None
    assert steps[-1].n_sessions == 1


def test_the_search_ends_at_what_the_callers_can_do() -> None:
    assert max(tried.n_sessions for tried in search(1000, 1.0, most=60)) == 60


def test_the_search_ends_after_so_many_steps() -> None:
    assert len(search(100, 9.0, most_steps=3)) == 3


def test_a_step_whose_callers_were_late_is_known() -> None:
    assert not step(4).disturbed
    assert replace(step(4), late_p99_s=0.05).disturbed


def test_what_is_not_held() -> None:
    assert step(4).good
    assert not step(4, gaps=0.011).good
    assert not step(4, delay_s=0.41).good
    assert not step(4, delay_s=None).good
    assert held([step(4), step(6, gaps=0.5), step(8)]) == step(4), "above a failure nothing counts"
    long = replace(step(4), seconds=120.0)
    assert held([step(4), long, step(4)]) == long
    assert held([step(4), replace(long, gap_share=0.5)]) is None, "what was held for a moment only was not held"
