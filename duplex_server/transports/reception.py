"""What every way into a conversation has in common: who may enter, a place, a socket that is accepted, first words.

Knows nothing about routes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from duplex_server.config import Settings
from duplex_server.errors import CapacityError, ClientError, DuplexError, InvalidEvent
from duplex_server.security import Entry, Gate
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.transports.calls import Calls
from duplex_server.transports.continuous import ContinuousVoice
from duplex_server.transports.observer import TransportObserver
from duplex_server.transports.replies import error_reply, visitor_of
from duplex_server.transports.websocket import WebSocketTransport
from duplex_server.wire.dialect import Dialect, RealtimeDialect
from duplex_server.wire.error_objects import error_object
from duplex_server.wire.events import ErrorEvent, SessionUpdate
from duplex_server.wire.session_object import OPT_IN_NAMES
from duplex_server.wire.session_state import REALTIME_PCM_RATES_HZ
from duplex_server.wire.vllm_dialect import VLLM_PCM_RATES_HZ, VLLM_SESSION

__all__ = ["Reception", "asks", "hello_of"]

_log = logging.getLogger(__name__)

OPENING_TIMEOUT_S = 10.0
"""How long a peer that is to speak first may hold a place without having done so."""

_SUBPROTOCOL = "realtime"


class Reception:
    """Lets visitors in."""

    def __init__(self, manager: SessionManager, settings: Settings, gate: Gate, observer: TransportObserver) -> None:
        self._manager = manager
        self._settings = settings
        self._gate = gate
        self._observer = observer

    async def place_for(self, connection: HTTPConnection[Any], entry: Entry) -> Place:
        """Take a place, or one in the line for a client that knows of lines, that counts against the key.

        Raises:
            CapacityError: the server is full.
            AuthError, Throttled: the key or the client secret has its share.

        A cancelled call takes none.
        """
        end = await self._gate.begin_session(entry)
        try:
            place = await self._manager.admit(queue=asks(connection, "queue") or asks(connection, "duplex"))
        except BaseException:
            end()
            raise
        place.also(end)
        return place

    @asynccontextmanager
    async def accepted(
        self,
        socket: WebSocket,
        dialect: Dialect,
        *,
        forward: Callable[[str], None] | None = None,
        voice: ContinuousVoice | None = None,
    ) -> AsyncIterator[WebSocketTransport]:
        """Accept a WebSocket, and close it when the block is left; see :meth:`WebSocketTransport.over`."""
        await socket.accept(_SUBPROTOCOL if _SUBPROTOCOL in socket.scope["subprotocols"] else None)
        async with WebSocketTransport.over(
            socket,
            max_message_bytes=self._settings.max_message_bytes,
            send_queue_bytes=self._settings.send_queue_bytes,
            observer=self._observer,
            dialect=dialect,
            forward=forward,
            voice=voice,
        ) as transport:
            yield transport

    async def refuse(self, socket: WebSocket, error: DuplexError) -> None:
        """Say before the upgrade why there will be none."""
        self.note_refusal("websocket", error)
        await socket.send_denial_response(error_reply(error))

    async def listen_in(self, socket: WebSocket, calls: Calls, call_id: str) -> None:
        """Attach a WebSocket to a call: it hears every event, and may send as the call's own peer does."""
        try:
            entry = self._gate.admit_owner(visitor_of(socket))
            call = calls.find(call_id, entry.key_id)
        except DuplexError as error:
            await self.refuse(socket, error)
            return
        async with self.accepted(socket, RealtimeDialect(), forward=call.receive) as sideband:
            try:
                with call.listeners.joined(sideband):
                    async for _ in sideband.events():
                        raise AssertionError("what a sideband receives goes to its call")
            except CapacityError as error:
                await sideband.close(error)

    def note_refusal(self, transport: str, error: DuplexError) -> None:
        """Count somebody who was not let in."""
        self._observer.connection_refused(transport, error.error_code if isinstance(error, ClientError) else error.code)

    async def opening(self, transport: WebSocketTransport, hello: Hello) -> Hello | None:
        """Wait until a peer that speaks first has said what its session is to begin with.

        What is wrong is told, and the peer may try again.

        Returns:
            ``hello`` with that; None if the peer left, or took too long.

        Cancelled, it leaves the connection as it is.
        """
        try:
            async with asyncio.timeout(OPENING_TIMEOUT_S):
                async for received in transport.events():
                    error: ClientError
                    if isinstance(received, SessionUpdate):
                        opened = replace(hello, session=(*hello.session, received.session))
                        try:
                            self._manager.preview(opened)
                            return opened
                        except InvalidEvent as wrong:
                            error = wrong
                            error.event_id = received.event_id
                            transport.drop_rest()
                    elif isinstance(received, ClientError):
                        error = received
                    else:
                        error = InvalidEvent("Send session.update first.", param="type", code="session_not_started")
                        error.event_id = getattr(received, "event_id", None)
                    transport.send(ErrorEvent(event_id=f"event_{secrets.token_hex(12)}", error=error_object(error)))
        except TimeoutError:
            _log.info("a peer that was to speak first did not")
        return None


def hello_of(connection: HTTPConnection[Any], entry: Entry) -> Hello:
    """Read off a request, and who made it, what its session should know."""
    client, given = connection.client, entry.session
    duplex, speaks_first = asks(connection, "duplex"), connection.query_params.get("autostart") == "0"
    base = (VLLM_SESSION,) if duplex and speaks_first else ()
    return Hello(
        opt_in=OPT_IN_NAMES if duplex else frozenset({"resume"} if asks(connection, "resume") else ()),
        client="" if client is None else f"{client.host}:{client.port}",
        key_id=entry.key_id,
        session=base if given is None else (*base, given),
        session_max_s=entry.max_session_s,
        input_rates_hz=VLLM_PCM_RATES_HZ if duplex else REALTIME_PCM_RATES_HZ,
    )


def asks(connection: HTTPConnection[Any], name: str) -> bool:
    """Whether a query parameter says yes."""
    return connection.query_params.get(name) in ("1", "true", "on")
