"""Results on the screen and in files. Knows nothing about what was measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Check, shown

__all__ = ["Progress", "machine", "print_checks", "print_table", "save"]


class Progress:
    """A bar on the terminal while a benchmark runs; lines in a log where there is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began_s = time.monotonic()
        self._live = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """Count one part as done."""
        self._done += 1
        elapsed_s = time.monotonic() - self._began_s
        left_s = elapsed_s / self._done * (self._total - self._done)
        filled = 30 * self._done // max(1, self._total)
        bar = "█" * filled + "·" * (30 - filled)
        line = f"{bar} {self._done}/{self._total}  {left_s:4.0f} s left  {what}"
        sys.stderr.write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")
        if self._live and self._done == self._total:
            sys.stderr.write("\n")
        sys.stderr.flush()


def machine() -> dict[str, Any]:
    """Describe the machine that was measured on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    lines = [list(map(str, headings)), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for number, line in enumerate(lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("─" * width for width in widths))


def print_checks(checks: Sequence[Check]) -> bool:
    """Print targets with what was measured; return whether all were met."""
    rows = [
        (
            f"{check.target.name} {check.target.statistic}",
            shown(check.target.name, check.measured),
            f"{check.target.comparison} {shown(check.target.name, check.target.limit)}",
            "met" if check.met else "MISSED",
        )
        for check in checks
    ]
    print_table(("target", "measured", "aim", ""), rows)
    return all(check.met for check in checks)


def save(path: Path, content: dict[str, Any], checks: Sequence[Check]) -> None:
    """Write results as JSON, with the machine and the targets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    targets = [
        {
            "name": check.target.name,
            "statistic": check.target.statistic,
            "aim": f"{check.target.comparison} {check.target.limit}",
            "measured": check.measured,
            "met": check.met,
        }
        for check in checks
    ]
    path.write_text(json.dumps({"machine": machine(), "targets": targets, **content}, indent=1), "utf-8")
