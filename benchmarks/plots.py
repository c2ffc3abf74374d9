"""Plots of results. Knows nothing about how they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Check, Figures, shown

__all__ = ["idle_cost", "loop_stall", "turn_taking"]

mpl.use("Agg")
_MET, _MISSED = "#2a7f4f", "#c0392b"
_COLOURS = ("#1f4e79", "#c55a11", "#2a7f4f", "#7f3f98", "#808080")


def _shares(axes: Axes, figures: Figures, names: Sequence[str], title: str, limits_ms: Sequence[float]) -> None:
    """Draw for each figure which share of its values lies below each time."""
    for name, colour in zip(names, _COLOURS, strict=False):
        values_ms = 1000 * np.sort(np.asarray(figures.values.get(name, [])))
        if len(values_ms):
            shares = np.arange(1, len(values_ms) + 1) / len(values_ms)
            label = f"{name.removesuffix('_s').replace('_', ' ')} (n = {len(values_ms)})"
            axes.step(values_ms, 100 * shares, where="post", color=colour, label=label)
    for limit_ms in limits_ms:
        axes.axvline(limit_ms, color="#bbbbbb", linestyle="--", linewidth=1)
    axes.axhline(95, color="#dddddd", linewidth=1)
    axes.set(title=title, xlabel="ms", ylabel="% of trials", ylim=(0, 101))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower right")


def _verdicts(axes: Axes, checks: Sequence[Check]) -> None:
    axes.axis("off")
    axes.set_title("targets")
    for row, check in enumerate(checks):
        target = check.target
        text = (
            f"{target.name} {target.statistic}: {shown(target.name, check.measured)} "
            f"({target.comparison} {shown(target.name, target.limit)})"
        )
        colour = _MET if check.met else _MISSED
        axes.text(0, 1 - (row + 1) / (len(checks) + 1), text, color=colour, fontsize=8, transform=axes.transAxes)


def turn_taking(path: Path, figures: Figures, checks: Sequence[Check], transport: str) -> None:
    """Draw the results of :mod:`benchmarks.turn_taking`."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(f"Turn taking over {transport}, measured at the listener")
    axes = figure.subplots(2, 2)
    _shares(axes[0, 0], figures, ["response_s"], "answer after the user's last sound", (500, 800))
    silent = ["interruption_silent_s", "stop_word_silent_s", "immediate_silent_s", "echo_interruption_silent_s"]
    _shares(axes[0, 1], figures, silent, "silence after the onset of an interruption", (350, 700))
    lowered = ["interruption_down_s", "stop_word_down_s", "backchannel_back_s", "aside_back_s"]
    _shares(axes[1, 0], figures, lowered, "12 dB down after an onset; back after a false one", (250, 300))
    _verdicts(axes[1, 1], checks)
    figure.savefig(path, dpi=110)


def loop_stall(path: Path, curves: dict[str, np.ndarray], checks: Sequence[Check], title: str) -> None:
    """Draw how often a timer is how late: for each label, lateness in seconds of every firing."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for (label, values), colour in zip(curves.items(), _COLOURS, strict=False):
        values_ms = 1000 * np.sort(values)
        left.step(values_ms, 1 - np.arange(1, len(values) + 1) / (len(values) + 1), color=colour, label=label)
    left.set(xscale="log", yscale="log", xlabel="lateness, ms", ylabel="share of timers later than this")
    left.grid(alpha=0.2)
    left.legend(fontsize=8)
    _verdicts(right, checks)
    figure.savefig(path, dpi=110)


def idle_cost(path: Path, costs_ms: dict[str, float], checks: Sequence[Check], title: str) -> None:
    """Draw CPU time per session and second, by process."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    left.barh(list(costs_ms), list(costs_ms.values()), color=_COLOURS[0])
    left.set(xlabel="CPU ms per session and second")
    _verdicts(right, checks)
    figure.savefig(path, dpi=110)
