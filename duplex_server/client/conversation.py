"""A conversation with a server, seen from a program: connect, send microphone and camera, follow what comes back.

Where the server can do that, a connection that breaks is made again and the conversation goes on. Knows nothing about
sound cards or terminals.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import msgspec

from duplex_server.client import websocket
from duplex_server.client.link import Link, Received
from duplex_server.client.resuming import OpenLink, open_resuming
from duplex_server.errors import ClientError, ConfigError, InvalidEvent, TransportError
from duplex_server.types import Pcm
from duplex_server.wire.events import (
    ClientEvent,
    ErrorEvent,
    InputImageBufferAppend,
    SessionCreated,
    SessionQueued,
    SessionQueueDone,
    SessionQueueUpdate,
    SessionResume,
    SessionUpdate,
    SessionUpdated,
)
from duplex_server.wire.session_object import Session, SessionPatch

__all__ = ["Conversation", "InLine", "TransportName", "connect"]

TransportName = Literal["websocket", "webrtc"]

InLine = SessionQueued | SessionQueueUpdate
"""News of waiting for a place: ``position``, ``estimated_wait_s``, ``queue_length``."""

_OPEN_TIMEOUT_S = 10.0
"""For the connection, for ``session.created``, and for ``session.updated``, each; not for a line."""


class Conversation:
    """An open conversation. Made by :func:`connect`.

    :meth:`events` must be read all the time: what it does not take waits on the way, and audio's arrival times with it.
    """

    def __init__(self, link: Link, session: Session) -> None:
        self._link = link
        self._session = session
        self._waiting: deque[Received] = deque()  # what came while connect() waited; bounded by its time limit

    @property
    def session(self) -> Session:
        """The effective session, as the server reported it last."""
        return self._session

    @property
    def media_track(self) -> bool:
        """Whether audio travels on a media track, with a clock of its own, beside the events."""
        return self._link.media_track

    async def send(self, event: ClientEvent) -> bool:
        """Send an event.

        Returns:
            Whether the conversation was still on: False when the server has ended it in good order.

        Raises:
            DuplexError: the connection has ended otherwise, with the reason.
        """
        return await self._link.send(event)

    async def send_audio(self, pcm: Pcm, rate_hz: int) -> bool:
        """Send what the microphone heard; returns and raises as :meth:`send`.

        The stream should not pause: a muted microphone sends silence.

        Args:
            pcm: float32 mono ``[n]``, −1..1; pieces of 20 ms are usual.
            rate_hz: the same for the whole conversation.
        """
        return await self._link.send_audio(pcm, rate_hz)

    async def send_frame(self, jpeg: bytes, *, captured_ms: float | None = None) -> bool:
        """Send a camera picture, one per second is usual; returns and raises as :meth:`send`.

        Args:
            jpeg: a JPEG, PNG or WebP file.
            captured_ms: when it was taken, ms since the first audio that was sent; None: now.
        """
        image = base64.b64encode(jpeg).decode()
        return await self._link.send(InputImageBufferAppend(image=image, capture_ms=captured_ms))

    async def events(self) -> AsyncIterator[Received]:
        """Iterate over events and received audio in the order of arrival; read it in one task.

        Ends when the server closes the conversation in good order.

        Raises:
            SessionExpired: a limit announced ahead was reached.
            CapacityError: the server gave the place away.
            TransportError: the connection broke, or the server failed.
        """
        while self._waiting:
            yield self._waiting.popleft()
        while (received := await self._receive()) is not None:
            yield received

    async def _receive(self) -> Received | None:
        received = await self._link.receive()
        if isinstance(received, SessionCreated | SessionUpdated):
            self._session = received.session
        return received

    async def _await_session(
        self,
        kind: type[SessionCreated] | type[SessionUpdated],
        timeout_s: float,
        on_queue: Callable[[InLine], None] = lambda _: None,
    ) -> None:
        """Read until the server reports the session; keep everything that comes before, but for news of a line."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while (received := await self._receive()) is not None:
                    if isinstance(received, SessionQueued | SessionQueueUpdate):
                        limit.reschedule(None)
                        on_queue(received)
                        continue
                    if isinstance(received, SessionQueueDone):
                        limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
                        continue
                    self._waiting.append(received)
                    if isinstance(received, kind):
                        return
                    if isinstance(received, ErrorEvent):
                        raise ClientError(received.error.message, param=received.error.param, code=received.error.code)
        except TimeoutError:
            raise TransportError(f"the server did not report the session within {timeout_s:.0f} s") from None
        raise TransportError("the server closed the connection before it reported the session")


@asynccontextmanager
async def connect(
    server: str,
    *,
    transport: TransportName = "websocket",
    api_key: str | None = None,
    session: SessionPatch | Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
    timeout_s: float = _OPEN_TIMEOUT_S,
    resume: bool = True,
    on_queue: Callable[[InLine], None] | None = None,
) -> AsyncIterator[Conversation]:
    """Open a conversation, and close it at the end of the block.

    Cancelled while it waits, for the server or in the line, it closes the connection, which gives the place in the line
    up.

    Args:
        server: ``http://host:port``, a full ``wss://…/v1/realtime`` URL, or ``host:port``.
        transport: ``"websocket"`` or ``"webrtc"``.
        api_key: sent as a bearer token.
        session: settings as in ``session.update``; they hold when the block is entered.
        query: parameters of the URL, as ``{"model": "x"}``.
        timeout_s: for each step of opening.
        resume: whether a connection that breaks is made again, and the conversation goes on: what did not arrive is
            sent again, both ways.
        on_queue: waits in the server's line while every place is taken, for as long as that takes, and is called with
            the position and the estimated wait at first, at each change, and every 10 s; :func:`asyncio.timeout` around
            the block's beginning sets a limit. None: a full server is an error.

    Raises:
        AuthError: the server refused the key.
        CapacityError: it is full, and with ``on_queue`` its line as well; or it was stopped while this waited.
        ClientError: it refused the settings.
        ConfigError: the address or the transport's name makes no sense.
        TransportError: it cannot be reached, or does not speak this protocol.
    """
    patch = _patch(session)
    asked = dict(query or {}) | ({"resume": "1"} if resume else {}) | ({"queue": "1"} if on_queue else {})
    open_link = _opener(server, transport, api_key, asked, timeout_s)
    opening = open_resuming(open_link) if resume else open_link(None, lambda _: None)
    async with opening as link:
        conversation = Conversation(link, Session())
        await conversation._await_session(SessionCreated, timeout_s, on_queue or (lambda _: None))
        if patch is not None:
            await conversation.send(SessionUpdate(session=patch))
            await conversation._await_session(SessionUpdated, timeout_s)
        yield conversation


def _opener(server: str, transport: str, api_key: str | None, query: dict[str, str], timeout_s: float) -> OpenLink:
    if transport == "websocket":
        open_link = websocket.open_link
    elif transport == "webrtc":
        from duplex_server.client import webrtc  # here, since aiortc takes half a second to import

        open_link = webrtc.open_link
    else:
        raise ConfigError(f"There is no transport {transport!r}. Use websocket or webrtc.")

    def opened(
        asked: SessionResume | None, on_sent: Callable[[ClientEvent], None]
    ) -> AbstractAsyncContextManager[Link]:
        return open_link(server, api_key=api_key, query=query, timeout_s=timeout_s, resume=asked, on_sent=on_sent)

    return opened


def _patch(session: SessionPatch | Mapping[str, Any] | None) -> SessionPatch | None:
    if session is None or isinstance(session, SessionPatch):
        return session
    try:
        return msgspec.convert(session, SessionPatch)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"The session settings are wrong: {error}.", param="session") from error
