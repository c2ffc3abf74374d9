"""One WebSocket connection: events as text, sound inside them, and a peer that may not read.

Over ASGI a task takes always what came, since uvicorn stops reading meanwhile, and another one sends. Where the server
offers direct text, messages come without the one, and go without the other as long as the peer reads. Knows nothing
about admission or what events mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.websockets import WebSocket, WebSocketDisconnect

from duplex_server.errors import AuthError, CapacityError, DuplexError, SessionExpired, SlowPeer
from duplex_server.session.transport import EventStream, TransportTraits
from duplex_server.transports.continuous import ContinuousVoice
from duplex_server.transports.intake import Intake
from duplex_server.transports.mailbox import Mailbox
from duplex_server.transports.observer import TransportObserver
from duplex_server.transports.uvicorn_internals import direct_text
from duplex_server.types import TICK_MS, Pcm
from duplex_server.wire.dialect import Dialect
from duplex_server.wire.events import ServerEvent

__all__ = ["CLOSE_CODES", "WebSocketTransport", "close_code"]

_log = logging.getLogger(__name__)

TRAITS = TransportTraits(name="websocket", media_track=False, chunk_ms=100, lead_ms=250)

STREAM_TRAITS = TransportTraits(name="websocket", media_track=True, chunk_ms=TICK_MS, lead_ms=0)
"""Of a connection that carries sound as one stream at the pace of time, as a media track does."""

MAX_QUEUED_EVENTS = 100_000
"""Far more than fit into the queue's bytes."""

CLOSE_TIMEOUT_S = 2.0
"""How long a peer may take to read what is queued for it before the connection is closed on it."""

CLOSE_CODES: Mapping[type[DuplexError], int] = {SessionExpired: 1001, AuthError: 1008, CapacityError: 1013}
"""What each error means to a WebSocket client; no error is 1000, any other 1011 (RFC 6455 §7.4.1)."""

_BINARY = (1003, "Events are JSON text, not binary messages.")
_TOO_LONG = 1009
_GOODBYES = (1000, 1001, 1005)
"""Codes of a peer that leaves on purpose; 1005 stands for none. Whoever means to come back uses another one."""


def close_code(error: DuplexError | None) -> int:
    """Return the code that tells a peer why the connection is closed."""
    if error is None:
        return 1000
    return next((code for kind, code in CLOSE_CODES.items() if isinstance(error, kind)), 1011)


class WebSocketTransport:
    """A connection, as a :class:`~duplex_server.session.transport.Transport`. Made by :meth:`over`."""

    def __init__(
        self,
        socket: WebSocket,
        *,
        max_message_bytes: int,
        send_queue_bytes: int,
        observer: TransportObserver,
        dialect: Dialect,
        forward: Callable[[str], None] | None,
        voice: ContinuousVoice | None,
    ) -> None:
        self._socket = socket
        self._direct = direct_text(socket.scope)
        self._max_message_bytes = max_message_bytes
        self._observer = observer
        self._dialect = dialect
        self._intake = Intake(max_message_bytes, dialect)
        self._take = forward or self._intake.put_message
        self._voice = voice
        # When full, the connection is given up: SlowPeer.
        self._outbox: Mailbox[bytes] = Mailbox(limit_items=MAX_QUEUED_EVENTS, limit_bytes=send_queue_bytes)
        self._queued_bytes = 0
        self._farewell: tuple[int, str] | None = None
        self._ended_by = "server"
        self._closing = False
        self._closed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def over(
        cls,
        socket: WebSocket,
        *,
        max_message_bytes: int,
        send_queue_bytes: int,
        observer: TransportObserver,
        dialect: Dialect,
        forward: Callable[[str], None] | None = None,
        voice: ContinuousVoice | None = None,
    ) -> AsyncIterator[WebSocketTransport]:
        """Take charge of an accepted socket, and close it when the block is left.

        Args:
            socket: after ``accept()``.
            max_message_bytes: a longer message ends the connection with code 1009.
            send_queue_bytes: what may wait for a peer that does not read.
            observer: told what happens.
            dialect: how this peer spells events.
            forward: takes the peer's messages, as they are, instead of :meth:`events`.
            voice: carries sound as one stream; None: sound travels in responses' events.
        """
        transport = cls(
            socket,
            max_message_bytes=max_message_bytes,
            send_queue_bytes=send_queue_bytes,
            observer=observer,
            dialect=dialect,
            forward=forward,
            voice=voice,
        )
        observer.connection_opened(TRAITS.name)
        try:
            if transport._direct is not None:
                transport._direct.read_text(transport._receive)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(transport._read())
                writing = tasks.create_task(transport._write())
                streaming = tasks.create_task(voice.run(transport.send_text)) if voice else None
                try:
                    yield transport
                finally:
                    await transport.close()
                    reading.cancel()
                    writing.cancel()
                    if streaming is not None:
                        streaming.cancel()
        finally:
            observer.connection_closed(TRAITS.name, transport._ended_by)

    @property
    def traits(self) -> TransportTraits:
        """How audio leaves a WebSocket: inside events ahead of time, or as a stream tick by tick."""
        return STREAM_TRAITS if self._voice else TRAITS

    @property
    def ended(self) -> bool:
        """Whether the peer is gone, or the connection closed."""
        return self._intake.closed

    @property
    def lost(self) -> bool:
        """Whether the connection broke off, or the peer did not read."""
        return self._ended_by in ("lost", "slow")

    @property
    def heard_s(self) -> float:
        """Not for this transport."""
        raise AssertionError("a WebSocket has no media track")

    def events(self) -> EventStream:
        """Iterate over what the peer sends; ends when it is gone or :meth:`close` was called."""
        return self._intake

    def send(self, event: ServerEvent) -> None:
        """Queue an event. Never waits; a peer that has let its queue fill up is given up."""
        for message in self._dialect.tell(event):
            self._send(message)

    def drop_rest(self) -> None:
        """Forget the other events of the message whose event was taken last."""
        self._intake.drop_rest()

    def hang_up(self) -> None:
        """End the event stream as if the peer had left; whoever reads it then closes the connection."""
        self._end("server")

    def send_text(self, text: str) -> None:
        """Queue a message as it is, as :meth:`send` does."""
        self._send(text.encode())

    def send_audio(self, pcm: Pcm) -> None:
        """Put one tick of speech into the stream; only with a ``voice``."""
        assert self._voice is not None, "a WebSocket has no media track"
        self._voice.push(pcm)

    def clear_audio(self) -> None:
        """Drop speech that the stream has not given out. What was sent is with the peer."""
        if self._voice is not None:
            self._voice.clear()

    def stats(self) -> Mapping[str, float]:
        """Return ``queued_bytes``: what waits because the peer does not read as fast as it is sent to."""
        return {"queued_bytes": float(self._queued_bytes)}

    async def close(self, error: DuplexError | None = None) -> None:
        """Send what is queued, say why in a close code, close. Safe to call twice; takes 2 s at most.

        Cancelled, it leaves the closing to the block that :meth:`over` guards.
        """
        self._intake.close(discard=True)
        self._outbox.close()
        if self._closing:
            return
        self._closing = True
        if self._farewell is None:
            self._farewell = (close_code(error), _reason(error))
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._closed.wait()
        except TimeoutError:
            _log.info("a WebSocket peer did not read its last %d bytes", self._queued_bytes)

    def _end(self, ended_by: str, farewell: tuple[int, str] | None = None) -> None:
        """End the event stream; the session then closes the connection."""
        if not self._intake.closed:
            self._ended_by = ended_by
            self._farewell = self._farewell or farewell
            self._intake.close()

    def _send(self, message: bytes) -> None:
        if self._outbox.closed:
            return
        # What is queued goes first.
        if self._direct is not None and not self._queued_bytes and self._direct.write_text(message):
            self._observer.bytes_moved(TRAITS.name, 0, len(message))
            return
        if self._outbox.put(message, len(message)):
            self._queued_bytes += len(message)
            return
        _log.info("a WebSocket peer is given up: %s", SlowPeer(self._queued_bytes))
        self._outbox.close(discard=True)
        self._end("slow")

    def _receive(self, text: str) -> None:
        self._observer.bytes_moved(TRAITS.name, len(text), 0)
        if len(text) > self._max_message_bytes:
            self._end("refused", (_TOO_LONG, f"A message may have {self._max_message_bytes} bytes."))
        else:
            self._take(text)

    async def _read(self) -> None:
        """Take everything that arrives over ASGI, at once, until the peer is gone."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                _log.info("a WebSocket peer left with code %s", message.get("code"))
                # uvicorn gives a reason, if an empty one, where there was a close frame.
                self._end("peer" if "reason" in message and message["code"] in _GOODBYES else "lost")
                return
            text: str | None = message.get("text")
            if text is None:
                self._end("refused", _BINARY)
            else:
                self._receive(text)

    async def _write(self) -> None:
        """Send over ASGI what is queued, in order; then close."""
        try:
            async for message in self._outbox:
                await self._socket.send_text(message.decode())
                self._queued_bytes -= len(message)
                self._observer.bytes_moved(TRAITS.name, 0, len(message))
            code, reason = self._farewell or (1011, "")
            await self._socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            # RuntimeError: uvicorn's and starlette's word for a socket that the peer, or a missed ping, has closed.
            _log.debug("a WebSocket peer left while it was written to")  # how, the reading side is told
        finally:
            self._outbox.close(discard=True)
            self._closed.set()


def _reason(error: DuplexError | None) -> str:
    """Return what a close frame can hold of an error's message: 123 bytes (RFC 6455 §5.5)."""
    return "" if error is None else str(error).encode()[:123].decode(errors="ignore")
