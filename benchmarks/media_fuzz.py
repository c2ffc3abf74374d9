"""Garbage on the port of a call: whether anything breaks, whether the call goes on, and what each packet costs.

A call stands in this process; datagrams are put where its socket would put them. First each kind is timed, against good
sound; then all kinds come mixed while the call speaks and hears. At last session descriptions are damaged. Run:

    python -m benchmarks.media_fuzz --packets 1000000

Exits with 1 if something broke, the call did not go on, or a kind costs more than a good packet.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pylibsrtp

from benchmarks.garbage import KINDS, SEALED_KINDS, Garbage, damaged_text
from benchmarks.lone_call import LoneCall, lone_call
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from duplex_server.media.opus import OpusEncoder
from duplex_server.media.rtp import RtpPacket, write_rtp
from duplex_server.transports.observer import SilentTransportObserver
from duplex_server.transports.rtc_camera import CameraView
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_sdp import InvalidOffer
from duplex_server.transports.webrtc import WebRtcTransport
from duplex_server.types import INPUT_RATE_HZ
from duplex_server.wire.dialect import RealtimeDialect

__all__ = ["Breakage", "Endurance", "costs_us", "damaged_offers", "endure", "watched"]

TARGETS = (
    Target("broken", "sum", "<=", 0),
    Target("relative_cost", "max", "<=", 1.0),
    Target("heard_share", "p0", ">=", 0.95),
    Target("heard_back_share", "p0", ">=", 0.95),
    Target("memory_growth_mb", "max", "<=", 20),
)
_WARM_UP_S = 2.0
_BURST = 50
_TIMED = 2000
_SSRCS = tuple(range(1000, 1040))
_STRANGER = ("192.0.2.1", 5004)
"""A third party, in the network that RFC 5737 keeps for documentation."""
_GOOD_SSRC = 999
_REPORTED_EVERY = 100_000


@dataclass
class Breakage:
    """What should not have happened."""

    faults: Counter[str] = field(default_factory=Counter)

    def note(self, what: str) -> None:
        """Count a fault by its words."""
        self.faults[what] += 1


@dataclass(frozen=True, slots=True)
class Endurance:
    """How a call went on while garbage arrived."""

    n_packets: int
    heard_share: float
    """Of the caller's sound, what the server heard; 1 is all."""
    heard_back_share: float
    """Of the server's sound, what the caller heard."""
    memory_growth_bytes: int


@contextmanager
def watched() -> Iterator[Breakage]:
    """Note every exception that nobody caught, and every warning, while the block runs; call it inside a loop."""
    breakage = Breakage()
    loop = asyncio.get_running_loop()

    def uncaught(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        breakage.note(f"{context['message']}: {context.get('exception')!r}")

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            breakage.note(f"{record.name}: {record.getMessage()[-300:]}")

    recorder = Recorder(logging.WARNING)
    logging.getLogger().addHandler(recorder)
    loop.set_exception_handler(uncaught)
    try:
        yield breakage
    finally:
        loop.set_exception_handler(None)
        logging.getLogger().removeHandler(recorder)


async def costs_us(call: LoneCall, seed: int, n_packets: int = _TIMED) -> dict[str, float]:
    """Return what a packet of each kind costs, µs of CPU; ``"good"`` is sound that is decoded and heard."""
    source = Garbage(seed, call.samples, _SSRCS)
    before_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.sleep(1.0)
    load = (time.process_time() - before_s) / (time.perf_counter() - began_s)  # the call itself
    costs = {"good": await _cost_us(call, _good(call, n_packets), load)}
    for kind in (*KINDS, *SEALED_KINDS):
        costs[kind] = await _cost_us(call, [_make(call, source, kind) for _ in range(n_packets)], load)
    return costs


async def endure(call: LoneCall, seed: int, n_packets: int, progress: Progress | None = None) -> Endurance:
    """Let garbage of all kinds arrive, from the peer's address and others, while the call goes on."""
    dice = random.Random(seed)
    source = Garbage(seed, call.samples, _SSRCS)
    kinds = (*KINDS, *SEALED_KINDS)
    gc.collect()
    memory_bytes = psutil.Process(os.getpid()).memory_info().rss
    began_s, heard, heard_back, spoken = time.perf_counter(), call.n_heard, call.n_heard_back, call.n_spoken
    for number in range(1, n_packets + 1):
        kind = dice.choice(kinds)
        stranger = kind in KINDS and dice.random() < 0.5
        call.receive(_make(call, source, kind), _STRANGER if stranger else call.address)
        if number % _BURST == 0:
            await asyncio.sleep(0)
        if number % _REPORTED_EVERY == 0 and progress is not None:
            progress.step(f"{number} packets")
    took_s = time.perf_counter() - began_s
    gc.collect()
    return Endurance(
        n_packets,
        (call.n_heard - heard) / INPUT_RATE_HZ / max(1, call.n_spoken - spoken) * 48_000,
        (call.n_heard_back - heard_back) / 48_000 / took_s,
        psutil.Process(os.getpid()).memory_info().rss - memory_bytes,
    )


async def damaged_offers(good: str, seed: int, n_offers: int, breakage: Breakage) -> Counter[str]:
    """Offer damaged descriptions; return how many were answered and refused. What else happens is a breakage."""
    dice = random.Random(seed)
    outcomes: Counter[str] = Counter()
    pacer = Pacer()
    for _ in range(n_offers):
        offer = damaged_text(good, dice)
        try:
            async with WebRtcTransport.open(
                ice_servers=(),
                max_message_bytes=2**20,
                send_queue_bytes=2**20,
                observer=SilentTransportObserver(),
                dialect=RealtimeDialect(),
                pacer=pacer,
                view=CameraView(0.5, 448, 25_000_000),
            ) as transport:
                await transport.answer(offer)
                outcomes["answered"] += 1
        except* InvalidOffer:
            outcomes["refused"] += 1
        except* Exception as group:  # noqa: BLE001 - they are what is looked for
            outcomes["broken"] += 1
            breakage.note(f"an offer: {group.exceptions[0]!r}")
    pacer.close()
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media_fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--packets", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--offers", type=int, default=1000, metavar="N", help="session descriptions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    logging.getLogger("duplex_server").setLevel(logging.WARNING)
    figures, breakage, costs, outcomes = asyncio.run(_run(asked))
    print(f"\n{asked.packets} packets of garbage, {asked.offers} damaged offers ({dict(outcomes)})\n")
    rows = [(kind, f"{cost:.1f}", f"{cost / costs['good']:.2f}") for kind, cost in costs.items()]
    print_table(("kind", "µs each", "of a good one"), rows)
    for what, times in breakage.faults.most_common(20):
        print(f"\n{times} times: {what}")
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    content = {"packets": asked.packets, "costs_us": costs, "offers": outcomes, "figures": figures.to_json()}
    save(asked.out / "media_fuzz.json", content, checks)
    return 0 if met else 1


async def _run(asked: argparse.Namespace) -> tuple[Figures, Breakage, dict[str, float], Counter[str]]:
    progress = Progress(3 + asked.packets // _REPORTED_EVERY)
    figures = Figures()
    with watched() as breakage:
        async with lone_call() as call:
            await asyncio.sleep(_WARM_UP_S)
            good_offer = call.caller.localDescription.sdp
            costs = await costs_us(call, asked.seed)
            progress.step("timed each kind")
            await asyncio.sleep(1.0)
            endurance = await endure(call, asked.seed, asked.packets, progress)
            async with asyncio.timeout(10):
                await call.heartbeat()
            progress.step("the call still stands")
        outcomes = await damaged_offers(good_offer, asked.seed, asked.offers, breakage)
        progress.step("damaged offers")
    for kind, cost in costs.items():
        if kind != "good":
            figures.add("relative_cost", cost / costs["good"], kind)
    figures.add("broken", sum(breakage.faults.values()), "exceptions that nobody caught, and warnings")
    figures.add("heard_share", endurance.heard_share, "by the server, meanwhile")
    figures.add("heard_back_share", endurance.heard_back_share, "by the caller, meanwhile")
    figures.add("memory_growth_mb", endurance.memory_growth_bytes / 1e6, "over all packets")
    return figures, breakage, costs, outcomes


def _good(call: LoneCall, n_packets: int) -> list[bytes]:
    """Return sound from the peer: noise in Opus, on a stream of its own."""
    encoder, noise = OpusEncoder(), np.random.default_rng(1)
    payloads = [encoder.encode(noise.normal(0, 0.1, 480).astype(np.float32)) for _ in range(100)]
    (payload_type,) = {sample[1] & 0x7F for sample in call.samples["rtp"]}
    return [
        call.sealed(write_rtp(RtpPacket(payload_type, False, number, number * 960, _GOOD_SSRC, payload)))
        for number, payload in zip(range(n_packets), itertools.cycle(payloads), strict=False)
    ]


def _make(call: LoneCall, source: Garbage, kind: str) -> bytes:
    while True:
        packet = source.make(kind)
        if kind not in SEALED_KINDS:
            return packet
        try:
            return call.sealed(packet)
        except (pylibsrtp.Error, ValueError):  # so wrong that no peer could encrypt it
            continue


async def _cost_us(call: LoneCall, packets: list[bytes], load: float) -> float:
    before_s, began_s = time.process_time(), time.perf_counter()
    for number, packet in enumerate(packets, 1):
        call.receive(packet, call.address)
        if number % _BURST == 0:
            await asyncio.sleep(0)
            while call.n_waiting:  # noqa: ASYNC110 - whatever is left to aiortc belongs to the packet's cost
                await asyncio.sleep(0)
    used_s = time.process_time() - before_s - load * (time.perf_counter() - began_s)
    return 1e6 * used_s / len(packets)


if __name__ == "__main__":
    sys.exit(main())
