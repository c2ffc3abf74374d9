"""The relay changes nothing, hears both sides, and what is wrong on the server's fails the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.clients.tap import Tap, tapping
from tests.helpers.wire_driver import WireDriver
from tests.helpers.wire_oracle import OrderError

LONG = "x" * 70_000
"""Needs the longest of the three ways to write a length, and masks of every alignment."""
Server = Callable[[ServerConnection], Any]


def _run(server: Server, client: Callable[[Tap], Any]) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"subprotocols": [Subprotocol("realtime")], "compression": "deflate"}
        async with serve(server, "127.0.0.1", 0, **options) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            async with tapping(port) as tap:
                await client(tap)

    asyncio.run(main())


async def _greet(socket: ServerConnection, *extra: dict[str, Any]) -> None:
    driver = WireDriver()
    driver.client("session.update", session={"instructions": LONG[:60_000]})
    for event in [*driver.sent, *extra]:
        await socket.send(json.dumps(event))


async def _listen(tap: Tap, n_events: int) -> None:
    async with connect(f"ws://127.0.0.1:{tap.port}/x", subprotocols=[Subprotocol("realtime")]) as socket:
        assert socket.subprotocol == "realtime"
        await socket.send([json.dumps({"type": LONG})[:10], json.dumps({"type": LONG})[10:]])
        for _ in range(n_events):
            await socket.recv()


async def _closed(socket: ClientConnection) -> ConnectionClosed:
    """Read until the connection is closed, and return how."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as how:
        return how


def test_both_sides_are_heard() -> None:
    async def server(socket: ServerConnection) -> None:
        await socket.recv()
        await _greet(socket)
        await socket.close(4001)

    async def client(tap: Tap) -> None:
        async with connect(f"ws://127.0.0.1:{tap.port}/x", subprotocols=[Subprotocol("realtime")]) as socket:
            await socket.send([json.dumps({"type": LONG})[:10], json.dumps({"type": LONG})[10:]])
            closed = await _closed(socket)
        assert closed.rcvd is not None
        (line,) = tap.calls
        assert line.request == "GET /x HTTP/1.1"
        assert line.sent == [{"type": LONG}]
        assert [event["type"] for event in line.heard] == ["session.created", "session.updated"]
        assert closed.rcvd.code == line.close_code == 4001

    _run(server, client)


def test_what_is_wrong_on_the_line_fails_the_test() -> None:
    async def server(socket: ServerConnection) -> None:
        await socket.recv()
        await _greet(socket, {"type": "rate_limits.updated", "event_id": "event_x", "rate_limits": []})

    async def client(tap: Tap) -> None:
        await _listen(tap, 3)

    with pytest.raises(OrderError, match=r"follows response\.done"):
        _run(server, client)


def test_a_cut_line_has_no_last_word() -> None:
    async def server(socket: ServerConnection) -> None:
        await _greet(socket)
        await socket.wait_closed()

    async def client(tap: Tap) -> None:
        async with connect(f"ws://127.0.0.1:{tap.port}/x", subprotocols=[Subprotocol("realtime")]) as socket:
            await socket.recv()
            tap.calls[0].cut()
            assert (await _closed(socket)).rcvd is None

    _run(server, client)
