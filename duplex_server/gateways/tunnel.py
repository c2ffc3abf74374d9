"""Requests that belong to another gateway, carried to it: ASGI over a socket between the two.

What travels is what the server above and the application below tell each other anyway, so the owner's application
answers as if the peer had come to it: it sees the same headers, checks the same key, counts the same address. Knows
nothing about which request belongs where.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from duplex_server.gateways.channel import read_frame
from duplex_server.gateways.messages import pack, unpack

__all__ = ["Application", "Message", "Receive", "Scope", "Send", "Tunnel", "open_tunnel", "socket_of", "tunnels_taken"]

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TIMEOUT_S = 2.0
"""Both ends are on one machine: an owner that takes longer is stuck."""

_TOLD_OF_SCOPE = (
    *("type", "http_version", "scheme", "method", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server", "subprotocols"),
)
_TOLD_EXTENSIONS = ("websocket.http.response",)
"""Those that are messages; others are objects of one process."""
_DONE = {"type": "duplex.done"}
"""The owner's application has returned; a stream that ends without it has lost its owner."""


def socket_of(folder: Path, gateway: int) -> Path:
    """Return where a gateway takes tunnels."""
    return folder / f"{gateway}.sock"


class Tunnel:
    """One request on its way to its owner. Made by :func:`open_tunnel`; :meth:`close` it in the end."""

    def __init__(self, scope: Scope, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = {name: scope[name] for name in _TOLD_OF_SCOPE if name in scope}
        told["extensions"] = [name for name in _TOLD_EXTENSIONS if name in scope.get("extensions", ())]
        writer.write(pack(told))
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        """Cut the tunnel; the owner sees a peer whose connection broke."""
        self._writer.close()

    async def carry(self, receive: Receive, send: Send, first: Sequence[Message] = ()) -> bool:
        """Carry messages both ways until the owner has answered all.

        Args:
            receive: from the peer.
            send: to the peer.
            first: messages that were received already.

        Returns:
            Whether it has; False if it was lost before.

        Cancelled, it leaves the tunnel to be closed.
        """
        async with asyncio.TaskGroup() as tasks:
            going = tasks.create_task(self._go(receive, first))
            try:
                return await self._come(send)
            finally:
                going.cancel()

    async def _go(self, receive: Receive, first: Sequence[Message]) -> None:
        with contextlib.suppress(OSError):  # the owner is lost, which the other direction finds out
            for message in first:
                await self._put(message)
            while True:
                message = await receive()
                await self._put(message)
                if message["type"].endswith(".disconnect"):
                    return

    async def _put(self, message: Message) -> None:
        self._writer.write(pack(message))
        await self._writer.drain()

    async def _come(self, send: Send) -> bool:
        while (payload := await read_frame(self._reader)) is not None:
            message = unpack(payload)
            if message == _DONE:
                return True
            if "headers" in message:
                message["headers"] = _pairs(message["headers"])
            with contextlib.suppress(OSError, RuntimeError):
                # uvicorn's words for a peer that has gone; how, the other direction tells the owner.
                await send(message)
        return False


async def open_tunnel(path: Path, scope: Scope) -> Tunnel | None:
    """Open a tunnel for a request; None if nobody is at its other end.

    Args:
        path: from :func:`socket_of`.
        scope: the request's.

    A cancelled call opens none.
    """
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
    except OSError:  # TimeoutError is one
        return None
    return Tunnel(scope, reader, writer)


@contextlib.asynccontextmanager
async def tunnels_taken(app: Application, path: Path) -> AsyncIterator[None]:
    """Answer the requests that come through tunnels until the block is left; those that run then are cut off.

    Args:
        app: answers them.
        path: from :func:`socket_of`; what a gateway that died has left there is replaced.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # noqa: ASYNC240 - a moment, and before anything is served
    async with asyncio.TaskGroup() as tasks:
        running = set[asyncio.Task[None]]()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = tasks.create_task(_answer(app, reader, writer), name="tunnel")
            running.add(task)
            task.add_done_callback(running.discard)

        server = await asyncio.start_unix_server(take, path)
        try:
            yield
        finally:
            server.close()
            for task in tuple(running):
                task.cancel()


async def _answer(app: Application, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request. The border for errors: a bug ends this request and touches no other.

    Cancelled, it cuts the request off.
    """
    try:
        payload = await read_frame(reader)
        if payload is None:
            return
        scope = _scope(unpack(payload))
        lost = {"type": "websocket.disconnect", "code": 1006} if scope["type"] == "websocket" else _GONE

        async def receive() -> Message:
            payload = await read_frame(reader)
            return dict(lost) if payload is None else unpack(payload)

        async def send(message: Message) -> None:
            writer.write(pack(message))
            await writer.drain()

        with contextlib.suppress(OSError):  # the gateway in front is lost, and the peer with it
            await app(scope, receive, send)
            await send(_DONE)
    except Exception:  # noqa: BLE001 - the border of a request, which is uvicorn's for those that come directly
        _log.exception("a request through a tunnel ended by a bug")
    finally:
        writer.close()


_GONE = {"type": "http.disconnect"}


def _scope(told: dict[str, Any]) -> Scope:
    scope: Scope = {**told, "asgi": {"version": "3.0", "spec_version": "2.4"}, "state": {}}
    scope["headers"] = _pairs(told["headers"])
    scope["extensions"] = {name: {} for name in told["extensions"]}
    for end in ("client", "server"):
        if told.get(end):
            scope[end] = tuple(told[end])
    return scope


def _pairs(headers: Sequence[Sequence[bytes]]) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in headers]
