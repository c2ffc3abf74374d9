"""The real application with a real session behind it, and a model that says what a test lets it say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from duplex_server.config import Settings
from duplex_server.session.manager import SessionManager
from duplex_server.session.session import SessionLimits
from duplex_server.types import InterruptionPolicy, ModelSpec, SessionSetup
from tests.helpers.slots import LoudnessDetector, ScriptedSlot
from tests.session.stage import SPEC, Notes, OneSlotEngine
from tests.transports.serving import NOW_S, Served, serving


@dataclass
class Speaking:
    """A server whose every conversation is with the one slot."""

    served: Served
    slot: ScriptedSlot
    manager: SessionManager


@asynccontextmanager
async def speaking(
    slot: ScriptedSlot | None = None,
    *,
    spec: ModelSpec = SPEC,
    settings: Settings | None = None,
    limits: SessionLimits | None = None,
) -> AsyncIterator[Speaking]:
    """Serve real sessions until the block is left."""
    slot = slot or ScriptedSlot()
    manager = SessionManager(
        OneSlotEngine(slot, places=8, spec=spec),  # type: ignore[arg-type]  # a session needs no more of an engine
        max_sessions=0,
        limits=limits or SessionLimits(),
        policy=InterruptionPolicy.GUARDED,
        setup=SessionSetup(voice=spec.voices[0]),
        make_detector=LoudnessDetector,
        observer=Notes(),
        shutdown_grace_s=1.0,
        wall_clock_s=lambda: NOW_S,
    )
    async with manager, serving(manager, settings) as served:
        yield Speaking(served, slot, manager)
        await manager.drain()
