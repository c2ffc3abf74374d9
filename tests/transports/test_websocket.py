from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from duplex_server.config import Settings
from duplex_server.errors import (
    AuthError,
    CapacityError,
    DuplexError,
    EngineLost,
    SessionExpired,
    TransportError,
)
from duplex_server.session.transport import Transport
from duplex_server.transports import uvicorn_internals
from duplex_server.transports.websocket import close_code
from duplex_server.wire.events import InputAudioBufferAppend, SessionHeartbeat, SessionHeartbeatAck
from tests.transports import serving
from tests.transports.serving import FakeManager, Served

HEARTBEAT = json.dumps({"type": "session.heartbeat"})
KEY = "correct-horse-battery"


@pytest.fixture(params=["direct", "asgi"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve with our protocol, then with uvicorn's own."""
    if request.param == "asgi":
        monkeypatch.setattr(uvicorn_internals, "KNOWN", "0.0.")


over_both = pytest.mark.usefixtures("way")


def run(scenario: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving.serving(**options) as served:
            await scenario(served)

    serving.run(main())


async def greeted(served: Served, **options: Any) -> ClientConnection:
    peer = await connect(served.ws_url, **options)
    assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
    return peer


async def closed(peer: ClientConnection) -> ConnectionClosed:
    """Read until the connection is closed, and return how."""
    try:
        while True:
            await peer.recv()
    except ConnectionClosed as how:
        return how


def code_of(how: ConnectionClosed) -> int:
    assert how.rcvd is not None
    return how.rcvd.code


@over_both
def test_events_go_both_ways() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served)
        await peer.send(HEARTBEAT)
        assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
        await peer.close()
        await served.ended("websocket", "peer")
        assert served.manager.sessions == 0

    run(scenario)


def test_both_paths_lead_to_a_conversation() -> None:
    async def scenario(served: Served) -> None:
        for path in ("/v1/realtime", "/realtime", "/v1/realtime?model=whatever&unknown=1"):
            async with connect(f"ws://{served.host}:{served.port}{path}") as peer:
                assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"

    run(scenario)


def test_duplex_in_the_query_asks_for_all_extensions() -> None:
    async def scenario(served: Served) -> None:
        await (await greeted(served)).close()
        async with connect(served.ws_url + "?duplex=1") as peer:
            await peer.recv()
        assert served.manager.hellos[0].opt_in == frozenset()
        assert "playback" in served.manager.hellos[1].opt_in
        assert served.manager.hellos[0].client.startswith("127.0.0.1:")

    run(scenario)


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["realtime", f"openai-insecure-api-key.{KEY}", "openai-agents-sdk.1"], "realtime"),
        ([f"openai-insecure-api-key.{KEY}", "realtime"], "realtime"),
        (None, None),
    ],
)
def test_the_subprotocol_is_selected_if_it_is_offered(offered: list[str] | None, selected: str | None) -> None:
    async def scenario(served: Served) -> None:
        protocols = None if offered is None else [Subprotocol(name) for name in offered]
        headers = {} if offered else {"Authorization": f"Bearer {KEY}"}
        peer = await greeted(served, subprotocols=protocols, additional_headers=headers)
        assert peer.subprotocol == selected
        await peer.close()

    run(scenario, settings=Settings(api_keys=(KEY,)))


def test_a_wrong_key_is_refused_before_the_upgrade() -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(served.ws_url, additional_headers={"Authorization": "Bearer wrong-key"})
        response = refused.value.response
        assert response.status_code == 401
        assert json.loads(response.body or b"")["error"]["code"] == "invalid_api_key"
        assert served.manager.sessions == 0
        assert served.counted('duplex_connections_refused_total{reason="invalid_api_key",transport="websocket"} 1.0')

    run(scenario, settings=Settings(api_keys=(KEY,)))


def test_a_page_of_another_site_is_refused() -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(served.ws_url, origin=websockets.Origin("https://evil.example"))
        assert refused.value.response.status_code == 403
        await (await greeted(served, origin=websockets.Origin(served.url))).close()

    run(scenario)


def test_a_full_server_says_when_to_come_back() -> None:
    async def scenario(served: Served) -> None:
        first = await greeted(served)
        with pytest.raises(InvalidStatus) as refused:
            await connect(served.ws_url)
        response = refused.value.response
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "17"
        assert json.loads(response.body or b"")["error"]["code"] == "server_overloaded"
        await first.close()
        await served.manager.until(lambda: served.manager.sessions == 0)
        await (await greeted(served)).close()

    run(scenario, manager=FakeManager(places=1))


@over_both
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("this is not JSON", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type": "no.such.event"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_value"),
        ("[" * 100_000, "invalid_json"),
    ],
)
def test_a_bad_message_is_answered_and_the_conversation_goes_on(message: str, code: str) -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served)
        await peer.send(message)
        assert json.loads(await peer.recv())["error"]["code"] == code
        await peer.send(HEARTBEAT)
        assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
        await peer.close()

    run(scenario)


@over_both
def test_a_binary_message_ends_the_connection() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served)
        await peer.send(b"\x00\x01")
        assert code_of(await closed(peer)) == 1003
        await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


@over_both
def test_text_that_is_not_utf_8_ends_the_connection() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served)
        await peer.send(b"\xff\xfe", text=True)
        assert code_of(await closed(peer)) == 1007
        await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


@over_both
def test_a_message_of_20_mb_ends_the_connection_with_its_reason() -> None:
    async def scenario(served: Served) -> None:
        other = await greeted(served)
        peer = await greeted(served)
        await peer.send("x" * 20_000_000)
        assert code_of(await closed(peer)) == 1009
        await other.send(HEARTBEAT)
        assert json.loads(await other.recv())["type"] == "session.heartbeat_ack"
        await other.close()
        await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


@over_both
def test_the_largest_allowed_message_arrives() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served, max_size=None)
        await peer.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * (15 * 2**20)}))
        await peer.send(HEARTBEAT)
        await peer.recv()
        assert isinstance(served.manager.received[0], InputAudioBufferAppend)
        await peer.close()

    run(scenario)


@over_both
def test_messages_split_into_frames_are_put_together() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served)

        async def pieces() -> Any:
            for at in range(0, len(HEARTBEAT), 5):
                yield HEARTBEAT[at : at + 5]

        await peer.send(pieces())
        assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
        await peer.close()

    run(scenario)


@over_both
def test_a_peer_that_never_reads_is_given_up() -> None:
    """It completes the handshake and then reads nothing, while the server has much to say."""

    async def talk_for_ever(transport: Transport, manager: FakeManager) -> None:
        events = transport.events()
        reading = asyncio.ensure_future(anext(events, None))
        while not reading.done():
            transport.send(SessionHeartbeatAck(event_id="x" * 10_000))
            await asyncio.sleep(0)
        assert reading.result() is None

    async def scenario(served: Served) -> None:
        deaf = socket.create_connection((served.host, served.port))
        try:
            deaf.sendall(
                b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await served.ended("websocket", "slow")
            assert served.manager.sessions == 0
        finally:
            deaf.close()

    run(scenario, manager=FakeManager(conversation=talk_for_ever), settings=Settings(send_queue_bytes=2**20))


@over_both
def test_messages_are_read_while_the_conversation_is_busy() -> None:
    """Otherwise pongs would wait behind them, and the keepalive would close a healthy connection."""

    async def wait_then_count(transport: Transport, manager: FakeManager) -> None:
        transport.send(SessionHeartbeatAck())
        await manager.until(lambda: bool(manager.received))  # set by the test, through note()
        events = transport.events()
        for _ in range(200):
            assert isinstance(await anext(events), SessionHeartbeat)
        transport.send(SessionHeartbeatAck())

    async def scenario(served: Served) -> None:
        peer = await greeted(served)
        for _ in range(200):
            await peer.send(HEARTBEAT)
        await (await peer.ping())
        served.manager.note(SessionHeartbeat())
        assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
        await peer.close()

    run(scenario, manager=FakeManager(conversation=wait_then_count))


@over_both
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 1000),
        (SessionExpired("timeout", "Time is up."), 1001),
        (AuthError("no"), 1008),
        (EngineLost("worker-1"), 1011),
        (CapacityError(3), 1013),
        (SessionExpired("model", "再见。" * 100), 1001),
    ],
)
def test_what_was_queued_is_sent_before_the_reason_of_the_end(error: DuplexError | None, code: int) -> None:
    async def say_goodbye(transport: Transport, manager: FakeManager) -> None:
        for _ in range(20):
            transport.send(SessionHeartbeatAck())
        await transport.close(error)
        await transport.close()
        transport.send(SessionHeartbeatAck())

    async def scenario(served: Served) -> None:
        peer = await connect(served.ws_url)
        for _ in range(20):
            assert json.loads(await peer.recv())["type"] == "session.heartbeat_ack"
        assert code_of(await closed(peer)) == code

    run(scenario, manager=FakeManager(conversation=say_goodbye))


@over_both
def test_a_peer_that_reads_late_misses_nothing_and_nothing_overtakes() -> None:
    n_messages = 200

    async def talk(transport: Transport, manager: FakeManager) -> None:
        for number in range(n_messages):
            transport.send(SessionHeartbeatAck(event_id=f"{number}" + "x" * 100_000))
            if number % 20 == 0:
                await asyncio.sleep(0)
        await anext(transport.events(), None)
        transport.send(SessionHeartbeatAck(event_id="last"))

    async def scenario(served: Served) -> None:
        peer = await connect(served.ws_url, max_queue=1)
        await served.manager.until(lambda: bool(served.manager.transports))
        await asyncio.sleep(0.05)  # the peer does not read, and the sockets' buffers are full
        assert served.manager.transports[0].stats()["queued_bytes"] > 0
        await peer.send(HEARTBEAT)
        numbers = [json.loads(await peer.recv())["event_id"].rstrip("x") for _ in range(n_messages + 1)]
        assert numbers == [*map(str, range(n_messages)), "last"]
        await closed(peer)

    run(scenario, manager=FakeManager(conversation=talk), settings=Settings(send_queue_bytes=2**25))


def test_every_error_has_a_close_code() -> None:
    assert close_code(TransportError()) == 1011
    assert close_code(None) == 1000


def test_deflate_is_not_negotiated() -> None:
    async def scenario(served: Served) -> None:
        peer = await greeted(served, compression="deflate")
        assert peer.response is not None
        assert "Sec-WebSocket-Extensions" not in peer.response.headers
        await peer.close()

    run(scenario)


def test_a_connection_to_a_call_that_does_not_stand_is_refused_in_words() -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(served.ws_url + "?call_id=rtc_1")
        assert refused.value.response.status_code == 404
        assert json.loads(refused.value.response.body or b"")["error"]["param"] == "call_id"

    run(scenario)
