"""The real application on a real socket, with a conversation that tests can look into instead of a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop

from duplex_server.config import Settings
from duplex_server.errors import CapacityError, ClientError
from duplex_server.metrics import Metrics
from duplex_server.security import Gate
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.session.transport import MediaAudio, MediaFrame, Received, Transport
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import server_options
from duplex_server.transports.port import listening_socket
from duplex_server.types import ModelSpec, SessionSetup
from duplex_server.wire.dialogue import Dialogue
from duplex_server.wire.events import ErrorEvent, SessionHeartbeat, SessionHeartbeatAck
from duplex_server.wire.objects import ErrorObject
from duplex_server.wire.requests import TurnTaking
from duplex_server.wire.session_object import Session
from tests.helpers.wire_driver import SPEC
from tests.transports.overhearing import Overheard

NOW_S = 1_700_000_000.0
"""What the server takes for the time of day."""

Conversation = Callable[[Transport, "FakeManager"], Awaitable[None]]


async def answer_heartbeats(transport: Transport, manager: FakeManager) -> None:
    """Note everything that comes; answer heartbeats, and messages that cannot be decoded."""
    transport.send(SessionHeartbeatAck())
    async for received in transport.events():
        manager.note(received)
        if isinstance(received, SessionHeartbeat):
            transport.send(SessionHeartbeatAck())
        elif isinstance(received, ClientError):
            transport.send(
                ErrorEvent(error=ErrorObject(code=received.error_code, message=received.message, param=received.param))
            )


@dataclass
class FakeManager:
    """Admits as the real one does, and holds a conversation that a test wrote."""

    spec: ModelSpec = SPEC
    places: int = 100
    conversation: Conversation = answer_heartbeats
    ready: bool = True
    draining: bool = False
    sessions: int = 0
    hellos: list[Hello] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    transports: list[Transport] = field(default_factory=list)
    n_ended: int = 0
    change: asyncio.Event = field(default_factory=asyncio.Event)

    async def admit(self, *, queue: bool = False) -> Place:
        if self.sessions >= self.places:
            raise CapacityError(17.0)
        self.sessions += 1

        def give_back() -> None:
            self.sessions -= 1
            self.change.set()

        return Place(give_back)

    def preview(self, hello: Hello) -> Session:
        return Dialogue(
            spec=SPEC,
            session_id="sess_00112233445566778899aabb",
            media_track=False,
            setup=SessionSetup(voice=SPEC.voices[0]),
            turn_taking=TurnTaking(),
            base=hello.session,
            input_rates_hz=hello.input_rates_hz,
        ).session

    async def serve(self, place: Place, transport: Transport, hello: Hello) -> None:
        self.hellos.append(hello)
        self.transports.append(transport)
        try:
            await self.conversation(transport, self)
        finally:
            await transport.close()
            place.release()
            self.n_ended += 1
            self.change.set()

    def note(self, received: Received) -> None:
        self.received.append(received)
        self.change.set()

    @property
    def audio(self) -> list[MediaAudio]:
        return [item for item in self.received if isinstance(item, MediaAudio)]

    @property
    def pictures(self) -> list[MediaFrame]:
        return [item for item in self.received if isinstance(item, MediaFrame)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that this manager can see makes the condition true."""
        while not condition():
            self.change.clear()
            await self.change.wait()


class WatchedMetrics(Metrics):
    """Metrics that wake those who wait for a manager's change."""

    def __init__(self, change: asyncio.Event) -> None:
        super().__init__()
        self._change = change

    def connection_closed(self, transport: str, reason: str) -> None:
        super().connection_closed(transport, reason)
        self._change.set()


@dataclass(frozen=True)
class Served:
    """A running server."""

    host: str
    port: int
    manager: FakeManager
    metrics: Metrics

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.host}:{self.port}/v1/realtime"

    def counted(self, line: str) -> bool:
        return line in self.metrics.render().decode().splitlines()

    async def ended(self, transport: str, reason: str) -> None:
        """Wait until one connection has ended for this reason."""
        line = f'duplex_connections_closed_total{{reason="{reason}",transport="{transport}"}} 1.0'
        await self.manager.until(lambda: self.counted(line))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test on the event loop that the server runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@asynccontextmanager
async def serving(
    manager: FakeManager | SessionManager | None = None,
    settings: Settings | None = None,
    page_folder: Path | None = None,
) -> AsyncIterator[Served]:
    """Serve until the block is left; sessions that still run are cut off."""
    settings = settings or Settings()
    real = manager if isinstance(manager, SessionManager) else None
    fake = FakeManager() if manager is None or isinstance(manager, SessionManager) else manager
    metrics = WatchedMetrics(fake.change)
    app = Overheard(
        create_app(
            real or cast(SessionManager, fake),
            settings,
            Gate.of(settings, lambda: NOW_S),
            metrics,
            page_folder,
            wall_clock_s=lambda: NOW_S,
        )
    )
    listening = listening_socket("127.0.0.1", 0)
    options = server_options(settings)
    server = uvicorn.Server(uvicorn.Config(app, **options))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield Served("127.0.0.1", listening.getsockname()[1], fake, metrics)
        finally:
            server.should_exit = True
            await asyncio.wait([running])  # before the group, if a test failed, cancels it halfway
    app.verdict()
