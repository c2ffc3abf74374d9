"""A WebSocket attached to a WebRTC call."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from duplex_server.config import Settings
from duplex_server.errors import ClientError
from duplex_server.session.transport import Transport
from duplex_server.transports.listeners import MAX_LISTENERS
from duplex_server.wire.events import SessionCreated, SessionHeartbeat, SessionHeartbeatAck, SessionUpdate
from duplex_server.wire.session_object import Session
from tests.transports.calling import Client, calling
from tests.transports.serving import FakeManager, Served
from tests.transports.test_client_secrets import bearer, mint
from tests.transports.test_http import BEARER, KEY, run

SESSION = Session(id="sess_1", model="embedded", instructions="Be brief.")


async def greet(transport: Transport, manager: FakeManager) -> None:
    """Begin as a session does, then answer heartbeats."""
    transport.send(SessionCreated(event_id="event_1", session=SESSION))
    async for received in transport.events():
        manager.note(received)
        if isinstance(received, SessionHeartbeat):
            transport.send(SessionHeartbeatAck(event_id=f"event_for_{received.event_id}"))


def sideband_of(client: Client, **options: Any) -> connect:
    call_id = client.response.headers["Location"].rsplit("/", 1)[1]
    return connect(f"{client.served.ws_url}?call_id={call_id}", **options)


async def received(socket: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(await socket.recv())
    return event


def test_both_hear_everything_and_both_may_send() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with calling(served) as client:
            await client.connect()
            async with sideband_of(client) as sideband:
                created = await received(sideband)
                assert (created["type"], created["session"]["instructions"]) == ("session.created", "Be brief.")
                assert created["event_id"] != "event_1"
                await sideband.send(json.dumps({"type": "session.heartbeat", "event_id": "from_sideband"}))
                assert (await received(sideband))["event_id"] == "event_for_from_sideband"
                client.send({"type": "session.heartbeat", "event_id": "from_peer"})
                assert (await received(sideband))["event_id"] == "event_for_from_peer"
                await client.until(lambda: len(client.events) == 3)
            await served.ended("websocket", "peer")
            await client.heartbeat()

    run(scenario, manager=FakeManager(conversation=greet))


def test_openais_client_attaches_and_changes_the_session() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with calling(served) as client, AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY) as official:
            client.headers = BEARER
            await client.connect()
            call_id = client.response.headers["Location"].rsplit("/", 1)[1]
            async with official.realtime.connect(call_id=call_id) as sideband:
                assert (await sideband.recv()).type == "session.created"
                await sideband.session.update(session={"type": "realtime", "instructions": "Say less."})
                await served.manager.until(
                    lambda: any(isinstance(event, SessionUpdate) for event in served.manager.received)
                )
            await official.realtime.calls.hangup(call_id)
            await served.ended("webrtc", "peer")

    run(scenario, manager=FakeManager(conversation=greet), settings=Settings(api_keys=(KEY,)))


def test_the_end_of_the_call_ends_the_sideband() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with calling(served) as client:
            await client.connect()
            async with sideband_of(client) as sideband:
                await sideband.recv()
                await http.delete(client.response.headers["Location"])
                with pytest.raises(ConnectionClosed) as closed:
                    await sideband.recv()
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000

    run(scenario, manager=FakeManager(conversation=greet))


def test_what_is_wrong_from_a_sideband_ends_nothing() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with calling(served) as client:
            await client.connect()
            async with sideband_of(client) as sideband:
                await sideband.recv()
                await sideband.send("{")
                await served.manager.until(
                    lambda: any(isinstance(event, ClientError) for event in served.manager.received)
                )
                await sideband.send(json.dumps({"type": "session.heartbeat"}))
                assert (await received(sideband))["type"] == "session.heartbeat_ack"
            await client.heartbeat()

    run(scenario, manager=FakeManager(conversation=greet))


def test_no_more_sockets_than_fit_are_attached() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with calling(served) as client:
            await client.connect()
            sockets = [await sideband_of(client) for _ in range(MAX_LISTENERS)]
            for socket in sockets:
                await socket.recv()
            async with sideband_of(client) as one_more:
                with pytest.raises(ConnectionClosed) as closed:
                    await one_more.recv()
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
            for socket in sockets:
                await socket.close()
            await client.heartbeat()

    run(scenario, manager=FakeManager(conversation=greet))


async def refusal(client: Client, **options: Any) -> int:
    try:
        async with sideband_of(client, **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_only_the_key_that_opened_a_call_listens_to_it() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        value = await mint(http)
        async with calling(served) as client:
            client.headers = bearer(value)
            await client.connect()
            assert await refusal(client) == 401
            assert await refusal(client, additional_headers=bearer("another-key")) == 404
            assert await refusal(client, additional_headers=bearer(value)) == 403
            assert await refusal(client, additional_headers=BEARER) == 101
            await client.heartbeat()

    run(scenario, manager=FakeManager(conversation=greet), settings=Settings(api_keys=(KEY, "another-key")))
