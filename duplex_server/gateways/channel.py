"""Frames over stream sockets: the channel between the supervisor and a gateway, and what else reads frames.

Knows nothing about what is in them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from duplex_server.frames import LENGTH, FrameBuffer
from duplex_server.gateways.messages import pack

__all__ = ["Channel", "read_frame", "receive_frame"]

MAX_FRAME_BYTES = 2**31
"""More than any message of a client may have (``max_message_bytes``): a longer frame is none of ours."""


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Read the payload of the next frame; None if the stream ends, or what comes is no frame.

    Cancelled, it leaves a stream of which nothing more can be read.
    """
    try:
        (n_bytes,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return None if n_bytes > MAX_FRAME_BYTES else await reader.readexactly(n_bytes)
    except (asyncio.IncompleteReadError, OSError):
        return None


def receive_frame(stream: socket.socket) -> bytes | None:
    """Read the payload of one frame from a blocking socket, and nothing behind it; None if the stream ends."""
    head = _receive(stream, LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (n_bytes,) = LENGTH.unpack(head)
    payload = _receive(stream, n_bytes)
    return payload if len(payload) == n_bytes else None


def _receive(stream: socket.socket, n_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < n_bytes and (piece := stream.recv(n_bytes - len(received))):
        received += piece
    return bytes(received)


class Channel(asyncio.BufferedProtocol):
    """One end of the socket between the supervisor and a gateway.

    Args:
        hear: called with the payload of each frame, in order.
        lost: called once, when nothing more will come.
    """

    def __init__(self, hear: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._hear = hear
        self._lost = lost
        self._frames: FrameBuffer[bytes] = FrameBuffer(lambda payload: [bytes(payload)])
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        for payload in self._frames.filled(nbytes):
            self._hear(payload)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    @property
    def unsent_bytes(self) -> int:
        """What the other end has not read yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, message: Any) -> None:
        """Send a message. Never waits; what is sent to a lost end is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(message))

    def close(self) -> None:
        """Close this end; what was sent is delivered first."""
        if self._transport is not None:
            self._transport.close()
