"""``duplex-server parity``: the engine against recorded runs of the official code, stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EXIT_DIFFERENT", "describe", "run"]

EXIT_DIFFERENT = 1


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Compare this engine with recorded runs of the official code: every golden_NAME.npz in a folder, with its "
        "scenario_NAME.json and inputs_NAME.npz. Everything is computed in float32. Prints the largest difference of "
        "each stage and how many ids differ; exits with 1 where a difference is more than rounding."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder that the goldens were made with")
    parser.add_argument("goldens", type=Path, metavar="GOLDENS_DIR", help="folder of goldens")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch spells it; default %(default)s")
    parser.add_argument("--only", metavar="NAME", help="one golden instead of all")


def run(asked: argparse.Namespace) -> int:
    """Print a line for each stage of each golden and return the exit status."""
    from duplex_server.models.minicpmo.parity import LIMITS, compare_all

    print(f"{'golden':<16}{'stage':<20}{'compared':>10}{'worst':>10}{'limit':>10}{'differ':>8}")
    different = 0
    for stage in compare_all(asked.checkpoint, asked.goldens, asked.device, asked.only):
        numbers = LIMITS[stage.stage] > 0
        worst = f"{stage.worst:.1e}" if numbers else "–"
        limit = f"{LIMITS[stage.stage]:.0e}" if numbers else "–"
        ids = "–" if numbers else str(stage.differing)
        sign = "✓" if stage.fits else f"✗ {stage.where}"
        print(
            f"{stage.golden:<16}{stage.stage:<20}{stage.compared:>10}{worst:>10}{limit:>10}{ids:>8}  {sign}", flush=True
        )
        different += not stage.fits
    if different:
        print(f"{different} stages differ by more than rounding.")
        return EXIT_DIFFERENT
    print("Everything agrees.")
    return 0
