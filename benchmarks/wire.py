"""What an event on the wire costs: CPU of the JSON WebSocket path, and of the codec alone.

*Path*: clients that offer deflate, as browsers do, send 20 ms of sound in an event, 50 times a second, and get as much
sound back. Our application (routes, transport, dialogue, codec; no model), which declines deflate and sends sound in
chunks of 100 ms as its sessions do, is held against FastAPI with ``json`` and ``base64``, which answers each event, on
the same uvicorn: as it comes, and with deflate turned off. Beside them stand the websockets library alone, and both
with PCM16 as bytes, which is what framing costs without events. All run at once and are measured in turns, so that a
busy machine disturbs them alike.

*Codec*: the events of one second of speech both ways, against openai-python's pydantic models. Run:

    python -m benchmarks.wire

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import plots
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.server import running
from benchmarks.wire_codec import CodecCost, codec_costs

TARGETS = (
    Target("share_of_plain", "p50", "<=", 0.6),
    Target("share_of_plain_undeflated", "p50", "<=", 0.6),
    Target("codec_speedup", "p50", ">=", 5.0),
)
_SERVERS = {
    "ours": ["ours"],
    "plain": ["plain", "--deflate"],
    "plain_undeflated": ["plain"],
    "websockets": ["bare"],
    "plain_binary": ["plain", "--binary"],
    "websockets_binary": ["bare", "--binary"],
}
_EVENTS_PER_S = 50
_EVENT_MS = 1000 // _EVENTS_PER_S
_SETTLE_S = 0.5
_LARGEST_CHUNK_S = 0.1
_SPEECH_SECOND = {"decode append, 20 ms": 50, "encode audio delta, 20 ms": 50, "encode transcript delta": 3}
"""How many of which events one second of a conversation has in which both speak: 180 words a minute."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=20, metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="length of one turn")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each server")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    figures = Figures()
    with ExitStack() as started:
        servers = {
            name: started.enter_context(running(["-m", "benchmarks.wire_echo", *words], []))
            for name, words in _SERVERS.items()
        }
        asyncio.run(_measure(servers, figures, asked))
    costs = codec_costs()
    speedup = _of_a_second(costs, "theirs_us") / _of_a_second(costs, "ours_us")
    figures.add("codec_speedup", speedup, "one second of speech both ways")
    return _report(figures, costs, asked)


def _of_a_second(costs: Sequence[CodecCost], whose: str) -> float:
    """Return what the events of a second cost, µs."""
    return sum(_SPEECH_SECOND.get(cost.name, 0) * float(getattr(cost, whose)) for cost in costs)


async def _measure(servers: dict[str, tuple[str, psutil.Process]], figures: Figures, asked: argparse.Namespace) -> None:
    """Let clients speak to the servers in turns, and note what that costs."""
    progress = Progress(asked.rounds + 1)
    for warm_up in (True, *[False] * asked.rounds):
        costs_ms = {}
        for name, (url, process) in servers.items():
            costs_ms[name] = await _cpu_ms(url, process, asked, binary=name.endswith("_binary"))
        if not warm_up:
            for name, cost_ms in costs_ms.items():
                figures.add(f"{name}_cpu_ms", cost_ms, "per session and second")
            for name in ("plain", "plain_undeflated"):
                figures.add(f"share_of_{name}", costs_ms["ours"] / costs_ms[name], "of its CPU")
        progress.step("warmed up" if warm_up else "a turn of each")


async def _cpu_ms(url: str, process: psutil.Process, asked: argparse.Namespace, *, binary: bool) -> float:
    """Return the CPU time that a server used per session and second, ms."""
    sound = np.random.default_rng(7).integers(-8000, 8000, 24 * _EVENT_MS, dtype=np.int16).tobytes()
    event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(sound).decode()}
    message = sound if binary else json.dumps(event)
    address = url.replace("http", "ws") + "/v1/realtime"
    sockets = [await connect(address) for _ in range(asked.sessions)]
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(_count(socket)) for socket in sockets]
            await asyncio.sleep(_SETTLE_S)
            before = process.cpu_times()
            await _speak(sockets, message, round(asked.seconds * _EVENTS_PER_S))
            after = process.cpu_times()
            for socket in sockets:
                await socket.close()
    finally:
        for socket in sockets:
            await socket.close()
    due_s, least_s = asked.seconds - _LARGEST_CHUNK_S, min(task.result() for task in reading)
    assert least_s >= due_s, f"{least_s:.2f} s of sound came back of {due_s:.2f} s"
    used_s = after.user + after.system - before.user - before.system
    return float(1000 * used_s / asked.sessions / asked.seconds)


async def _speak(sockets: Sequence[ClientConnection], message: str | bytes, n_events: int) -> None:
    """Send events at real-time pace, and wait until what comes back must have come."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for n in range(n_events):
        for socket in sockets:
            await socket.send(message)
        await asyncio.sleep(began_s + (n + 1) / _EVENTS_PER_S - loop.time())
    await asyncio.sleep(_SETTLE_S)


async def _count(socket: ClientConnection) -> float:
    """Read until the connection is closed; return how much sound came, in seconds."""
    n_bytes = 0
    async for message in socket:
        if isinstance(message, bytes):
            n_bytes += len(message)
            continue
        event = json.loads(message)
        if event["type"] == "response.output_audio.delta":
            n_bytes += len(base64.b64decode(event["delta"]))
    return n_bytes / 48_000


def _report(figures: Figures, costs: Sequence[CodecCost], asked: argparse.Namespace) -> int:
    print(f"\n{asked.sessions} clients, {_EVENTS_PER_S} events of {_EVENT_MS} ms a second\n")
    median = {name: float(np.median(figures.values[f"{name}_cpu_ms"])) for name in _SERVERS}
    rows = [(f"{name}, CPU ms per session and second", f"{cost:.2f}") for name, cost in median.items()]
    print_table(("path", "median"), rows)
    print()
    print_table(
        ("codec", "ours µs", "json + pydantic µs", "pydantic's JSON µs"),
        [(cost.name, f"{cost.ours_us:.1f}", f"{cost.theirs_us:.1f}", f"{cost.theirs_json_us:.1f}") for cost in costs],
    )
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    content = {
        "sessions": asked.sessions,
        "figures": figures.to_json(),
        "codec_us": {cost.name: [cost.ours_us, cost.theirs_us, cost.theirs_json_us] for cost in costs},
    }
    save(asked.out / "wire.json", content, checks)
    plots.idle_cost(asked.out / "wire.png", median, checks, "A second of sound both ways over a WebSocket")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
