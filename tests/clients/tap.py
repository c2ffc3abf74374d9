"""A relay between a client and a server that changes nothing, hears both, and can be cut like a cable.

Only what would hide the text is taken away: the client's offer to compress.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.wire_witness import Witness

__all__ = ["Line", "Tap", "tapping"]

_TEXT, _CLOSE = 1, 8


class _Frames:
    """Takes one direction of a WebSocket apart (RFC 6455, section 5.2), as it flows by."""

    def __init__(self, on_message: Callable[[int, bytes], None]) -> None:
        self._on_message = on_message
        self._bytes = bytearray()
        self._opcode = 0
        self._message = bytearray()

    def feed(self, flowed: bytes) -> None:
        self._bytes += flowed
        while self._take_frame():
            pass

    def _take_frame(self) -> bool:
        held = self._bytes
        if len(held) < 2:
            return False
        masked, length, at = bool(held[1] & 0x80), held[1] & 0x7F, 2
        if length >= 126:
            n_bytes = 2 if length == 126 else 8
            if len(held) < 2 + n_bytes:
                return False
            length, at = int.from_bytes(held[2 : 2 + n_bytes]), 2 + n_bytes
        end = at + 4 * masked + length
        if len(held) < end:
            return False
        payload = bytes(held[end - length : end])
        if masked:
            key = bytes(held[at : at + 4]) * (length // 4 + 1)
            payload = (int.from_bytes(payload) ^ int.from_bytes(key[:length])).to_bytes(length)
        first = held[0]
        del held[:end]
        if first & 0x0F >= _CLOSE:  # control frames may come between the parts of a message
            self._on_message(first & 0x0F, payload)
            return True
        self._opcode = first & 0x0F or self._opcode
        self._message += payload
        if first & 0x80:
            self._on_message(self._opcode, bytes(self._message))
            self._message.clear()
        return True


@dataclass
class Line:
    """One connection of a client."""

    request: str = ""
    """The first line of its request."""
    sent: list[dict[str, Any]] = field(default_factory=list)
    """What the client said."""
    witness: Witness | None = None
    """Who hears the server's side, once it is a WebSocket."""
    close_code: int | None = None
    """The server's."""
    cut: Callable[[], None] = lambda: None
    """Tear the line, towards both."""

    @property
    def heard(self) -> list[dict[str, Any]]:
        """What the server said."""
        return [] if self.witness is None else self.witness.events

    def _client_said(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self.sent.append(json.loads(payload))

    def _server_said(self, opcode: int, payload: bytes) -> None:
        assert self.witness is not None
        if opcode == _CLOSE:
            self.close_code = int.from_bytes(payload[:2]) if payload else 1005
        elif opcode < _CLOSE:
            self.witness.hear(payload.decode() if opcode == _TEXT else payload)


@dataclass
class Tap:
    """Where clients connect to; ``lines`` are their connections, oldest first."""

    server_port: int
    opted_in: bool
    port: int = 0
    lines: list[Line] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The API's address, as a client is given it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> list[Line]:
        """The connections that became WebSockets."""
        return [line for line in self.lines if line.witness is not None]

    def verdict(self) -> None:
        """Raise what was wrong on any line."""
        for line in self.calls:
            assert line.witness is not None
            line.witness.verdict()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        line = Line()
        self.lines.append(line)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port)

        def cut() -> None:
            writer.transport.abort()
            to_server.transport.abort()

        line.cut = cut
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._from_client(line, reader, to_server))
                both.create_task(self._from_server(line, from_server, writer))
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            cut()

    async def _from_client(self, line: Line, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line.request = head.split("\r\n", 1)[0]
        head = re.sub(r"(?im)^sec-websocket-extensions:.*\r\n", "", head)
        to_server.write(head.encode())
        frames = _Frames(line._client_said) if "upgrade: websocket" in head.lower() else None
        await _pump(reader, to_server, frames)

    async def _from_server(self, line: Line, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await from_server.readuntil(b"\r\n\r\n")
        frames = None
        if head.startswith(b"HTTP/1.1 101"):
            line.witness = Witness(opted_in=self.opted_in)
            frames = _Frames(line._server_said)
        writer.write(head)
        await _pump(from_server, writer, frames)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: _Frames | None) -> None:
    while flowed := await reader.read(1 << 16):
        if frames is not None:
            frames.feed(flowed)
        writer.write(flowed)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@asynccontextmanager
async def tapping(server_port: int, *, opted_in: bool = False) -> AsyncIterator[Tap]:
    """Relay to a server on this machine; when the block is left in peace, what it said is judged."""
    tap = Tap(server_port, opted_in)
    listening = await asyncio.start_server(tap.relay, "127.0.0.1", 0)
    tap.port = listening.sockets[0].getsockname()[1]
    try:
        yield tap
        tap.verdict()
    finally:
        for line in tap.lines:
            line.cut()
        listening.close()
        await listening.wait_closed()
