"""A session on a stage: a scripted model behind it, a scripted peer before it, virtual time around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from duplex_server.errors import CapacityError
from duplex_server.session.manager import Hello, SessionManager
from duplex_server.session.observer import SessionSummary, SilentObserver
from duplex_server.session.session import SessionLimits
from duplex_server.transports.loopback import MEDIA_TRACK_TRAITS, LoopbackPeer, LoopbackTransport
from duplex_server.types import Floor, InterruptionPolicy, ModelSpec, Pcm, SessionSetup
from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.session_object import OPT_IN_NAMES
from tests.helpers.slots import LoudnessDetector, ScriptedSlot
from tests.helpers.wire_oracle import check
from tests.helpers.wire_witness import check_shape

TICK_S = 0.02
LOUD = np.random.default_rng(0)
SPEC = ModelSpec(name="scripted", unit_ms=100, transcribes=True, uses_speech_probability=True, frame_max_px=64)


class OneSlotEngine:
    """An engine whose every conversation is the given slot."""

    def __init__(self, slot: ScriptedSlot, places: int = 1, spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self.places = places
        self.ready = True
        self._slot = slot

    async def open(self, setup: SessionSetup) -> ScriptedSlot:
        if not self.ready:
            raise CapacityError(1.0)
        self._slot.setups.append(setup)
        return self._slot


class Notes(SilentObserver):
    """Keeps what a session tells."""

    def __init__(self) -> None:
        self.delays_s: list[float | None] = []
        self.overlaps: list[tuple[str, str]] = []
        self.refused_s = 0.0
        self.summaries: list[SessionSummary] = []

    def response_began(self, delay_s: float | None) -> None:
        self.delays_s.append(delay_s)

    def overlap_judged(self, outcome: str, reason: str, delay_s: float) -> None:
        self.overlaps.append((outcome, reason))

    def input_refused(self, seconds: float) -> None:
        self.refused_s += seconds

    def session_ended(self, summary: SessionSummary) -> None:
        self.summaries.append(summary)


@dataclass
class Stage:
    """One running session and its peer."""

    slot: ScriptedSlot
    transport: LoopbackTransport
    manager: SessionManager
    notes: Notes

    @property
    def peer(self) -> LoopbackPeer:
        return self.transport.peer

    def send(self, **event: Any) -> None:
        """Send a client event, through the same decoder as from a socket."""
        self.peer.send(decode_client(msgspec.json.encode(event)))

    async def speak(self, duration_s: float, *, level: float = 0.1) -> None:
        """Be loud on the media track for a while, in real time."""
        await self._stream(duration_s, level)

    async def be_silent(self, duration_s: float) -> None:
        await self._stream(duration_s, 0.0)

    async def _stream(self, duration_s: float, level: float) -> None:
        for _ in range(round(duration_s / TICK_S)):
            pcm = (LOUD.standard_normal(320) * level).astype(np.float32)
            self.peer.send_media(pcm, self._position)
            self._position += 320
            await asyncio.sleep(TICK_S)

    _position = 0

    def types(self) -> list[str]:
        """Names of the events received so far, without the chatter."""
        names = [event["type"] for event in self.log()]
        return [name for name in names if name not in ("playback.position", "rate_limits.updated")]

    def log(self) -> list[dict[str, Any]]:
        """Events received so far, as a client parses them."""
        return [msgspec.json.decode(encode(event)) for _, event in self.peer.received]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.log() if event["type"] == kind]

    def floors(self) -> list[Floor]:
        """What the model was told, unit by unit."""
        return [unit.floor for unit in self.slot.units]

    def heard(self) -> Pcm:
        """All audio that arrived on the media track."""
        return np.concatenate([pcm for _, pcm in self.peer.audio] or [np.zeros(0, np.float32)])

    def last_sound_s(self) -> float:
        """When the last audible tick arrived."""
        return max(at_s for at_s, pcm in self.peer.audio if np.abs(pcm).max() > 0.01)


ASKED = OPT_IN_NAMES - {"connection"}
"""What clients here want to be told; not what comes by the clock, between any two other events."""


@asynccontextmanager
async def staged(
    slot: ScriptedSlot | None = None,
    *,
    traits: Any = MEDIA_TRACK_TRAITS,
    policy: InterruptionPolicy = InterruptionPolicy.GUARDED,
    limits: SessionLimits | None = None,
    spec: ModelSpec = SPEC,
    checked: bool = True,
    shutdown_grace_s: float = 2.0,
    opt_in: frozenset[str] = ASKED,
) -> AsyncIterator[Stage]:
    """Run a session; on leaving, the peer leaves, and the order of all events is held against the protocol."""
    slot = slot or ScriptedSlot()
    notes = Notes()
    manager = SessionManager(
        OneSlotEngine(slot, spec=spec),  # type: ignore[arg-type]  # a session needs no more of an engine
        max_sessions=0,
        limits=limits or SessionLimits(),
        policy=policy,
        setup=SessionSetup(),
        make_detector=LoudnessDetector,
        observer=notes,
        shutdown_grace_s=shutdown_grace_s,
        wall_clock_s=lambda: 1.7e9,
    )
    transport = LoopbackTransport(traits=traits)
    stage = Stage(slot, transport, manager, notes)
    async with manager, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(manager.serve(await manager.admit(), transport, Hello(opt_in=opt_in)))
        await asyncio.sleep(0)
        try:
            yield stage
        finally:
            stage.peer.leave()
            await asyncio.wait([serving])
    assert manager.sessions == 0 and slot.closed
    if checked:
        for event in stage.log():
            check_shape(json.dumps(event))
        check(stage.log(), media_track=traits.media_track, opted_in=True, all_ended=False)
