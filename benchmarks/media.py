"""What a media server holds on one core: ours, plain aiortc, fastrtc and pipecat, at the same work, in one run.

Each server gets a voice as 20 ms Opus packets of a browser, decodes it, and sends it back as speech at 24 kHz. It runs
alone on one core, its callers on another. The number of calls rises until sound has gaps for more than 1 % of the time
(for a listener who buffers 60 ms), or comes back more than 400 ms later for one piece in twenty; what was held in a
short step must then be held for two minutes. Run:

    python -m benchmarks.media --quick
    python -m benchmarks.media --only ours aiortc --step-seconds 120
    python -m benchmarks.media --only ours --duty 0.4
    python -m benchmarks.media --only ours whole aiortc --camera
    python -m benchmarks.media --loss
    python -m benchmarks.media --websocket

The servers of others are installed the first time, into environments of their own (``--envs``). Exits with 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from benchmarks import wire
from benchmarks.media_call import NoCall
from benchmarks.media_load import Plan, measure, photograph, pin
from benchmarks.media_loss import CONDITIONS, PAUSE_S, SENTENCES, Speech, endure
from benchmarks.media_report import STEP_HEADINGS, Outcome, markdown, plot, print_outcomes, step_row
from benchmarks.media_servers import ENVIRONMENTS, SERVERS, CannotInstall, Server, environment, started, version
from benchmarks.media_speech import Track, endless, spoken
from benchmarks.media_steps import held, next_sessions
from benchmarks.report import machine, print_checks, save
from benchmarks.results import Check, Figures, Target
from benchmarks.server import ServerDied

_SHORT_STEP_S, _SETTLE_S, _MOST_STEPS = 12.0, 3.0, 8
_STEP_S = 120.0
_SECOND_TRIES = 2
"""Of a step in which something else on the machine kept the callers from sending in time."""
_ENDURING = ("ours", "aiortc")
"""Servers that are put through bad networks."""
_CLOSE_DELAY_S = 0.1
"""What ours should add at most, from wire to wire, for 95 % of a voice."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    asked = _command_line().parse_args(arguments)
    if asked.websocket:
        return wire.main(["--out", str(asked.out), *(["--rounds", "3"] if asked.quick else [])])
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    server_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    told = machine()
    _say(f"{told['system']}, Python {told['python']}, {told['cores']} cores, load average {told['load']:.2f}")
    _say("server and callers are on a core each" if len(cores) > 1 else "too few cores: server and callers share them")
    outcomes, pythons = _install(asked)
    pin(load_core)
    if asked.loss:
        _endure_all(asked, outcomes, pythons, server_core)
    else:
        track = endless(asked.duty)
        for name, python in pythons.items():
            _search(SERVERS[name], outcomes[name], python, server_core, track, asked)
            _save(asked, outcomes)
    print_outcomes(outcomes)
    print()
    return 0 if print_checks(_save(asked, outcomes)) else 1


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="SERVER", help=" ".join(SERVERS)
    )
    parser.add_argument("--step-seconds", type=float, default=_STEP_S, metavar="S", help="how long the most is held")
    parser.add_argument("--duty", type=float, default=1.0, metavar="SHARE", help="of the time that callers speak")
    parser.add_argument("--camera", action="store_true", help="each caller sends a picture a second, too")
    parser.add_argument("--loss", action="store_true", help="bad networks instead of many calls")
    parser.add_argument("--websocket", action="store_true", help="sound over WebSockets instead: benchmarks.wire")
    parser.add_argument("--quick", action="store_true", help="short steps only, 15 minutes for all servers")
    parser.add_argument("--first", type=int, metavar="N", help="calls to begin with")
    parser.add_argument("--most", type=int, default=160, metavar="N", help="calls that are tried at most")
    parser.add_argument("--seed", type=int, default=1, help="of what bad networks do")
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS, metavar="FOLDER", help="where servers are installed")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    return parser


def _install(asked: argparse.Namespace) -> tuple[dict[str, Outcome], dict[str, Path]]:
    """Make an environment for each server; one that cannot be had is reported, and the others go on."""
    outcomes, pythons = {}, {}
    for name in asked.only:
        server = SERVERS[name]
        if (asked.loss and name not in _ENDURING) or (asked.camera and not server.takes_pictures):
            continue
        outcomes[name] = outcome = Outcome(server.title)
        try:
            pythons[name] = environment(name, server, asked.envs, _say)
        except CannotInstall as error:
            outcome.error = f"could not be installed: {error}"
            _say(f"{server.title} {outcome.error}")
            continue
        outcome.version = version(server, pythons[name])
    return outcomes, pythons


def _search(
    server: Server, outcome: Outcome, python: Path, core: int | None, track: Track, asked: argparse.Namespace
) -> None:
    """Find the most calls that a server holds, by short steps, and see that it holds them for long.

    Each step gets a server that is new.
    """
    picture = photograph() if asked.camera else None
    first, tries_left = asked.first or server.first, _SECOND_TRIES
    _say(f"\n{outcome.title} {outcome.version}\n  {'  '.join(STEP_HEADINGS)}")
    while True:
        seconds = _SHORT_STEP_S
        n_sessions = next_sessions(outcome.steps, first=first, most=asked.most, most_steps=_MOST_STEPS)
        if n_sessions is None:
            best = held(outcome.steps)
            if asked.quick or best is None or best.seconds >= asked.step_seconds:
                return
            n_sessions, seconds = best.n_sessions, asked.step_seconds
        plan = Plan(track, seconds, _SETTLE_S, picture)
        try:
            with started(server, python, core) as (url, process), asyncio.Runner(loop_factory=_LOOP) as runner:
                step = runner.run(measure(url, process, server.door, n_sessions, plan))
        except (ServerDied, NoCall, OSError) as error:
            outcome.error = f"failed at {n_sessions} calls: {error}"
            _say(outcome.error)
            return
        _say("  " + "  ".join(step_row(step)))
        if step.disturbed and not step.good and tries_left:
            _say("  the callers were late themselves: once more")
            tries_left -= 1
            continue
        outcome.steps.append(step)
        tries_left = _SECOND_TRIES


def _endure_all(
    asked: argparse.Namespace, outcomes: dict[str, Outcome], pythons: dict[str, Path], core: int | None
) -> None:
    """Put servers through bad networks, one after the other."""
    sentences = SENTENCES * (1 if asked.quick else 3)
    track, spans_s = spoken(sentences, PAUSE_S)
    speech = Speech(track, sentences, tuple(spans_s))
    for name, python in pythons.items():
        server, outcome = SERVERS[name], outcomes[name]
        _say(f"{outcome.title} {outcome.version}: {len(CONDITIONS)} networks, {speech.length_s:.0f} s each, at once")
        try:
            with started(server, python, core) as (url, _), asyncio.Runner(loop_factory=_LOOP) as runner:
                outcome.endured = runner.run(endure(url, server.door, CONDITIONS, speech, asked.seed))
        except* (ServerDied, NoCall) as errors:
            outcome.error = f"failed: {errors.exceptions[0]}"
            _say(outcome.error)


def _save(asked: argparse.Namespace, outcomes: dict[str, Outcome]) -> list[Check]:
    """Write what was measured so far; returns it against the aims."""
    figures, targets = _figures(asked, outcomes)
    checks = figures.check(targets)
    path, told = asked.out / _name(asked), machine()
    content = {key: outcome.to_json() for key, outcome in outcomes.items()}
    save(path.with_suffix(".json"), {"servers": content}, checks)
    words = f"{told['system']}, Python {told['python']}, load average {told['load']:.2f} at the end, {time.ctime()}"
    path.with_suffix(".md").write_text(markdown(outcomes, words), "utf-8")
    if not asked.loss:
        speaking = "always speaking" if asked.duty >= 1 else f"speaking {100 * asked.duty:.0f} % of the time"
        title = f"Echo on one core, {speaking}{', a picture a second' * asked.camera}"
        plot(path.with_suffix(".png"), outcomes, title)
    _say(f"saved as {path}.json, .md{'' if asked.loss else ' and .png'}")
    return checks


def _name(asked: argparse.Namespace) -> str:
    parts = [
        "media",
        "loss" * asked.loss,
        "camera" * asked.camera,
        f"duty{100 * asked.duty:.0f}" if asked.duty < 1 else "",
    ]
    return "_".join(filter(None, parts))


def _figures(asked: argparse.Namespace, outcomes: dict[str, Outcome]) -> tuple[Figures, list[Target]]:
    """Return what the aims are about, and the aims that were measured."""
    figures, targets = Figures(), list[Target]()
    most = {name: best.n_sessions for name, outcome in outcomes.items() if (best := held(outcome.steps)) is not None}
    if "ours" in outcomes and outcomes["ours"].steps:
        close = [
            step.n_sessions
            for step in outcomes["ours"].steps
            if step.good and step.delay_p95_s is not None and step.delay_p95_s <= _CLOSE_DELAY_S
        ]
        figures.add("calls_on_a_core", max(close, default=0), "ours, with p95 from wire to wire of at most 100 ms")
        aim = 55 if asked.camera else 65 if asked.duty >= 1 else 100
        targets.append(Target("calls_on_a_core", "max", ">=", aim))
        if "fastrtc" in most:
            figures.add("times_fastrtc", max(close, default=0) / most["fastrtc"], "calls on a core")
            targets.append(Target("times_fastrtc", "max", ">=", 5.0))
    for one in outcomes["ours"].endured if "ours" in outcomes else []:
        figures.add("not_back_in_time", not one.recovered, one.condition)
        if one.condition.endswith("% loss"):
            figures.add("gap_free_share", one.gap_free_share, one.condition)
    if figures.values.get("not_back_in_time"):
        targets.append(Target("not_back_in_time", "sum", "<=", 0))
    return figures, targets


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


_LOOP: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop

if __name__ == "__main__":
    sys.exit(main())
