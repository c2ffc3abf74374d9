"""How many calls to try next, until the most that one core holds is known. Pure; knows nothing about servers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MOST_DELAY_S", "MOST_GAPS", "Step", "held", "next_sessions"]

MOST_GAPS = 0.01
"""Share of the time without sound, on average over the calls, up to which a server holds them."""
MOST_DELAY_S = 0.4
"""From wire to wire, 95th percentile."""
_MOST_OWN_DELAY_S = 0.02
"""How late callers may send, 99th percentile: a third of what a listener buffers."""
_USEFUL_SHARE = 0.85
"""Of the core that a first step's cost leaves room for: calls grow cheaper with their number, and a core is never
full."""
_GROWTH = 1.12
_LARGEST_LEAP = 4.0
_RESOLUTION = 0.08
"""A limit known to within this share is known."""


@dataclass(frozen=True, slots=True)
class Step:
    """A number of calls, and how a server held them."""

    n_sessions: int
    n_connected: int
    seconds: float
    gap_share: float
    """Mean over the calls of the share of time without sound."""
    worst_gap_share: float
    delay_p50_s: float | None
    """From wire to wire; None: nothing of what was sent was found in what came back."""
    delay_p95_s: float | None
    core_share: float
    """CPU of the server by the time it took: 1 is a full core."""
    cpu_ms: float
    """CPU of the server per call and second, ms."""
    memory_mb: float
    """Memory of the server per call, more than without calls."""
    connect_cpu_ms: float
    connect_s: float
    """From the offer to media in both directions, mean."""
    load_share: float
    """CPU of the callers by the time it took: near 1 they, not the server, are the limit."""
    late_p99_s: float
    """How late the callers themselves sent."""
    trouble: str = ""
    """Why the first call that did not come to stand did not."""

    @property
    def good(self) -> bool:
        """Whether the server held all calls."""
        return (
            self.n_connected == self.n_sessions
            and self.gap_share <= MOST_GAPS
            and self.delay_p95_s is not None
            and self.delay_p95_s <= MOST_DELAY_S
        )

    @property
    def disturbed(self) -> bool:
        """Whether the callers themselves were so late that the step says little about the server."""
        return self.late_p99_s > _MOST_OWN_DELAY_S


def held(steps: Sequence[Step]) -> Step | None:
    """Return the largest step that was good, below every one that was not; None if there is none.

    Of several with as many calls it is the longest: one that was not good, however short, counts against all.
    """
    ceiling = min((step.n_sessions for step in steps if not step.good), default=math.inf)
    return max(
        (step for step in steps if step.good and step.n_sessions < ceiling),
        key=lambda step: (step.n_sessions, step.seconds),
        default=None,
    )


def next_sessions(steps: Sequence[Step], *, first: int, most: int, most_steps: int) -> int | None:
    """Return how many calls to try next; None when the limit is known well enough.

    From the first step's CPU the limit is guessed and leapt to; from there the number rises by an eighth until a step
    fails, or is halved towards the last good one.

    Args:
        steps: what was tried, in order.
        first: where to begin.
        most: calls that the callers can make.
        most_steps: steps after which the search ends anyway.
    """
    if not steps:
        return min(first, most)
    if len(steps) >= most_steps:
        return None
    bad = min((step.n_sessions for step in steps if not step.good), default=None)
    best = held(steps)
    if bad is not None:
        below = best.n_sessions if best is not None else 0
        between = (below + bad) // 2
        return between if bad - below > max(1, round(_RESOLUTION * bad)) and between > 0 else None
    assert best is not None, "a step is good or not"
    if best.n_sessions >= most:
        return None
    guess = min(_USEFUL_SHARE / max(best.core_share, 1e-6), _LARGEST_LEAP) * best.n_sessions
    return min(most, max(math.ceil(_GROWTH * best.n_sessions), math.floor(guess)))
