"""What the way to a worker and back costs, with a model that does nothing: CPU per idle session-second.

    python -m benchmarks.engine_hop [--seconds 20]

Each session pushes one unit every 40 ms and reads what comes back, as an idle conversation does. CPU is what the
scheduler counted for all threads of this process and of the worker (``/proc/*/task/*/schedstat``), less what the same
sessions cost here when they only keep time. ``apart``: the sessions' clocks are spread over the unit; ``in step``: they
tick together, so that their units share messages and steps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import uvloop

from duplex_server.engine.base import Engine, Slot
from duplex_server.engine.local import ThreadEngine
from duplex_server.engine.processes import ProcessEngine
from duplex_server.models.base import RowOutput, RowUnit
from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit

UNIT_S = 0.04
WARM_UP_S = 2.0


class Listener:
    """Listens to everything and says nothing."""

    def __init__(self, _rows: int) -> None:
        self.spec = ModelSpec(name="listener", unit_ms=40)

    def open(self, row: int, setup: SessionSetup) -> None: ...

    def configure(self, row: int, setup: SessionSetup) -> None: ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        for row_unit in batch:
            yield RowOutput(row_unit.row, ModelOutput(turn=0, listening=True))

    def cancel(self, row: int, turn: int, played_samples: int) -> None: ...

    def close(self, row: int) -> None: ...


class NoSlot:
    """A session that only keeps time."""

    async def push(self, unit: Unit) -> None: ...


async def live(slot: Slot | NoSlot, phase_s: float) -> None:
    loop = asyncio.get_running_loop()
    audio = np.zeros(640, np.float32)
    deadline_s, index = loop.time() + phase_s, 0
    while True:
        await asyncio.sleep(deadline_s - loop.time())
        await slot.push(Unit(index, audio))
        deadline_s, index = deadline_s + UNIT_S, index + 1


async def read(slot: Slot) -> None:
    async for _ in slot.outputs():
        pass


def cpu_s(pids: Sequence[int]) -> float:
    """Time on a processor of all threads. Source: Documentation/scheduler/sched-stats.rst, first field, ns."""
    stats = [stat for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def children() -> list[int]:
    me = str(os.getpid())
    stats = {path: path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")}
    return [int(path.parent.name) for path, fields in stats.items() if fields[1] == me]


async def cost_ms(engine: Engine | None, n_sessions: int, spread: bool, seconds: float) -> tuple[float, float]:
    """CPU per session-second, ms: of this process, of the workers."""
    slots = [await engine.open(SessionSetup()) if engine else NoSlot() for _ in range(n_sessions)]
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number, slot in enumerate(slots):
            # 0.618: spread evenly, but never exactly, over the unit.
            phase_s = UNIT_S * ((number * 0.618) % 1) if spread else 0.0
            tasks.append(group.create_task(live(slot, phase_s)))
            if not isinstance(slot, NoSlot):
                tasks.append(group.create_task(read(slot)))
        await asyncio.sleep(WARM_UP_S)
        workers = children()
        before = cpu_s([os.getpid()]), cpu_s(workers)
        await asyncio.sleep(seconds)
        after = cpu_s([os.getpid()]), cpu_s(workers)
        for task in tasks:
            task.cancel()
    for slot in slots:
        if not isinstance(slot, NoSlot):
            await slot.aclose()
    here, there = (1000 * (now - then) / seconds / n_sessions for now, then in zip(after, before, strict=True))
    return here, there


async def measure(seconds: float) -> None:
    kinds: dict[str, Callable[[], ThreadEngine | ProcessEngine]] = {
        "process": lambda: ProcessEngine("benchmarks.engine_hop:Listener", rows=16, workers=1),
        "thread": lambda: ThreadEngine(Listener, rows=16),
    }
    print("| engine | sessions | clocks | server ms | worker ms | timers alone ms | hop ms per session-second |")
    print("|---|---|---|---|---|---|---|")
    for kind, build in kinds.items():
        async with build() as engine:
            for n_sessions, spread in ((1, False), (8, True), (8, False), (16, True), (16, False)):
                timers, _ = await cost_ms(None, n_sessions, spread, seconds / 2)
                here, there = await cost_ms(engine, n_sessions, spread, seconds)
                clocks = "apart" if spread else "in step"
                print(
                    f"| {kind} | {n_sessions} | {clocks} | {here:.2f} | {there:.2f} | {timers:.2f} "
                    f"| {here + there - timers:.2f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    arguments = parser.parse_args()
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(arguments.seconds))


if __name__ == "__main__":
    main()
