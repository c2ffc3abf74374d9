from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidState, InvalidStatus
from websockets.frames import Frame, Opcode

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


class _Socket(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 4000)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


FAULTS = [b"\x81\x05hello", b"\xc1\x80abcd", b"\x83\x80abcd", frame(Opcode.TEXT, b"\xff"), b"\x00" * 9]
LIKE_A_FRAME = b"\x81\x8b\x00\x00\x00\x00" + frame(Opcode.TEXT, b"inner")
"""A whole message whose payload looks like one, should somebody lose his place."""

LENGTH_IN_8_BYTES = b"\x81\xff" + (119).to_bytes(8) + bytes(4) + b"q" * 119
"""Of which a reader that takes the 127 for the length makes another message of 133 bytes."""


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """What a peer may send, frame by frame: whole messages and pieces, pings between them, and now and then a fault."""
    frames: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        text = draw(st.sampled_from(["", "a", "é", "x" * 125, "y" * 126, "z" * 1500, "w" * 70_000])).encode()
        match draw(st.sampled_from(["whole", "whole", "whole", "like", "pieces", "ping", "binary", "close", "fault"])):
            case "whole":
                frames.append(frame(Opcode.TEXT, text))
            case "like":
                frames.append(draw(st.sampled_from([LIKE_A_FRAME, LENGTH_IN_8_BYTES])))
            case "pieces":
                frames.append(frame(Opcode.TEXT, text[: len(text) // 2], fin=False))
                frames += draw(
                    st.lists(st.sampled_from([frame(Opcode.PING, b"between"), frame(Opcode.TEXT, b"wrong")]))
                )
                frames.append(frame(Opcode.CONT, text[len(text) // 2 :]))
            case "ping":
                frames.append(frame(Opcode.PING, text[:100]))
            case "binary":
                frames.append(frame(Opcode.BINARY, text))
            case "close":
                frames.append(frame(Opcode.CLOSE, b"\x03\xe8bye"))
            case "fault":
                frames.append(draw(st.sampled_from([*FAULTS, frame(Opcode.CONT, text)])))
    return frames


@st.composite
def chunks(draw: st.DrawFn) -> list[bytes]:
    """What comes of it at a time: mostly a frame, but also a part of one, or more than one."""
    found = [b""]
    for sent in draw(streams()):
        begin = draw(st.sampled_from([0, 6] if sent == LIKE_A_FRAME else [0, 0, 0, 0, 1, 2, 4, 6, 8, len(sent) - 1]))
        found[-1] += sent[:begin]
        found.append(sent[begin:])
        if draw(st.integers(0, 4)) == 0:
            found.append(b"")
    return [chunk for chunk in found if chunk]


async def fed(protocol: type[WebSocketsSansIOProtocol], chunks: Sequence[bytes]) -> tuple[list[object], bytes, bool]:
    """Feed a connection with chunks: what came of it, what was written to it, and whether it was closed."""
    over = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await over.wait()

    config = uvicorn.Config(application, lifespan="off", ws_max_size=60_000, ws_ping_interval=None, log_config=None)
    config.load()
    state = ServerState()
    connection, wire = protocol(config, state, {}), _Socket()
    connection.connection_made(wire)
    connection.data_received(HANDSHAKE)
    while not connection.handshake_complete:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0)
    came: list[object] = []
    direct = direct_text(connection.scope)
    if direct is not None:
        direct.read_text(came.append)
    for chunk in chunks:
        if not wire.closed:
            try:
                connection.data_received(chunk)
            except InvalidState:  # of uvicorn's, for text that is not UTF-8 with a close frame behind it
                wire.closed = True
            while not connection.queue.empty():
                message = connection.queue.get_nowait()
                came.append(message.get("text", message))
    found = sorted(came, key=lambda item: isinstance(item, str)), wire.written, wire.closed  # text may come earlier
    over.set()
    await asyncio.wait(state.tasks)
    return found


@settings(deadline=None, max_examples=200)
@given(came=chunks())
def test_it_takes_what_uvicorn_takes(came: list[bytes]) -> None:
    ours = websocket_protocol()
    assert isinstance(ours, type) and issubclass(ours, WebSocketsSansIOProtocol)

    async def both() -> None:
        mine, theirs = await fed(ours, came), await fed(WebSocketsSansIOProtocol, came)
        assert mine == theirs

    asyncio.run(both())
