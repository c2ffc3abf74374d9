"""How long the server's event loop stalls while eight conversations speak, beyond what the machine itself stalls.

The same timer runs in the server's loop and in a process that does nothing else (:mod:`benchmarks.lateness`). Every
participant has stories told one after the other, over a real transport. Run:

    python -m benchmarks.loop_stall
    python -m benchmarks.loop_stall --sessions 8 --seconds 60 --transport websocket

Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from benchmarks import lateness, plots
from benchmarks.analysis import percentile
from benchmarks.participant import joined
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.scenarios import Clip, NoStory, keep_talking
from benchmarks.server import running
from benchmarks.speech import VOICES, Mouth
from benchmarks.turn_taking import REQUEST
from duplex_server.client import TransportName

TARGETS = (Target("excess_p99.9_s", "max", "<=", 0.010),)
_PERCENTS = (50.0, 99.0, 99.9, 100.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if the target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_stall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=8, metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long they speak")
    parser.add_argument("--transport", choices=["webrtc", "websocket"], default="webrtc")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    transport = cast(TransportName, asked.transport)
    with tempfile.TemporaryDirectory() as folder, Mouth() as mouth:
        probe, control = Path(folder) / "server", Path(folder) / "control"
        resting = [sys.executable, "-m", "benchmarks.lateness", "rest", str(control)]
        with subprocess.Popen(resting) as process:
            with running(["-m", "benchmarks.lateness", "serve", str(probe), "serve"], []) as (url, _):
                clips = [Clip(REQUEST, mouth.say(REQUEST, voice)) for voice in VOICES[:3]]
                times_s, spoken_s = asyncio.run(_load(url, transport, clips, asked.sessions, asked.seconds))
            process.terminate()
        records = {"server": lateness.read(probe), "nothing but a timer": lateness.read(control)}
    return _report(records, times_s, spoken_s, asked)


def _report(
    records: dict[str, npt.NDArray[np.float64]],
    times_s: tuple[float, float, float],
    spoken_s: float,
    asked: argparse.Namespace,
) -> int:
    began_s, joined_s, ended_s = times_s
    curves = {
        "server, speaking": lateness.window(records["server"], joined_s, ended_s),
        "server, conversations joining": lateness.window(records["server"], began_s, joined_s),
        "nothing but a timer": lateness.window(records["nothing but a timer"], joined_s, ended_s),
    }
    rows = [
        (label, len(late), *(f"{1000 * percentile(late.tolist(), percent):.1f} ms" for percent in _PERCENTS))
        for label, late in curves.items()
    ]
    figures = Figures()
    speaking, resting = curves["server, speaking"].tolist(), curves["nothing but a timer"].tolist()
    figures.add("excess_p99.9_s", percentile(speaking, 99.9) - percentile(resting, 99.9), "server less machine")
    figures.add("worst_s", max(speaking), "server")
    print(f"\n{asked.sessions} conversations over {asked.transport}; the models spoke {spoken_s:.0f} s in all\n")
    print_table(("lateness of a timer in", "timers", "p50", "p99", "p99.9", "max"), rows)
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    content = {"transport": asked.transport, "sessions": asked.sessions, "rows": rows, "spoken_s": spoken_s}
    save(asked.out / f"loop_stall_{asked.transport}.json", content, checks)
    title = f"Event loop under {asked.sessions} speaking conversations over {asked.transport}"
    plots.loop_stall(asked.out / f"loop_stall_{asked.transport}.png", curves, checks, title)
    return 0 if met else 1


async def _load(
    url: str, transport: TransportName, clips: Sequence[Clip], sessions: int, seconds: float
) -> tuple[tuple[float, float, float], float]:
    """Let so many participants have stories told; returns (began, all joined, ended) and how long was spoken, s."""
    progress = Progress(sessions)
    spoken_s = 0.0
    began_s = time.monotonic()
    joined_s = began_s
    all_in = asyncio.Event()
    n_joined = 0

    async def converse(number: int) -> None:
        nonlocal spoken_s, n_joined, joined_s
        await asyncio.sleep(0.4 * number)
        try:
            async with joined(url, transport, seed=number) as someone:
                n_joined += 1
                if n_joined == sessions:
                    joined_s = time.monotonic()
                    all_in.set()
                await all_in.wait()
                told_s = await keep_talking(someone, clips[number % len(clips)], seconds)
                spoken_s += told_s  # in a statement of its own: `+=` reads its left side before it waits
        except* NoStory as group:
            sys.stderr.write(f"\n{group.exceptions[0]}\n")
        progress.step("spoke")

    async with asyncio.TaskGroup() as tasks:
        for number in range(sessions):
            tasks.create_task(converse(number))
    return (began_s, joined_s, joined_s + seconds), spoken_s


if __name__ == "__main__":
    sys.exit(main())
