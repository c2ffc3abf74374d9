"""Who speaks when: how fast the server answers and gives way, and what it does not mistake for an interruption.

Drives a server over a real transport at real-time pace and measures at the listener; see :mod:`benchmarks.scenarios`
for what each figure means and :mod:`benchmarks.participant` for what its times include. Run:

    python -m benchmarks.turn_taking                     # starts a server of its own, WebRTC, twenty minutes
    python -m benchmarks.turn_taking --quick             # four minutes
    python -m benchmarks.turn_taking --server http://127.0.0.1:8000 --transport websocket --sessions 1

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks import noise, plots
from benchmarks.analysis import percentile
from benchmarks.noise import EchoPath
from benchmarks.participant import Participant, joined
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.scenarios import Clip, NoStory, Play, ask, disturb, endure, interrupt, sit, suffer_echo
from benchmarks.server import running
from benchmarks.speech import BACKCHANNELS, USER_DB, VOICES, Mouth
from duplex_server.client import TransportName
from duplex_server.errors import DuplexError

COMMANDS = (
    "what time is it",
    "count to ten",
    "what is seven plus eight",
    "what can you do",
    "spell banana",
    "what is my name",
    "who are you",
    "what is the date",
    "hello",
    "count down from ten",
)
REQUEST = "tell me a story"
INTERRUPTIONS = ("what time is it", "what is seven plus eight", "count to ten", "hold on", "wait a minute", "be quiet")
STOP_WORD = "stop"
ASIDES = (
    "did you remember to buy some milk on the way home",
    "i left the keys on the kitchen table",
    "could you close the window over there",
    "my sister is coming to visit us on friday",
    "the train was late again this morning",
)
NEIGHBOURS = (
    "so then we drove all the way to the coast and it rained for three days",
    "the meeting was moved to thursday because nobody could come on tuesday",
    "he said that the new office is much bigger but a little further away",
    "they planted apple trees behind the house and now there are too many apples",
)

ASIDE_DB = USER_DB - 20.0
"""Somebody else is spoken to 20 dB below the user's usual level: turned away, across the room."""
STEADY_NOISE_DB = -48.0
"""25 dB below the user: a computer's fan on the same table."""
BABBLE_DB = -45.0
KEYS_PEAK_DB = -22.0
COUGH_DB = USER_DB - 3.0

BUSY_S = 0.02
"""A benchmark that sends its packets so late (p99) measures the machine's other work."""

TARGETS = (
    Target("response_s", "p50", "<=", 0.5),
    Target("response_s", "p95", "<=", 0.8),
    Target("interruption_obeyed", "share", ">=", 0.95),
    Target("interruption_down_s", "p95", "<=", 0.25),
    Target("interruption_silent_s", "p95", "<=", 0.7),
    Target("stop_word_silent_s", "p95", "<=", 0.7),
    Target("immediate_silent_s", "p95", "<=", 0.35),
    Target("backchannel_false_interruption", "sum", "<=", 0),
    Target("backchannel_back_s", "p95", "<=", 0.3),
    Target("backchannel_lost_s", "max", "<=", 0.06),
    Target("aside_false_interruption", "sum", "<=", 0),
    Target("aside_lost_s", "max", "<=", 0.06),
    Target("noise_false_interruption", "sum", "<=", 0),
    Target("noise_lost_s", "max", "<=", 0.06),
    Target("echo_false_interruption", "sum", "<=", 0),
    Target("echo_interruption_obeyed", "share", ">=", 0.95),
)
"""60 ms is shorter than any word: less was lost than a word."""


@dataclass(frozen=True, slots=True)
class Job:
    """One participant's part: joins, plays, leaves."""

    name: str
    play: Play
    policy: str = "guarded"
    echo: EchoPath | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    asked = _parser().parse_args(arguments)
    figures = Figures()
    with ExitStack() as stack:
        mouth = stack.enter_context(Mouth())
        server = asked.server
        if server is None:
            server, _ = stack.enter_context(running(["-m", "duplex_server", "serve"], asked.flag or []))
        jobs = [job for job in plan(mouth, quick=asked.quick) if asked.only is None or asked.only in job.name]
        lags_s = asyncio.run(
            _measure(server, cast(TransportName, asked.transport), asked.api_key, jobs, asked.sessions, figures)
        )
    print(f"\n{asked.transport}, {asked.sessions} conversations at a time, {len(jobs)} in all\n")
    print_table(("time", "n", "p50", "p95", "max"), figures.table(sorted(figures.values)))
    print()
    print_table(("count", "n", "sum", "not 0"), figures.counts(sorted(figures.values)))
    lag_s = percentile(lags_s, 99)
    warning = "" if lag_s < BUSY_S else ": THE MACHINE WAS TOO BUSY, all times are too long"
    print(f"\nthe benchmark's own lateness in sending: p99 {1000 * lag_s:.1f} ms{warning}\n")
    targets = [target for target in TARGETS if asked.only is None or target.name in figures.values]
    checks = figures.check(targets)
    met = print_checks(checks)
    content = {
        "transport": asked.transport,
        "sessions": asked.sessions,
        "own_lateness_p99_s": lag_s,
        "figures": figures.to_json(),
    }
    save(asked.out / f"turn_taking_{asked.transport}.json", content, checks)
    plots.turn_taking(asked.out / f"turn_taking_{asked.transport}.png", figures, checks, asked.transport)
    print(f"\nwritten to {asked.out}/turn_taking_{asked.transport}.json and .png")
    return 0 if met else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turn_taking", description=__doc__.split("\n\n")[0])
    parser.add_argument("--server", metavar="URL", help="a server that runs already; without it, one is started")
    parser.add_argument("--api-key", metavar="KEY", help="the server's key")
    parser.add_argument(
        "--flag", action="append", metavar="FLAG", help="a word for the command line of the started server"
    )
    parser.add_argument("--transport", choices=["webrtc", "websocket"], default="webrtc")
    parser.add_argument("--sessions", type=int, default=3, metavar="N", help="conversations at a time")
    parser.add_argument("--quick", action="store_true", help="a few trials of each scenario")
    parser.add_argument("--only", metavar="TEXT", help="only the jobs with this in their name")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    return parser


def plan(mouth: Mouth, *, quick: bool) -> list[Job]:
    """Return all jobs, those that take longest first."""
    voices = VOICES[:2] if quick else VOICES
    request = Clip(REQUEST, mouth.say(REQUEST))
    jobs = [*_noise_jobs(mouth, request, quick=quick), *_echo_jobs(mouth, request, quick=quick)]
    for n, voice in enumerate(voices):
        commands = COMMANDS[:3] if quick else COMMANDS
        interruptions = INTERRUPTIONS[n::2][:2] if quick else INTERRUPTIONS
        short = [Clip(f"{text}, {voice}", mouth.say(text, voice, words_per_minute=pace)) for text, pace in BACKCHANNELS]
        asides = [Clip(f"{text}, {voice}", noise.far_away(mouth.say(text, voice), ASIDE_DB, n)) for text in ASIDES]
        stops = [Clip(f"{STOP_WORD}, {voice}", mouth.say(STOP_WORD, voice))] * (1 if quick else 3)
        jobs += [
            Job(f"interruption by {voice}", interrupt(request, _said(mouth, interruptions, voice), "interruption")),
            Job(f"backchannel by {voice}", disturb(request, short[:3] if quick else short, "backchannel")),
            Job(f"aside by {voice}", disturb(request, asides[n::2] if quick else asides, "aside")),
            Job(f"response to {voice}", ask(_said(mouth, commands, voice))),
            Job(f"stop word by {voice}", interrupt(request, stops, "stop_word")),
            Job(
                f"immediate by {voice}",
                interrupt(request, _said(mouth, interruptions[:2], voice), "immediate"),
                policy="immediate",
            ),
        ]
    return jobs


def _said(mouth: Mouth, texts: Iterable[str], voice: str) -> list[Clip]:
    return [Clip(f"{text}, {voice}", mouth.say(text, voice)) for text in texts]


def _noise_jobs(mouth: Mouth, request: Clip, *, quick: bool) -> list[Job]:
    """Return ten minutes of noise over speech, and half as long of the same noises over silence."""
    bed_s = 30.0
    people = [mouth.say(text, voice) for text, voice in zip(NEIGHBOURS, VOICES, strict=False)]
    coughs = [noise.cough(COUGH_DB, seed) for seed in range(8)]
    words = [mouth.say(text, VOICES[1], words_per_minute=pace) for text, pace in BACKCHANNELS]
    white, pink = noise.white(bed_s, STEADY_NOISE_DB), noise.pink(bed_s, STEADY_NOISE_DB)
    keys = noise.keyboard(bed_s, KEYS_PEAK_DB)
    now_and_then = noise.at_intervals(coughs, bed_s, 3.5)
    beds = {
        "white noise": white,
        "pink noise": pink,
        "hum": noise.hum(bed_s, STEADY_NOISE_DB),
        "keyboard": keys,
        "keyboard over pink noise": keys + pink,
        "babble": noise.babble(people, bed_s, BABBLE_DB),
        "coughs": now_and_then,
        "coughs over keyboard": now_and_then + keys,
        "backchannels": noise.at_intervals(words, bed_s, 4.0),
        "backchannels over pink noise": noise.at_intervals(words, bed_s, 4.0) + pink,
    }
    if quick:
        beds = {name: bed for name, bed in beds.items() if " over " in name}
    speech_s = 15.0 if quick else 60.0
    speaking = [Job(f"noise: {name}", endure(request, bed, name, speech_s)) for name, bed in beds.items()]
    silent = {name: bed for name, bed in beds.items() if "backchannel" not in name}
    listening = [Job(f"noise in silence: {name}", sit(bed, name, speech_s / 2)) for name, bed in silent.items()]
    return [*speaking, *listening]


def _echo_jobs(mouth: Mouth, request: Clip, *, quick: bool) -> list[Job]:
    paths = (
        [(120.0, -12.0)]
        if quick
        else [(delay, gain) for delay in (40.0, 120.0, 250.0) for gain in (-6.0, -12.0, -20.0)]
    )
    jobs = []
    for n, (delay_ms, gain_db) in enumerate(paths):
        text = INTERRUPTIONS[n % len(INTERRUPTIONS)]
        clip = Clip(text, mouth.say(text, VOICES[n % 3]))
        name = f"echo after {delay_ms:.0f} ms at {gain_db:.0f} dB"
        jobs.append(Job(name, suffer_echo(request, clip, name), echo=EchoPath(delay_ms, gain_db, seed=n)))
    return jobs


async def _measure(
    server: str, transport: TransportName, api_key: str | None, jobs: Sequence[Job], sessions: int, figures: Figures
) -> list[float]:
    """Play all jobs, so many at a time; return how late the participants' packets were."""
    waiting = list(enumerate(jobs))
    progress = Progress(len(jobs))
    lags_s: list[float] = []

    async def work() -> None:
        while waiting:
            number, job = waiting.pop(0)
            session = {"interruption": job.policy}
            someone: Participant | None = None
            try:
                async with joined(
                    server, transport, api_key=api_key, session=session, echo=job.echo, seed=number
                ) as someone:
                    await someone.wait_until(0.5)
                    await job.play(someone, figures)
            except* (DuplexError, EOFError, NoStory) as group:
                figures.add("broken", 1, f"{job.name}: {group.exceptions[0]}")
                sys.stderr.write(f"\n{job.name}: {group.exceptions[0]}\n")
            if someone is not None:
                lags_s.extend(someone.lags_s)
            progress.step(job.name)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(sessions):
            tasks.create_task(work())
            await asyncio.sleep(0.7)  # conversations that begin together would speak together
    return lags_s


if __name__ == "__main__":
    sys.exit(main())
