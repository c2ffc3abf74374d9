"""What a connection is for, once its first event has said so: a session that is resumed, or one that begins.

Knows nothing about HTTP or about the kind of connection.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable

from duplex_server.errors import AuthError, CapacityError, ClientError, DuplexError, InvalidEvent, SessionExpired
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.session.transport import MediaAudio, MediaFrame, Transport
from duplex_server.wire.codec import decode_client
from duplex_server.wire.error_objects import error_object
from duplex_server.wire.events import ClientEvent, ErrorEvent, ServerEvent, SessionResume
from duplex_server.wire.events import SessionExpired as SessionExpiredEvent

__all__ = ["Arrivals", "resume_in"]

FIRST_EVENT_TIMEOUT_S = 10.0
MAX_UNDECIDED = 64
"""Connections that may keep the server waiting for their first event. They hold no place, so they are counted here."""


class Arrivals:
    """Receives connections that begin with the client's word.

    Args:
        manager: has the sessions.
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._undecided = 0

    def admit(self) -> None:
        """Check that one more connection may be received.

        Raises:
            CapacityError: too many others have not said what they are for.
        """
        if self._undecided >= MAX_UNDECIDED:
            raise CapacityError(FIRST_EVENT_TIMEOUT_S)

    async def receive(self, transport: Transport, hello: Hello, admit: Callable[[], Awaitable[Place]]) -> None:
        """Wait for the first event, and do what it says until the connection is not used any more; then close it.

        Args:
            transport: the connection.
            hello: what it brought besides itself.
            admit: takes a place if it comes to a new session; may raise a DuplexError.

        Cancelled, it leaves the connection to the caller.
        """
        self._undecided += 1
        try:
            async with asyncio.timeout(FIRST_EVENT_TIMEOUT_S):
                first = await _first_event(transport)
        except TimeoutError:
            first = None
        finally:
            self._undecided -= 1
        if isinstance(first, SessionResume):
            await self.resume(transport, first)
        elif first is not None:
            await self._begin(transport, dataclasses.replace(hello, first=first), admit)

    async def resume(self, transport: Transport, asked: SessionResume) -> None:
        """Resume a session over a connection, or tell why not; returns when the connection is not used any more."""
        try:
            await self._manager.resume(transport, asked)
        except SessionExpired as error:
            transport.send(SessionExpiredEvent(event_id=_event_id(), session_id=asked.session_id, reason=error.reason))
            await transport.close(error)
        except ClientError as error:
            error.event_id = asked.event_id
            transport.send(_told(error))
            # 1008 tells a WebSocket client that trying again is of no use, whichever of its words was wrong.
            await transport.close(AuthError(str(error)))

    async def _begin(self, transport: Transport, hello: Hello, admit: Callable[[], Awaitable[Place]]) -> None:
        try:
            place = await admit()
        except DuplexError as error:
            transport.send(_told(error))
            await transport.close(error)
            return
        try:
            await self._manager.serve(place, transport, hello)
        finally:
            place.release()


def resume_in(session: str) -> SessionResume | None:
    """Return the ``session.resume`` that came with an offer, if one did; any other event is the session's to read."""
    try:
        event = decode_client(session) if session else None
    except InvalidEvent:
        return None
    return event if isinstance(event, SessionResume) else None


async def _first_event(transport: Transport) -> ClientEvent | None:
    """Return the first event that can be read; None if the peer leaves before. What cannot be read is answered."""
    async for received in transport.events():
        if isinstance(received, ClientError):
            transport.send(_told(received))
        elif not isinstance(received, MediaAudio | MediaFrame):
            return received
    return None


def _told(error: DuplexError) -> ServerEvent:
    return ErrorEvent(event_id=_event_id(), error=error_object(error))


def _event_id() -> str:
    return f"event_{secrets.token_hex(11)}"
