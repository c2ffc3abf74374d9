"""Text straight between a WebSocket and its transport, past ASGI, for the uvicorn that it was written against.

Over ASGI each message that comes is a dict in a queue, stops the reading of the socket, and waits for a task's turn;
each that goes waits for another's. Everything but text (the handshake, keepalive, closing) stays uvicorn's. Knows
nothing about events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C code
    from websockets.utils import apply_mask

__all__ = ["DIRECT_TEXT", "DirectText", "direct_text", "websocket_protocol"]

_log = logging.getLogger(__name__)

KNOWN = "0.54."
"""Beginning of the versions whose insides are known."""

_FINAL_TEXT = 0x81
_MASKED = 0x80
_LENGTH_FOLLOWS = 126

DIRECT_TEXT = "duplex_server.direct_text"
"""Names a :class:`DirectText` among the extensions of a connection's ASGI scope."""


class DirectText(Protocol):
    """One accepted connection's text, synchronously."""

    def read_text(self, take: Callable[[str], None]) -> None:
        """Hand over every text message from now on, in order, those first that wait already. It never stops reading.

        The end, and what is not text, still come over ASGI.
        """
        ...

    def write_text(self, message: bytes) -> bool:
        """Write a text message, UTF-8; return whether it was. It is not while the peer does not read, or is gone."""
        ...


def direct_text(scope: Mapping[str, Any]) -> DirectText | None:
    """Return what a connection's ASGI scope offers; None where the server is another one."""
    offered = scope.get("extensions", {}).get(DIRECT_TEXT)
    return None if offered is None else cast(DirectText, offered["text"])


def websocket_protocol() -> str | type[asyncio.Protocol]:
    """Return what ``uvicorn.Config(ws=...)`` is to be: ours, or uvicorn's own where its version is not known."""
    if uvicorn.__version__.startswith(KNOWN):
        return _DirectProtocol
    _log.warning("uvicorn %s is not %sx: text over WebSockets costs more with it", uvicorn.__version__, KNOWN)
    return "websockets-sansio"


class _DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, which offers itself as a :class:`DirectText` to its application."""

    _take: Callable[[str], None] | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:  # otherwise nobody is asked; if so, the task that asks has not begun yet
            self.scope["extensions"][DIRECT_TEXT] = {"text": self}

    def read_text(self, take: Callable[[str], None]) -> None:
        self._take = take
        for _ in range(self.queue.qsize()):
            message = self.queue.get_nowait()
            if message["type"] == "websocket.receive" and (text := message.get("text")) is not None:
                take(text)
            else:
                self.queue.put_nowait(message)
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()

    def write_text(self, message: bytes) -> bool:
        if self.disconnected or self.conn.state is not State.OPEN or not self.writable.is_set():
            return False
        self.conn.send_text(message)
        self.transport.write(b"".join(self.conn.data_to_send()))
        return True

    def data_received(self, data: bytes) -> None:
        if self._take is None or (text := self._whole_text(data)) is None:
            super().data_received(data)
        else:
            self._take(text)

    def _whole_text(self, data: bytes) -> str | None:
        """Return the text of a chunk that is one whole message of up to 64 KiB (RFC 6455 §5.2), as most are.

        None leaves it to the library, whose parser takes chunks of any kind, and several times as long for them.
        """
        n_bytes = len(data)
        if n_bytes < 8 or data[0] != _FINAL_TEXT:
            return None
        begin, length = 6, data[1] - _MASKED
        if length == _LENGTH_FOLLOWS:
            begin, length = 8, data[2] << 8 | data[3]
        conn = self.conn
        if n_bytes != begin + length or data[1] > _MASKED | _LENGTH_FOLLOWS or conn.state is not State.OPEN:
            return None
        if conn.extensions or conn.current_size is not None or not _at_frame(conn.parser):
            return None
        try:
            return apply_mask(memoryview(data)[begin:], data[begin - 4 : begin]).decode()
        except UnicodeDecodeError:
            return None

    def send_receive_event_to_app(self) -> None:
        if self._take is None or self.curr_msg_data_type != "text" or self.close_sent:
            super().send_receive_event_to_app()
            return
        try:
            text = b"".join(self.frames).decode()
        except UnicodeDecodeError:
            super().send_receive_event_to_app()  # which closes the connection for it
            return
        self.frames = []
        self._take(text)


def _at_frame(parser: Any) -> bool:
    """Whether a connection's parser, which has read all that came, waits for a frame's first byte, not within one."""
    waiting = parser.gi_yieldfrom  # Protocol.parse within ServerProtocol.parse
    return waiting is not None and waiting.gi_yieldfrom.gi_code is _BETWEEN_FRAMES


_BETWEEN_FRAMES = StreamReader.at_eof.__code__
