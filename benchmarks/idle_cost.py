"""What a conversation costs in which nobody speaks: CPU per session and second, and memory per session.

The microphones hear a quiet room (noise at −60 dBFS), so that voice detection has something to do. CPU and memory are
those of the server's process and of all its children, with the sessions and without. Run:

    python -m benchmarks.idle_cost
    python -m benchmarks.idle_cost --sessions 10 --seconds 30 --transport websocket

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import psutil

from benchmarks import noise, plots
from benchmarks.participant import joined
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.server import Usage, running, usage
from duplex_server.client import TransportName

TARGETS = (
    Target("model_cpu_ms", "max", "<=", 12.0),
    Target("session_memory_mb", "max", "<=", 20.0),
)
ROOM_DB = -60.0
_SETTLE_S = 3.0
_TALKERS_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=10, metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long each state is measured")
    parser.add_argument("--transport", choices=["webrtc", "websocket"], default="webrtc")
    parser.add_argument("--muted", action="store_true", help="microphones that send digital silence")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    with running(["-m", "duplex_server", "serve"], []) as (url, process):
        empty, idle = asyncio.run(_measure(url, process, asked))
    return _report(empty, idle, asked)


async def _measure(
    url: str, process: psutil.Process, asked: argparse.Namespace
) -> tuple[tuple[Usage, Usage], tuple[Usage, Usage]]:
    """Return what was used at the beginning and end, without sessions and with them."""
    progress = Progress(asked.sessions + 3)
    async with joined(url, cast(TransportName, asked.transport)):  # what is loaded for the first session is not its own
        await asyncio.sleep(_TALKERS_S)
    await asyncio.sleep(_SETTLE_S)
    progress.step("warmed up")
    before = usage(process)
    await asyncio.sleep(asked.seconds)
    empty = before, usage(process)
    progress.step("no conversation")
    async with AsyncExitStack() as stack:
        for number in range(asked.sessions):
            someone = await stack.enter_async_context(joined(url, cast(TransportName, asked.transport), seed=number))
            if not asked.muted:
                someone.surround(noise.pink(10.0, ROOM_DB, seed=number))
            progress.step("joined")
        await asyncio.sleep(_SETTLE_S)
        before = usage(process)
        await asyncio.sleep(asked.seconds)
        idle = before, usage(process)
        progress.step("nobody spoke")
    return empty, idle


def _report(empty: tuple[Usage, Usage], idle: tuple[Usage, Usage], asked: argparse.Namespace) -> int:
    session_seconds = asked.sessions * asked.seconds
    roles = sorted(idle[1].cpu_s)
    costs_ms = {
        role: 1000
        * (
            (idle[1].cpu_s[role] - idle[0].cpu_s.get(role, 0.0))
            - (empty[1].cpu_s.get(role, 0.0) - empty[0].cpu_s.get(role, 0.0))
        )
        / session_seconds
        for role in roles
    }
    figures = Figures()
    for role in roles:
        figures.add(f"{role}_cpu_ms", costs_ms[role], "per session and second")
    figures.add("whole_cpu_ms", sum(costs_ms.values()), "per session and second")
    memory_mb = (idle[1].memory_bytes - empty[1].memory_bytes) / asked.sessions / 1e6
    figures.add("session_memory_mb", memory_mb, "with the sessions less without, by their number")
    figures.add("empty_memory_mb", empty[1].memory_bytes / 1e6, "without sessions")
    room = "digital silence" if asked.muted else f"room noise at {ROOM_DB:.0f} dBFS"
    print(f"\n{asked.sessions} idle conversations over {asked.transport}, {room}\n")
    rows = [(name, f"{values[0]:.2f}") for name, values in sorted(figures.values.items())]
    print_table(("per session and second, or in all", ""), rows)
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    content = {"transport": asked.transport, "sessions": asked.sessions, "room": room, "figures": figures.to_json()}
    save(asked.out / f"idle_cost_{asked.transport}.json", content, checks)
    title = f"{asked.sessions} idle conversations over {asked.transport}, {room}"
    plots.idle_cost(asked.out / f"idle_cost_{asked.transport}.png", costs_ms, checks, title)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
