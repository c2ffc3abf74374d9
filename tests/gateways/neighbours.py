"""Two whole gateways on one event loop, each with a port of its own, so that a test chooses which one it comes to."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvicorn

from duplex_server.config import Settings
from duplex_server.gateways.link import SupervisorLink
from duplex_server.gateways.relay import Relay
from duplex_server.gateways.tunnel import socket_of, tunnels_taken
from duplex_server.metrics import Gauges, Metrics, merged
from duplex_server.security import Gate
from duplex_server.session.limits import SessionLimits
from duplex_server.session.manager import SessionManager
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import server_options
from duplex_server.transports.port import listening_socket
from duplex_server.types import InterruptionPolicy, SessionSetup
from tests.gateways.hall import NOW_S, Hall, hall
from tests.helpers.slots import LoudnessDetector
from tests.transports.serving import FakeManager, Served
from tests.transports.test_resume import ReciterEngine

__all__ = ["Gateway", "Neighbours", "neighbours"]


@dataclass
class Gateway:
    """One of them."""

    served: Served
    link: SupervisorLink
    manager: SessionManager
    engine: ReciterEngine
    tunnels: AsyncExitStack

    @property
    def url(self) -> str:
        return self.served.url

    @property
    def ws_url(self) -> str:
        return self.served.ws_url


@dataclass
class Neighbours:
    """All of them."""

    hall: Hall
    folder: Path
    gateways: list[Gateway]

    async def lose(self, number: int) -> None:
        """Let a gateway die, as far as the others can see."""
        await self.gateways[number].tunnels.aclose()
        await self.hall.lose(number)

    async def until_sessions(self, *expected: int) -> None:
        """Wait until each gateway has so many."""
        await self.hall.until(
            lambda: all(
                [state.sessions for state in gateway.link.state.gateways] == [*expected] for gateway in self.gateways
            )
        )


@asynccontextmanager
async def neighbours(settings: Settings | None = None, places: int = 8) -> AsyncIterator[Neighbours]:
    """Serve until the block is left."""
    settings = settings or Settings()
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(hall(places, settings.queue_max, settings.key_max_sessions))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        together = Neighbours(opened, folder, [])
        for number in range(2):
            together.gateways.append(await stack.enter_async_context(_gateway(number, opened, folder, settings)))
        yield together


@asynccontextmanager
async def _gateway(number: int, opened: Hall, folder: Path, settings: Settings) -> AsyncIterator[Gateway]:
    link, engine, metrics, whole = await opened.open(number), ReciterEngine(), Metrics(), Gauges()
    whole.add_gauge("places", "Conversations that fit.", lambda: link.admission.places)
    manager = SessionManager(
        cast(Any, engine),
        max_sessions=0,
        limits=SessionLimits(resume_grace_s=5.0),
        policy=InterruptionPolicy.GUARDED,
        setup=SessionSetup(),
        make_detector=LoudnessDetector,
        observer=metrics,
        shutdown_grace_s=0.1,
        wall_clock_s=lambda: NOW_S,
        doorkeeper=link.admission,
        gateway=number,
    )
    gate = Gate.of(settings, lambda: NOW_S, link.tally)
    app = cast(Any, create_app(manager, settings, gate, metrics, None, wall_clock_s=lambda: NOW_S, gateway=number))
    relay = Relay(app, link, folder, ready=lambda: engine.ready, merge=lambda pages: merged(pages) + whole.render())
    listening = listening_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(cast(Any, relay), **server_options(settings)))
    async with manager, AsyncExitStack() as tunnels, asyncio.TaskGroup() as tasks:
        await tunnels.enter_async_context(tunnels_taken(app, socket_of(folder, number)))
        running = tasks.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        served = Served("127.0.0.1", listening.getsockname()[1], cast(FakeManager, manager), metrics)
        try:
            yield Gateway(served, link, manager, engine, tunnels)
        finally:
            await manager.drain()
            server.should_exit = True
            await asyncio.wait([running])
