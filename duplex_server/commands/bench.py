"""``duplex-server bench``: how fast a checkpoint runs here, stage by stage, and how many conversations it holds."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duplex_server.commands.stages import Stages

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.benching import UnitFigures
    from duplex_server.models.minicpmo.model import MiniCPMO
    from duplex_server.models.minicpmo.parts import Parts
    from duplex_server.types import SessionSetup

__all__ = ["bench_parts", "describe", "plot", "run", "show"]

GIB = 1 << 30
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Conversations that are tried, until they are no longer held."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Measure a MiniCPM-o checkpoint: encoding, decoding, each stage of a unit, memory, and how many conversations "
        "are held in real time (95 % of units answered within 0.7 s). What is heard and seen is made up."
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    add("--device", default="", help="as torch spells it; the first GPU, or else the processor")
    add(
        "--units",
        type=int,
        default=10,
        metavar="N",
        help="seconds of conversation for each figure; default %(default)s",
    )
    add("--most", type=int, default=COUNTS[-1], metavar="N", help="most conversations to try; default %(default)s")
    add("--flow-steps", type=int, default=5, metavar="N", help="of the speech synthesis; default %(default)s")
    add("--out", type=Path, metavar="DIR", help="folder for bench.json and, with matplotlib, bench.png")


def run(asked: argparse.Namespace) -> int:
    """Measure, print, write, and return the exit status."""
    from duplex_server.models.minicpmo.config import read_config
    from duplex_server.models.minicpmo.parts import best_device, best_dtype, choose_kernels, load_parts
    from duplex_server.models.minicpmo.placement import Placement

    device = asked.device or best_device()
    if device.startswith("cuda"):
        choose_kernels()
    placement = Placement.single(device, read_config(asked.checkpoint).llm.num_hidden_layers)
    begun_s = time.perf_counter()
    parts = load_parts(asked.checkpoint, placement, dtype=best_dtype(device), flow_steps=asked.flow_steps)
    loading_s = time.perf_counter() - begun_s
    counts = [count for count in COUNTS if count <= asked.most]
    figures = bench_parts(parts, device, counts, asked.units)
    planned_bytes = _planned(asked, figures["most_tried"])
    figures |= {"checkpoint": str(asked.checkpoint), "loading_s": loading_s, "planned_bytes": planned_bytes}
    show(figures)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
        plot(figures, asked.out / "bench.png")
    return 0


def bench_parts(
    parts: Parts,
    device: str,
    counts: Sequence[int],
    units: int,
    *,
    setup: SessionSetup | None = None,
    rest: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure what was loaded.

    Args:
        parts: all of a checkpoint.
        device: where it is.
        counts: conversations to try, ascending.
        units: seconds of conversation for each figure.
        setup: of each conversation.
        rest: called before each unit.

    Returns:
        figures as plain values.
    """
    from duplex_server.models.minicpmo import benching

    on_gpu = device.startswith("cuda")
    stages = Stages()
    encoding = dict(benching.encoding_s(parts))

    def decoded(n: int) -> float:
        return benching.decoding_tokens_per_s(parts, n, together=on_gpu, recorded=on_gpu)

    decoding = dict([benching.most_that_fit(counts, decoded)])
    decoding = {1: decoding[1] if 1 in decoding else decoded(1)} | decoding
    measured: list[UnitFigures] = []
    held: dict[str, int] = {}
    sees = parts.vision is not None

    def made(rows: int) -> MiniCPMO:
        return benching.model_to_measure(parts, rows, stages.ended, frames=sees, together=on_gpu, recorded=on_gpu)

    most, model = benching.most_that_fit(counts, made)
    for kind in benching.KINDS:
        if kind.startswith("omni") and not sees:
            continue
        held[kind] = 0
        for count in counts[: counts.index(most) + 1]:
            found = benching.measure_units(model, kind, count, units, stages.take, setup=setup, rest=rest)
            measured.append(found)
            if not found.held:
                break
            held[kind] = count
    return {
        "device": device,
        "encoding_s": encoding,
        "decoding_tokens_per_s": decoding,
        "units": [asdict(found) for found in measured],
        "conversations_held": held,
        "most_tried": most,
        "peak_bytes": benching.peak_memory_bytes([device]),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    if "loading_s" in figures:
        print(f"loading: {figures['loading_s']:.1f} s")
    for what, seconds in figures["encoding_s"].items():
        with_loading = f", {seconds + figures['loading_s']:.1f} s with loading" if "loading_s" in figures else ""
        print(f"encoding {what}: {1000 * seconds:.1f} ms{with_loading}")
    for rows, speed in figures["decoding_tokens_per_s"].items():
        print(f"decoding, {rows} together: {speed:.0f} tokens/s")
    names = list(dict.fromkeys(name for unit in figures["units"] for name in unit["stages_s"]))
    head = "".join(f"{name:>14}" for name in names)
    print(f"\nms per unit     conversations   p50   p95   RTF{head}")
    for unit in figures["units"]:
        stages = "".join(f"{1000 * unit['stages_s'].get(name, 0):14.1f}" for name in names)
        took = f"{1000 * unit['p50_s']:6.0f}{1000 * unit['p95_s']:6.0f}{unit['p50_s']:6.2f}"
        print(f"{unit['kind']:<16}{unit['conversations']:>13}{took}{stages}")
    print()
    for kind, count in figures["conversations_held"].items():
        print(f"held in real time, {kind}: {count}{' or more' if count == figures['most_tried'] else ''}")
    print(f"most conversations that were tried, and had memory: {figures['most_tried']}")
    planned = figures.get("planned_bytes")
    beside = f", planned {planned / GIB:.1f} GiB for as many in 16 bits" if planned else ""
    print(f"most memory: {figures['peak_bytes'] / GIB:.1f} GiB{beside}")


def plot(figures: dict[str, Any], file: Path) -> None:
    """Draw latency over conversations, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot: matplotlib is not installed.")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for kind in figures["conversations_held"]:
        units = [unit for unit in figures["units"] if unit["kind"] == kind]
        counts = [unit["conversations"] for unit in units]
        axes.plot(counts, [1000 * unit["p95_s"] for unit in units], marker="o", label=kind)
    axes.axhline(700, color="grey", linestyle=":", label="held in real time below")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("conversations")
    axes.set_ylabel("95 % of units within, ms")
    axes.legend()
    figure.savefig(file, dpi=120)


def _planned(asked: argparse.Namespace, conversations: int) -> int:
    """Bytes that the plan counts in 16 bits, weights included."""
    from duplex_server.models.minicpmo.memory import Conversation, measure

    return measure(asked.checkpoint, Conversation(flow_steps=asked.flow_steps)).planned_bytes(conversations)
