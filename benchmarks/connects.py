"""Whether calls leave anything behind: file descriptors, threads and memory of the server over many of them.

Calls come and go, a few at a time; what the server's process holds is noted between rounds, when none stands. Then a
process with several calls is killed, and it is timed how long the server takes them for calls. Run:

    python -m benchmarks.connects
    python -m benchmarks.connects --calls 100

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.server import running, usage
from duplex_server.client import connect

__all__ = ["come_and_go", "connections"]

TARGETS = (
    Target("descriptors_left", "max", "<=", 2),
    Target("threads_left", "max", "<=", 1),
    Target("memory_per_call_kb", "max", "<=", 5),
    Target("vanished_s", "max", "<=", 10.0),
)
_ROUNDS = 10
_POOLED_ROUNDS = 4
"""The allocator's pools grow during the first few hundred calls; what grows after these rounds is a leak."""
_AT_A_TIME = 4
_WARM_UP_CALLS = 40
"""Before the first look: pools of threads grow to what so many calls at a time need."""
_SETTLE_S = 4.0
"""A call that ends confirms its last events and says farewell; a server may take so long."""
_VANISHING = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connects", description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=3000, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    parser.add_argument("--hold", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.hold:
        asyncio.run(_hold(asked.hold))
        return 0
    figures = Figures()
    rows = []
    with running(["-m", "duplex_server", "serve"], []) as (url, process):
        progress = Progress(_ROUNDS + 2)
        asyncio.run(come_and_go(url, _WARM_UP_CALLS, _AT_A_TIME))
        rows.append(_look(url, process, 0))
        progress.step("warmed up")
        for number in range(1, _ROUNDS + 1):
            used = usage(process).cpu_s["server"]
            times_s = asyncio.run(come_and_go(url, asked.calls // _ROUNDS, _AT_A_TIME))
            for time_s in times_s:
                figures.add("connect_s", time_s, f"round {number}")
            figures.add("call_cpu_ms", 1000 * (usage(process).cpu_s["server"] - used) / len(times_s), f"round {number}")
            rows.append(_look(url, process, number * (asked.calls // _ROUNDS)))
            progress.step(f"{rows[-1][0]} calls")
        figures.add("vanished_s", _vanish(url), f"{_VANISHING} calls whose process was killed")
        progress.step("vanished")
    (_, descriptors, threads, _), pooled, last = rows[0], rows[_POOLED_ROUNDS], rows[-1]
    figures.add("descriptors_left", last[1] - descriptors, "after all calls, less after the first")
    figures.add("threads_left", last[2] - threads, "likewise")
    later_calls = max(1, last[0] - pooled[0])
    figures.add("memory_per_call_kb", 1000 * (last[3] - pooled[3]) / later_calls, f"from call {pooled[0]} on")
    print()
    print_table(("after calls", "descriptors", "threads", "memory MB"), [(*row[:3], f"{row[3]:.1f}") for row in rows])
    print()
    print_table(("", "n", "p50", "p95", "max"), figures.table(["connect_s", "vanished_s"]))
    print(f"\nCPU of the server per call, p50: {figures.statistic('call_cpu_ms', 'p50'):.1f} ms\n")
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    save(asked.out / "connects.json", {"calls": asked.calls, "rows": rows, "figures": figures.to_json()}, checks)
    return 0 if met else 1


async def come_and_go(url: str, n_calls: int, at_a_time: int) -> list[float]:
    """Call and hang up; return how long each took until its session had begun, s."""
    waiting = iter(range(n_calls))
    times_s: list[float] = []

    async def caller() -> None:
        for _ in waiting:
            began_s = time.perf_counter()
            async with connect(url, transport="webrtc", resume=False):
                times_s.append(time.perf_counter() - began_s)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_a_time):
            tasks.create_task(caller())
    return times_s


def connections(url: str) -> int:
    """Return how many calls stand, by the server's own count."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:
        for line in response.read().decode().splitlines():
            if line.startswith('duplex_connections{transport="webrtc"}'):
                return int(float(line.split(" ")[1]))
    return 0


def _look(url: str, process: psutil.Process, n_calls: int) -> tuple[int, int, int, float]:
    """Return what the server holds when no call stands any more."""
    give_up_s = time.monotonic() + _SETTLE_S
    while connections(url) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    return n_calls, process.num_fds(), process.num_threads(), process.memory_full_info().uss / 1e6


def _vanish(url: str) -> float:
    """Return how long after the death of its peers the server has ended their calls, s."""
    command = [sys.executable, "-m", "benchmarks.connects", "--hold", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as peers:
        assert peers.stdout is not None
        peers.stdout.readline()
        peers.kill()
        died_s = time.monotonic()
        while connections(url) and time.monotonic() < died_s + 60:
            time.sleep(0.1)
        return time.monotonic() - died_s


async def _hold(url: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        standing: asyncio.Queue[None] = asyncio.Queue(_VANISHING)

        async def call() -> None:
            async with connect(url, transport="webrtc"):
                standing.put_nowait(None)
                await asyncio.sleep(3600)

        for _ in range(_VANISHING):
            tasks.create_task(call())
        for _ in range(_VANISHING):
            await standing.get()
        print("calls stand", flush=True)


if __name__ == "__main__":
    sys.exit(main())
