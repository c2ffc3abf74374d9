"""``serve --workers 2`` as a person starts it: real processes, one port, connections to a gateway of one's choice."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from duplex_server.metrics import Metrics
from duplex_server.wire.ids import gateway_of
from tests.e2e.serving import Server
from tests.transports.calling import Client, Tone
from tests.transports.serving import FakeManager, Served

pytestmark = pytest.mark.timeout(240)

KEY = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {KEY}"}
FLAGS = ("--workers", "2", "--model", "echo", "--model-workers", "1", "--api-keys", KEY)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Two gateways for the tests of this file."""
    with Server(*FLAGS) as started:
        yield started


class Way:
    """A connection to a gateway of one's choice: the system deals them out as it likes, so it is made until it fits."""

    def __init__(self, port: int, gateway: int) -> None:
        for _ in range(200):
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            if json.loads(self.ask("GET", "/readyz")[1])["gateway"] == gateway:
                return
            self._connection.close()
        raise AssertionError(f"no connection reached gateway {gateway}")

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, bytes]:
        """Make a request; returns status and body."""
        self._connection.request(method, path, body, BEARER)
        response = self._connection.getresponse()
        return response.status, response.read()

    def websocket(self, query: str = "", key: str = KEY) -> connect:
        """Make the next request on the connection a WebSocket's."""
        sock, self._connection.sock = self._connection.sock, None
        sock.setblocking(False)
        uri = f"ws://127.0.0.1:{self._connection.port}/v1/realtime{query}"
        return connect(uri, sock=sock, additional_headers={"Authorization": f"Bearer {key}"})

    def close(self) -> None:
        self._connection.close()


def ask(server: Server, gateway: int, method: str, path: str, body: str = "") -> tuple[int, bytes]:
    way = Way(server.port, gateway)
    try:
        return way.ask(method, path, body)
    finally:
        way.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            await scenario

    asyncio.run(main())


async def read(socket: ClientConnection, *types: str) -> dict[str, Any]:
    """Return the next event of one of the types."""
    while True:
        event: dict[str, Any] = json.loads(await socket.recv())
        if event["type"] in types:
            return event


async def begin(server: Server, gateway: int) -> tuple[ClientConnection, dict[str, Any]]:
    """Begin a session; returns its connection and the event that would resume it."""
    socket = await Way(server.port, gateway).websocket("?resume=1")
    created = await read(socket, "session.created")
    assert gateway_of(created["session"]["id"]) == gateway
    return socket, {
        "type": "session.resume",
        "session_id": created["session"]["id"],
        "resume_token": created["resume_token"],
        "last_server_event_seq": created["server_event_seq"],
    }


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - in other processes
        await asyncio.sleep(0.05)


def gateways_of(server: Server) -> list[int]:
    """Return the processes that the server started."""
    of_server = ["ps", "-o", "pid=", "--ppid", str(server._process.pid)]
    return [int(line) for line in subprocess.run(of_server, capture_output=True, text=True).stdout.split()]


def test_a_session_goes_on_over_the_other_gateway(server: Server) -> None:
    async def scenario() -> None:
        socket, asked = await begin(server, 0)
        socket.transport.abort()
        async with Way(server.port, 1).websocket("?autostart=0") as again:
            await again.send(json.dumps(asked))
            assert (await read(again, "session.resumed"))["session"]["id"] == asked["session_id"]
            await again.send('{"type": "session.heartbeat"}')
            await read(again, "session.heartbeat_ack")

    run(scenario())


def test_a_call_is_heard_and_ended_through_the_other_gateway(server: Server) -> None:
    async def scenario() -> None:
        client = Client(Served("127.0.0.1", server.port, FakeManager(), Metrics()))
        client.headers = BEARER
        client.connection.addTrack(Tone())
        try:
            await client.connect()
            location = client.response.headers["Location"]
            call_id = location.rpartition("/")[2]
            other = 1 - (gateway_of(call_id) or 0)
            async with Way(server.port, other).websocket(f"?call_id={call_id}") as sideband:
                created = await read(sideband, "session.created")
                assert created["session"]["id"] == client.events[0]["session"]["id"]
                assert ask(server, other, "POST", f"{location}/hangup")[0] == 200
                with pytest.raises(ConnectionClosed):
                    await read(sideband, "nothing")
            assert ask(server, other, "DELETE", location)[0] == 404
        finally:
            await client.connection.close()

    run(scenario())


def test_a_client_secret_opens_the_other_gateway(server: Server) -> None:
    async def scenario() -> None:
        status, body = ask(server, 0, "POST", "/v1/realtime/client_secrets")
        assert status == 200
        async with Way(server.port, 1).websocket(key=json.loads(body)["value"]) as socket:
            assert gateway_of((await read(socket, "session.created"))["session"]["id"]) == 1

    run(scenario())


def test_a_gateway_that_is_killed_takes_only_its_own_sessions_along(server: Server) -> None:
    async def scenario() -> None:
        sessions = [await begin(server, gateway) for gateway in range(2)]
        os.kill(gateways_of(server)[0], signal.SIGKILL)
        await until(lambda: any("was ended by SIGKILL" in line for line in server.log))
        killed = re.search(r"gateway (\d): it was ended by SIGKILL", "".join(server.log))
        assert killed is not None
        victim = int(killed[1])
        lost, kept = sessions[victim], sessions[1 - victim]
        with pytest.raises(ConnectionClosed):
            await read(lost[0], "nothing")
        for gateway in (1 - victim, victim):  # the one that is there, and the one that will be
            async with Way(server.port, gateway).websocket("?autostart=0") as socket:
                await socket.send(json.dumps(lost[1]))
                assert (await read(socket, "session.expired"))["session_id"] == lost[1]["session_id"]
            await until(lambda: len(gateways_of(server)) == 2)
            await until(lambda: b"duplex_gateways_up 2.0" in ask(server, 1 - victim, "GET", "/metrics")[1])
        page = ask(server, victim, "GET", "/metrics")[1].decode().splitlines()
        assert "duplex_gateway_restarts_total 1.0" in page
        assert f'duplex_sessions{{gateway="{1 - victim}"}} 1.0' in page
        assert f'duplex_sessions{{gateway="{victim}"}} 0.0' in page
        await kept[0].send('{"type": "session.heartbeat"}')
        await read(kept[0], "session.heartbeat_ack")
        await kept[0].close()

    run(scenario())


def test_it_stops_when_its_sessions_are_over_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        with Server(*FLAGS, "--max-sessions", "1") as server:
            started = gateways_of(server)
            assert sum("Ready" in line for line in server.log) == 1
            socket, asked = await begin(server, 0)
            status, body = ask(server, 1, "GET", "/readyz")
            assert (status, json.loads(body)) == (200, {"ready": True, "sessions": 1, "places": 1, "gateway": 1})
            socket.transport.abort()
            async with Way(server.port, 1).websocket("?autostart=0") as again:
                await again.send(json.dumps(asked))
                await read(again, "session.resumed")
                server._process.terminate()
                with pytest.raises(ConnectionClosed) as closed:
                    await read(again, "nothing")
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001, "through the other gateway"
            await until(lambda: server._process.poll() is not None)
            assert server._process.returncode == 0
            for pid in started:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

    run(scenario())
