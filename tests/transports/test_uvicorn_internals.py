from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from duplex_server.config import Settings
from duplex_server.transports.listening import server_options
from duplex_server.transports.port import listening_socket
from duplex_server.transports.uvicorn_internals import DirectText, direct_text, websocket_protocol
from tests.transports import serving

Answer = Callable[[WebSocket, DirectText], Awaitable[None]]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    """Serve WebSockets with a function; gives their URL."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            direct = direct_text(scope)
            assert direct is not None
            await answer(WebSocket(scope, receive, send), direct)

    with listening_socket("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(application, **server_options(Settings()) | {"lifespan": "off"}))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.serve(sockets=[listening]))
            try:
                yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"
            finally:
                server.should_exit = True
                await asyncio.wait([running])


def run(answer: Answer, scenario: Callable[[str], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), served(answer) as url:
            await scenario(url)

    serving.run(main())


def test_the_installed_version_is_the_known_one() -> None:
    assert isinstance(websocket_protocol(), type)


def test_with_another_version_text_goes_over_asgi(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn, "__version__", "0.99.1")
    assert websocket_protocol() == "websockets-sansio"
    assert "0.99.1" in caplog.text


def test_a_server_that_offers_no_direct_text_is_recognised() -> None:
    assert direct_text({"type": "websocket"}) is None
    assert direct_text({"type": "websocket", "extensions": {"websocket.http.response": {}}}) is None


def test_what_came_before_anybody_read_is_handed_over_first() -> None:
    taken: list[str] = []
    sent, done = asyncio.Event(), asyncio.Event()

    async def answer(socket: WebSocket, direct: DirectText) -> None:
        await socket.accept()
        await sent.wait()
        direct.read_text(taken.append)
        assert taken == ["one"]  # uvicorn stopped reading there
        message = await socket.receive()
        assert message["type"] == "websocket.disconnect"
        done.set()

    async def scenario(url: str) -> None:
        async with connect(url) as peer:
            await peer.send("one")
            await asyncio.sleep(0.05)
            for text in ("two", "three"):
                await peer.send(text)
            sent.set()
        await done.wait()
        assert taken == ["one", "two", "three"]

    run(answer, scenario)


def test_what_is_not_text_and_the_end_come_over_asgi() -> None:
    taken: list[str] = []
    done = asyncio.Event()

    async def answer(socket: WebSocket, direct: DirectText) -> None:
        await socket.accept()
        direct.read_text(taken.append)
        assert (await socket.receive())["bytes"] == b"binary"
        assert (await socket.receive())["type"] == "websocket.disconnect"
        done.set()

    async def scenario(url: str) -> None:
        async with connect(url) as peer:
            await peer.send("one")
            await peer.send(b"binary")
            await peer.send("two")
        await done.wait()
        assert taken == ["one", "two"]

    run(answer, scenario)


def test_nothing_is_written_to_a_peer_that_does_not_read_or_is_gone() -> None:
    done = asyncio.Event()
    went: list[int] = []

    async def answer(socket: WebSocket, direct: DirectText) -> None:
        assert not direct.write_text(b"too early")
        await socket.accept()
        n_written = 0
        while direct.write_text(b"x" * 100_000):
            n_written += 1
        went.append(n_written)
        await socket.send_text("and one that waits")
        await socket.close()
        assert not direct.write_text(b"too late")
        done.set()

    async def scenario(url: str) -> None:
        peer = await connect(url)
        messages = [message async for message in peer]
        await done.wait()
        assert messages == ["x" * 100_000] * went[0] + ["and one that waits"]

    run(answer, scenario)


def test_a_connection_that_is_refused_is_offered_nothing_to_write_to() -> None:
    async def answer(socket: WebSocket, direct: DirectText) -> None:
        await socket.close()
        assert not direct.write_text(b"no")

    async def scenario(url: str) -> None:
        with pytest.raises(InvalidStatus):
            await connect(url)

    run(answer, scenario)
