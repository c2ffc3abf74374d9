"""Many callers at once, at real-time pace: one step of :mod:`benchmarks.media`.

While it is measured, callers do nothing but send what was encoded before and note what arrives; all else is worked out
afterwards. Knows nothing about which server it calls.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import itertools
import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import psutil
from PIL import Image

from benchmarks.analysis import percentile
from benchmarks.media_analysis import (
    MATCH_RATE_HZ,
    PACKET_S,
    Match,
    Times,
    active_s,
    arrivals_of,
    gap_s,
    holes_s,
    matches,
    place,
    returned_s,
)
from benchmarks.media_call import Call, Door, NoCall, called
from benchmarks.media_speech import Track, decoded
from benchmarks.media_steps import Step
from benchmarks.server import Usage, cpu_time_s, family, usage
from duplex_server.types import Pcm

__all__ = ["Listened", "Plan", "listen", "measure", "photograph", "pin", "said_s", "talk"]

_SLOTS = 8
"""Callers are spread over a packet's 20 ms in so many groups, so that they do not all speak at once."""
_AT_ONCE = 4
"""Callers that connect at the same time."""
_EARS = 6
"""Callers whose sound is listened to; packets of the others are only counted and timed."""
_STRIDE = 37
"""Each caller begins so many packets further in the track."""
_WARM_UP_S = 1.0
_LEAST_RETURNED = 0.9
"""Of what was said less than this comes back only from a server that has fallen silent; smaller gaps are found by what
arrives."""
_PAUSING_SHARE = 0.8
"""A voice that speaks less pauses, and its echo may."""
_MOST_DELAY_S = 4.0
"""The longest delay that is looked for: a server ten times too late is still understood, not taken for a silent one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What each caller does, and for how long."""

    track: Track
    seconds: float
    """How long is measured."""
    settle_s: float
    """How long callers speak before."""
    picture: bytes | None = None
    """A JPEG that each sends every second."""


@dataclass(slots=True)
class _Measured:
    """What was noted while callers spoke."""

    start_s: float
    end_s: float
    cpu_s: float
    own_cpu_s: float
    after: Usage
    lags_s: list[float] = field(default_factory=list)


def pin(core: int | None) -> None:
    """Keep this process on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def photograph() -> bytes:
    """Return a picture as a camera's still: a JPEG of 448 × 336 pixels, some 30 kB."""
    coarse = np.random.default_rng(5).integers(0, 255, (42, 56, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((448, 336), Image.Resampling.BICUBIC).save(file, "JPEG", quality=75)
    return file.getvalue()


async def measure(url: str, server: psutil.Process, door: Door, n_sessions: int, plan: Plan) -> Step:
    """Have some callers speak to a server that nobody else uses, and say what it cost and what they heard."""
    async with called(url, door, listens=False) as call:  # what is loaded for the first call is not a call's own
        await _speak([call], server, replace(plan, seconds=_WARM_UP_S, settle_s=0.0))
    await asyncio.sleep(_WARM_UP_S)
    empty = usage(server)
    async with AsyncExitStack() as stack:
        calls, trouble = await _connect(url, door, n_sessions, stack)
        connected = usage(server)
        measured = await _speak(calls, server, plan)
        standing = sum(call.stands for call in calls)
    step = _judge(calls, plan, (empty, connected), measured, n_sessions, standing)
    return replace(step, trouble=trouble)


async def _connect(url: str, door: Door, n_sessions: int, stack: AsyncExitStack) -> tuple[list[Call], str]:
    calls: list[Call] = []
    troubles: list[str] = []
    ears = set(range(0, n_sessions, max(1, n_sessions // _EARS)))

    async def connect(number: int) -> None:
        try:
            call = await stack.enter_async_context(called(url, door, listens=number in ears, first=_STRIDE * number))
        except NoCall as error:
            troubles.append(str(error))
            return
        calls.append(call)

    for first in range(0, n_sessions, _AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            for number in range(first, min(n_sessions, first + _AT_ONCE)):
                tasks.create_task(connect(number))
    return calls, troubles[0] if troubles else ""


async def _speak(calls: Sequence[Call], server: psutil.Process, plan: Plan) -> _Measured:
    lags_s: list[float] = []
    processes = family(server)
    async with asyncio.TaskGroup() as tasks:
        talking = [tasks.create_task(talk(calls, plan.track, lags_s))]
        if plan.picture is not None:
            talking.append(tasks.create_task(_show(calls, plan.picture)))
        await asyncio.sleep(plan.settle_s)
        lags_s.clear()
        gc.collect()
        gc.disable()  # a collection of all the packets that are kept would be taken for the server's lateness
        start_s, own_s, before_s = time.monotonic(), time.process_time(), sum(map(cpu_time_s, processes))
        await asyncio.sleep(plan.seconds)
        end_s, own_cpu_s = time.monotonic(), time.process_time() - own_s
        cpu_s = sum(map(cpu_time_s, processes)) - before_s
        after = usage(server)
        gc.enable()
        for task in talking:
            task.cancel()
    return _Measured(start_s, end_s, cpu_s, own_cpu_s, after, lags_s)


async def talk(calls: Sequence[Call], track: Track, lags_s: list[float]) -> None:
    """Send packets for all callers by absolute deadlines, until cancelled; notes how late each group was."""
    slot_s = PACKET_S / _SLOTS
    began_s = time.monotonic()
    for tick in itertools.count():
        due_s = began_s + tick * slot_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        lags_s.append(time.monotonic() - due_s)
        for call in calls[tick % _SLOTS :: _SLOTS]:
            call.send(track.packet(call.first + call.number))


async def _show(calls: Sequence[Call], picture: bytes) -> None:
    """Send each caller's picture once a second, one caller after the other."""
    message = json.dumps({"type": "input_image_buffer.append", "image": base64.b64encode(picture).decode()})
    began_s = time.monotonic()
    for number in itertools.count():
        due_s = began_s + number / len(calls)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        calls[number % len(calls)].show(message)


def _judge(
    calls: Sequence[Call],
    plan: Plan,
    usages: tuple[Usage, Usage],
    measured: _Measured,
    n_sessions: int,
    n_standing: int,
) -> Step:
    empty, connected = usages
    seconds = measured.end_s - measured.start_s
    gaps, holes, delays_s = [], [], list[float]()
    active = np.array([active_s(frame, MATCH_RATE_HZ) for frame in decoded(plan.track.packets, MATCH_RATE_HZ)])
    for call in calls:
        arrivals, _ = arrivals_of(call.packets)
        inside = arrivals.between(measured.start_s, measured.end_s)
        missing_s = _LEAST_RETURNED * said_s(call, active, measured.start_s, measured.end_s) - returned_s(inside)
        pauses = plan.track.speech_share < _PAUSING_SHARE
        gaps.append(min(1.0, max(gap_s(inside, pauses=pauses), missing_s, 0.0) / seconds))
        if call.listens:
            listened = listen(call, plan.track, call.payloads())
            delays_s += [match.delay_s for match in listened.found if measured.start_s <= match.sent_s < measured.end_s]
            holes.append(listened.holes_s(measured.start_s, measured.end_s) / seconds)
    n_calls = max(1, len(calls))
    return Step(
        n_sessions=n_sessions,
        n_connected=min(len(calls), n_standing),
        seconds=seconds,
        gap_share=float(max(np.mean(gaps), np.mean(holes))) if gaps and holes else 1.0,
        worst_gap_share=max([*gaps, *holes], default=1.0),
        delay_p50_s=percentile(delays_s, 50) if delays_s else None,
        delay_p95_s=percentile(delays_s, 95) if delays_s else None,
        core_share=measured.cpu_s / seconds,
        cpu_ms=1000 * measured.cpu_s / seconds / n_calls,
        memory_mb=(measured.after.private_bytes - empty.private_bytes) / n_calls / 1e6,
        connect_cpu_ms=1000 * (sum(connected.cpu_s.values()) - sum(empty.cpu_s.values())) / n_calls,
        connect_s=float(np.mean([call.connect_s for call in calls])) if calls else 0.0,
        load_share=measured.own_cpu_s / seconds,
        late_p99_s=percentile(measured.lags_s, 99) if measured.lags_s else 0.0,
    )


def said_s(call: Call, active: Times, start_s: float, end_s: float) -> float:
    """Return how long a caller spoke in a time, seconds.

    Args:
        call: the caller.
        active: of each packet of the track, the seconds of speech in it.
        start_s: monotonic clock.
        end_s: monotonic clock.
    """
    first, last = np.searchsorted(np.array(call.departures_s), [start_s, end_s])
    return float(active[(call.first + np.arange(first, last)) % len(active)].sum())


@dataclass(frozen=True, slots=True)
class Listened:
    """What a caller heard, beside what it said."""

    sent: Pcm
    """float32, 8 kHz."""
    heard: Pcm
    """float32, 8 kHz, by the packets' timestamps."""
    arrivals_s: Times
    """When each 20 ms of it arrived, NaN where none did."""
    found: list[Match]

    def holes_s(self, start_s: float, end_s: float) -> float:
        """Return how long nothing was heard, of what arrived in a time, where somebody was speaking."""
        inside = np.flatnonzero((self.arrivals_s >= start_s) & (self.arrivals_s < end_s))
        if not len(inside):
            return 0.0
        n = round(PACKET_S * MATCH_RATE_HZ)
        return holes_s(self.sent, self.heard, self.found, int(inside[0]) * n, int(inside[-1] + 1) * n)


def listen(call: Call, track: Track, payloads: Sequence[tuple[float, bytes, bytes]]) -> Listened:
    """Decode what a caller heard and sent, and find the one in the other. Takes a second for a minute of a call.

    Args:
        call: a caller that listened, and began with the track's packet ``call.first``.
        track: what it said.
        payloads: of the call.
    """
    arrivals, order = arrivals_of([(at_s, header) for at_s, header, _ in payloads])
    heard, holder = place(decoded([payloads[number][2] for number in order], MATCH_RATE_HZ), arrivals.stamp)
    arrivals_s = np.append(arrivals.at_s, np.nan)[holder]
    frames = decoded([track.packet(call.first + number) for number in range(len(call.departures_s))], MATCH_RATE_HZ)
    sent = np.concatenate([*frames, np.zeros(0, np.float32)])
    found = matches(sent, np.array(call.departures_s), heard, arrivals_s, most_s=_MOST_DELAY_S)
    return Listened(sent, heard, arrivals_s, found)
