"""``duplex-server verify``: whether a checkpoint is complete. Loads no weights."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EXIT_INCOMPLETE", "describe", "run", "show_findings"]

EXIT_INCOMPLETE = 1

_SHOWN = 8
"""Problems of one file that are spelt out."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Say whether a MiniCPM-o checkpoint is complete: every file and every tensor, token2wav included. "
        "Only headers are read."
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")


def run(asked: argparse.Namespace) -> int:
    """Print what was found and return the exit status, 1 where something needed is missing or broken."""
    return show_findings(asked.checkpoint)


def show_findings(folder: Path) -> int:
    """Print a line for each part of the checkpoint, and return the exit status."""
    from duplex_server.models.minicpmo.verification import verify_checkpoint

    findings = verify_checkpoint(folder)
    for finding in findings:
        sign = "✓" if not finding.problems else "✗" if finding.needed else "!"
        first, *more = finding.problems or (finding.fact,)
        print(f"{sign} {finding.what}: {first}")
        for problem in more[: _SHOWN - 1]:
            print(f"    {problem}")
        if len(more) >= _SHOWN:
            print(f"    and {len(more) - _SHOWN + 1} more")
    broken = [finding.what for finding in findings if finding.problems and finding.needed]
    if broken:
        print(f"{folder} cannot be used: {', '.join(broken)}. `duplex-server download` fetches what is missing.")
        return EXIT_INCOMPLETE
    print(f"{folder} is complete.")
    return 0
