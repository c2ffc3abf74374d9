"""What was measured, and whether it is what was aimed at. Pure; knows nothing about how it was measured."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.analysis import percentile

__all__ = ["Check", "Figures", "Target", "shown"]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Target:
    """One aim: a statistic of a named figure, and its limit."""

    name: str
    statistic: str
    """``"p50"``, ``"p95"``, ``"p99.9"``, ``"max"``, ``"sum"``, or ``"share"`` of figures that are not 0."""
    comparison: str
    limit: float


@dataclass(frozen=True, slots=True)
class Check:
    """A target, held against what was measured."""

    target: Target
    measured: float | None
    """None: nothing was measured, which meets no target."""

    @property
    def met(self) -> bool:
        """Whether the aim was reached."""
        compare = _COMPARISONS[self.target.comparison]
        return self.measured is not None and compare(self.measured, self.target.limit)


@dataclass(slots=True)
class Figures:
    """Measured values by name, each with the words that say where it came from."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    origins: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, figure: float, origin: str) -> None:
        """Keep one value.

        Args:
            name: what it is, with its unit at the end: ``"response_s"``.
            figure: the value; a fact is 1.0 or 0.0.
            origin: where it came from, to find it again in the log.
        """
        self.values[name].append(float(figure))
        self.origins[name].append(origin)

    def statistic(self, name: str, statistic: str) -> float | None:
        """Return a statistic as :attr:`Target.statistic` names it; None if nothing was measured."""
        values = self.values.get(name)
        if not values:
            return None
        match statistic:
            case "max":
                return max(values)
            case "sum":
                return sum(values)
            case "share":
                return sum(value != 0 for value in values) / len(values)
            case _:
                return percentile(values, float(statistic.removeprefix("p")))

    def check(self, targets: Iterable[Target]) -> list[Check]:
        """Hold the figures against targets."""
        return [Check(target, self.statistic(target.name, target.statistic)) for target in targets]

    def table(self, names: Iterable[str]) -> list[tuple[str, int, str, str, str]]:
        """Return (name, count, p50, p95, max) for each name of a time, ready to be printed."""
        rows = []
        for name in filter(is_time, names):
            p50, p95, most = (shown(name, self.statistic(name, statistic)) for statistic in ("p50", "p95", "max"))
            rows.append((name, len(self.values[name]), p50, p95, most))
        return rows

    def counts(self, names: Iterable[str]) -> list[tuple[str, int, str, str]]:
        """Return (name, count, sum, share of figures that are not 0) for each other name, ready to be printed."""
        rows = []
        for name in names:
            if not is_time(name):
                share = self.statistic(name, "share") or 0.0
                rows.append((name, len(self.values[name]), shown(name, sum(self.values[name])), f"{100 * share:.0f} %"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return all values with their origins, for a file."""
        return {
            name: [{"value": value, "origin": origin} for value, origin in zip(values, self.origins[name], strict=True)]
            for name, values in self.values.items()
        }


def is_time(name: str) -> bool:
    """Return whether a figure is a time in seconds, by its name."""
    return name.endswith("_s")


def shown(name: str, figure: float | None) -> str:
    """Return a figure as people read it: times as milliseconds, others with two digits."""
    if figure is None:
        return "–"
    return f"{1000 * figure:.0f} ms" if is_time(name) else f"{figure:.2f}".rstrip("0").rstrip(".")
