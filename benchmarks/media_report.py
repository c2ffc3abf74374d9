"""The results of :mod:`benchmarks.media` on the screen, as Markdown and as a plot.

Knows nothing about how they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.media_loss import Endured
from benchmarks.media_steps import MOST_DELAY_S, MOST_GAPS, Step, held
from benchmarks.report import print_table

__all__ = ["Outcome", "capacity_rows", "loss_rows", "markdown", "plot", "print_outcomes", "step_row"]

CAPACITY_HEADINGS = (
    *("server", "version", "calls on a core", "CPU ms per call and second", "wire to wire p50", "p95", "gaps"),
    *("memory per call", "CPU per connect", "time to connect"),
)
STEP_HEADINGS = ("calls", "core", "CPU ms", "p50", "p95", "gaps", "worst", "callers' core", "late p99", "")
LOSS_HEADINGS = ("network", "lost", "free of gaps", "delay before", "during, p95", "after", "back", "words")
_COLOURS = ("#1f4e79", "#2a7f4f", "#c55a11", "#7f3f98", "#808080")


@dataclass(slots=True)
class Outcome:
    """What became of one server."""

    title: str
    version: str = ""
    error: str = ""
    """Why nothing, or nothing more, was measured."""
    steps: list[Step] = field(default_factory=list)
    endured: list[Endured] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything, for a file."""
        best = held(self.steps)
        return asdict(self) | {"calls_on_a_core": best.n_sessions if best is not None else 0}


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.0f} %"


def step_row(step: Step) -> tuple[str, ...]:
    """Return one step as cells under ``STEP_HEADINGS``."""
    missing = step.n_sessions - step.n_connected
    return (
        str(step.n_sessions),
        f"{step.core_share:.2f}",
        f"{step.cpu_ms:.1f}",
        _ms(step.delay_p50_s),
        _ms(step.delay_p95_s),
        _percent(step.gap_share),
        _percent(step.worst_gap_share),
        f"{step.load_share:.2f}",
        _ms(step.late_p99_s),
        "held" if step.good else (f"{missing} missing: {step.trouble}" if missing else "not held"),
    )


def capacity_rows(outcomes: Mapping[str, Outcome]) -> list[tuple[str, ...]]:
    """Return each server at the most calls that it held, as cells under ``CAPACITY_HEADINGS``."""
    rows = []
    for outcome in outcomes.values():
        best = held(outcome.steps)
        if best is None:
            rows.append((outcome.title, outcome.version, outcome.error or "none", *["–"] * 7))
            continue
        tried_all = any(not step.good for step in outcome.steps)
        rows.append(
            (
                outcome.title,
                outcome.version,
                f"{best.n_sessions}" if tried_all else f"≥ {best.n_sessions}",
                f"{best.cpu_ms:.1f}",
                _ms(best.delay_p50_s),
                _ms(best.delay_p95_s),
                _percent(best.gap_share),
                f"{best.memory_mb:.2f} MB",
                f"{best.connect_cpu_ms:.0f} ms",
                _ms(best.connect_s),
            )
        )
    return rows


def loss_rows(endured: Sequence[Endured]) -> list[tuple[str, ...]]:
    """Return each condition as cells under ``LOSS_HEADINGS``."""
    return [
        (
            one.condition,
            _percent(one.lost_share),
            f"{100 * one.gap_free_share:.1f} %",
            _ms(one.delay_before_s),
            _ms(one.delay_during_p95_s),
            _ms(one.delay_after_s),
            "yes" if one.recovered else "NO",
            f"{100 * one.words_share:.0f} %",
        )
        for one in endured
    ]


def print_outcomes(outcomes: Mapping[str, Outcome]) -> None:
    """Print all tables."""
    if any(outcome.steps for outcome in outcomes.values()):
        print(f"\nMost calls on one core with gaps ≤ {100 * MOST_GAPS:.0f} % and p95 ≤ {1000 * MOST_DELAY_S:.0f} ms\n")
        print_table(CAPACITY_HEADINGS, capacity_rows(outcomes))
    for outcome in outcomes.values():
        if outcome.error:
            print(f"\n{outcome.title}: {outcome.error}")
        if outcome.steps:
            print(f"\n{outcome.title}, step by step\n")
            print_table(STEP_HEADINGS, map(step_row, sorted(outcome.steps, key=lambda step: step.n_sessions)))
        if outcome.endured:
            print(f"\n{outcome.title}, over bad networks\n")
            print_table(LOSS_HEADINGS, loss_rows(outcome.endured))


def markdown(outcomes: Mapping[str, Outcome], machine: str) -> str:
    """Return the tables as Markdown."""
    parts = [machine]
    if any(outcome.steps for outcome in outcomes.values()):
        parts.append(_table(CAPACITY_HEADINGS, capacity_rows(outcomes)))
    for outcome in outcomes.values():
        if outcome.endured:
            parts += [f"**{outcome.title}**", _table(LOSS_HEADINGS, loss_rows(outcome.endured))]
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(path: Path, outcomes: Mapping[str, Outcome], title: str) -> None:
    """Draw cost, delay and gaps over the number of calls, and the most calls that each server held."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(title)
    most, cost, delay, gaps = figure.subplots(2, 2).flat
    tried = [outcome for outcome in outcomes.values() if outcome.steps]
    best = [(outcome, held(outcome.steps)) for outcome in tried]
    bars = most.barh(
        [outcome.title for outcome in tried],
        [step.n_sessions if step is not None else 0 for _, step in best],
        color=[_COLOURS[number % len(_COLOURS)] for number in range(len(tried))],
    )
    most.bar_label(bars, padding=3)
    most.invert_yaxis()
    most.set(title="calls on one core", xlabel="calls")
    for outcome, colour in zip(tried, _COLOURS, strict=False):
        steps = sorted(outcome.steps, key=lambda step: step.n_sessions)
        _line(cost, outcome.title, colour, [(step.n_sessions, step.cpu_ms) for step in steps])
        delays = [(step.n_sessions, 1000 * step.delay_p95_s) for step in steps if step.delay_p95_s is not None]
        _line(delay, outcome.title, colour, delays)
        _line(gaps, outcome.title, colour, [(step.n_sessions, 100 * step.gap_share) for step in steps])
    cost.set(title="CPU of the server", xlabel="calls", ylabel="ms per call and second", ylim=(0, None))
    delay.set(title="from wire to wire, 95th percentile", xlabel="calls", ylabel="ms", yscale="log")
    delay.axhline(1000 * MOST_DELAY_S, color="#bbbbbb", linestyle="--", linewidth=1)
    gaps.set(title="time without sound, mean over calls", xlabel="calls", ylabel="%", yscale="symlog")
    gaps.axhline(100 * MOST_GAPS, color="#bbbbbb", linestyle="--", linewidth=1)
    if tried:
        cost.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _line(axes: Axes, label: str, colour: str, points: Sequence[tuple[float, float]]) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, color=colour, label=label)
    axes.grid(alpha=0.2)
