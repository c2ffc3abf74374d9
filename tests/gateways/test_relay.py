"""A peer may come to any gateway: what it asks about is found where it is, and answered as if it had come there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from duplex_server.config import Settings
from duplex_server.gateways import relay
from duplex_server.gateways.messages import pack
from duplex_server.gateways.relay import Relay
from duplex_server.gateways.tunnel import Message, Receive, Scope, Send, socket_of
from duplex_server.wire.ids import gateway_of, new_call_id
from tests.gateways.neighbours import Gateway, Neighbours, neighbours
from tests.transports.calling import calling
from tests.transports.serving import run
from tests.transports.test_http import error_of

KEY = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {KEY}"}
TEXT = {
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t 2"}]},
}


def scene(play: Callable[[Neighbours], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), neighbours(**options) as both:
            await play(both)

    run(main())


async def read(socket: ClientConnection, *types: str) -> dict[str, Any]:
    """Return the next event of one of the types."""
    while True:
        event: dict[str, Any] = json.loads(await socket.recv())
        if event["type"] in types:
            return event


async def begun_at(gateway: Gateway) -> dict[str, Any]:
    """Begin a session that waits for its peer, and return the event that resumes it."""
    async with connect(gateway.ws_url + "?resume=1") as socket:
        created = await read(socket, "session.created")
        socket.transport.abort()
    assert gateway_of(created["session"]["id"]) == gateway.link.number
    return {
        "type": "session.resume",
        "session_id": created["session"]["id"],
        "resume_token": created["resume_token"],
        "last_server_event_seq": created["server_event_seq"],
    }


@pytest.mark.parametrize("came_to", [0, 1])
def test_a_session_is_resumed_at_any_gateway(came_to: int) -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        async with connect(both.gateways[came_to].ws_url + "?autostart=0") as socket:
            await socket.send('{"type": "nonsense"}')
            assert (await read(socket, "error"))["error"]["code"] == "invalid_value"
            await socket.send(json.dumps(asked))
            await socket.send(json.dumps(TEXT))
            assert (await read(socket, "session.resumed"))["session"]["id"] == asked["session_id"]
            done = await read(socket, "response.done")
            assert done["response"]["output"][0]["content"][0]["transcript"] == "t 2:0 t 2:1 "
            await both.until_sessions(1, 0)
        await both.until_sessions(0, 0)

    scene(play)


def test_a_relayed_connection_that_breaks_leaves_its_session_waiting() -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        for _ in range(2):
            async with connect(both.gateways[1].ws_url + "?autostart=0") as socket:
                await socket.send(json.dumps(asked))
                resumed = await read(socket, "session.resumed")
                asked = {**asked, "resume_token": resumed["resume_token"]}
                socket.transport.abort()
        await both.until_sessions(1, 0)

    scene(play)


def test_messages_of_any_size_pass() -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        async with connect(both.gateways[1].ws_url + "?autostart=0") as socket:
            await socket.send(json.dumps(asked))
            await read(socket, "session.resumed")
            for n_bytes in (10, 3_000_000):
                await socket.send(json.dumps({"type": "session.heartbeat", "event_id": "x", "filler": "y" * n_bytes}))
                await read(socket, "session.heartbeat_ack")

    scene(play)


def test_who_speaks_first_may_begin_where_it_came_to() -> None:
    async def play(both: Neighbours) -> None:
        async with connect(both.gateways[1].ws_url + "?autostart=0") as socket:
            await socket.send('{"type": "session.heartbeat"}')
            assert gateway_of((await read(socket, "session.created"))["session"]["id"]) == 1
            await read(socket, "session.heartbeat_ack")

    scene(play)


def test_the_owner_checks_who_resumes() -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        async with connect(both.gateways[1].ws_url + "?autostart=0") as socket:
            await socket.send(json.dumps({**asked, "resume_token": "nonsense"}))
            assert (await read(socket, "error"))["error"]["code"] == "invalid_resume_token"
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008

    scene(play)


@pytest.mark.parametrize("session", ["forged", "of a gateway that is lost"])
def test_a_session_that_nobody_has_is_told_as_expired(session: str) -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        if session == "forged":
            asked["session_id"] = "sess_07" + "0" * 22
        else:
            await both.lose(0)
        one = both.gateways[1]
        async with connect(one.ws_url + "?autostart=0") as socket:
            await socket.send(json.dumps(asked))
            assert (await read(socket, "session.expired"))["session_id"] == asked["session_id"]
        async with httpx2.AsyncClient(base_url=one.url) as http:
            form: dict[str, Any] = {
                "sdp": (None, "v=0", "application/sdp"),
                "session": (None, json.dumps({"resume": asked})),
            }
            reply = await http.post("/v1/realtime/calls", files=form)
            assert (reply.status_code, reply.json()["error"]["code"]) == (410, "session_expired")
            call_id = asked["session_id"].replace("sess", "rtc")
            for path in (f"/v1/realtime/calls/{call_id}/hangup", f"/v1/live/sessions/{call_id}/hangup"):
                reply = await http.post(path)
                assert (reply.status_code, reply.json()["error"]["code"]) == (404, "call_not_found")

    scene(play)


@asynccontextmanager
async def dying(both: Neighbours, *last_words: dict[str, Any]) -> AsyncIterator[None]:
    """Let gateway 0 die of the first request that reaches it through a tunnel, after a few words."""
    await both.gateways[0].tunnels.aclose()

    async def die(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)  # what it has not read when it closes would take its words along
        for message in last_words:
            writer.write(pack(message))
        writer.close()

    server = await asyncio.start_unix_server(die, socket_of(both.folder, 0))
    try:
        yield
    finally:
        server.close()


def test_a_peer_whose_gateway_dies_under_a_relayed_connection_is_told() -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        words = {"type": "websocket.accept"}, {"type": "websocket.send", "text": "{}"}
        async with dying(both, *words), connect(both.gateways[1].ws_url + "?autostart=0") as socket:
            await socket.send(json.dumps(asked))
            assert await socket.recv() == "{}"
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012

    scene(play)


def test_a_request_whose_gateway_dies_is_answered() -> None:
    async def play(both: Neighbours) -> None:
        async with dying(both), httpx2.AsyncClient(base_url=both.gateways[1].url) as http:
            call_id = new_call_id(0)
            reply = await http.post(f"/v1/realtime/calls/{call_id}/hangup")
            assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
            assert error_of(reply)["code"] == "server_error"
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{both.gateways[1].ws_url}?call_id={call_id}")
            assert refused.value.response.status_code == 503

    scene(play)


def test_a_refusal_after_the_upgrade_is_a_close_code() -> None:
    async def play(both: Neighbours) -> None:
        asked = await begun_at(both.gateways[0])
        start = {"type": "websocket.http.response.start", "status": 503, "headers": []}
        body = {"type": "websocket.http.response.body", "body": b"full"}
        words = start, body, {"type": "duplex.done"}
        async with dying(both, *words), connect(both.gateways[1].ws_url + "?autostart=0") as socket:
            await socket.send(json.dumps(asked))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013

    scene(play)


def test_a_call_is_led_from_any_gateway() -> None:
    async def play(both: Neighbours) -> None:
        here, there = both.gateways
        async with calling(here.served) as client:
            await client.connect()
            location = client.response.headers["Location"]
            assert gateway_of(location.rpartition("/")[2]) == 0
            client.served = there.served
            renegotiated = await client.renegotiate()
            assert renegotiated.status_code == 200
            await client.accept(renegotiated.text)
            async with connect(f"{there.ws_url}?call_id={location.rpartition('/')[2]}") as sideband:
                assert (await read(sideband, "session.created"))["session"]["id"] == client.events[0]["session"]["id"]
                await sideband.send('{"type": "session.heartbeat"}')
                await read(sideband, "session.heartbeat_ack")
                assert (await client.post(f"{location}/hangup")).status_code == 200
                with pytest.raises(ConnectionClosed):
                    await read(sideband, "nothing")
            await both.until_sessions(0, 0)
            assert (await client.post(f"{location}/hangup")).status_code == 404

    scene(play)


def test_of_other_peoples_calls_nothing_is_told() -> None:
    async def play(both: Neighbours) -> None:
        here, there = both.gateways
        async with calling(here.served) as client:
            client.headers = BEARER
            await client.connect()
            location = client.response.headers["Location"]
            async with httpx2.AsyncClient(base_url=there.url) as http:
                assert (await http.post(f"{location}/hangup")).status_code == 401
                other = {"Authorization": "Bearer another-key"}
                assert (await http.post(f"{location}/hangup", headers=other)).status_code == 404
                call_id = location.rpartition("/")[2]
                with pytest.raises(InvalidStatus) as refused:
                    await connect(f"{there.ws_url}?call_id={call_id}", additional_headers=other)
                assert refused.value.response.status_code == 404
                assert (await http.delete(location, headers=BEARER)).status_code == 204

    scene(play, settings=Settings(api_keys=(KEY, "another-key")))


def test_calls_go_to_the_gateway_with_the_fewest_sessions() -> None:
    async def play(both: Neighbours) -> None:
        here = both.gateways[0]
        async with connect(here.ws_url), connect(here.ws_url):
            await both.until_sessions(2, 0)
            async with calling(here.served) as client:
                await client.connect()
                assert gateway_of(client.response.headers["Location"].rpartition("/")[2]) == 1
                await both.until_sessions(2, 1)
                assert (await client.post(f"{client.response.headers['Location']}/hangup")).status_code == 200
            await both.until_sessions(2, 0)

    scene(play)


def test_a_gateway_without_a_model_sends_peers_on() -> None:
    async def play(both: Neighbours) -> None:
        here = both.gateways[0]
        here.engine.ready = False
        async with connect(here.ws_url) as socket:
            assert gateway_of((await read(socket, "session.created"))["session"]["id"]) == 1
            await both.until_sessions(0, 1)

    scene(play)


def test_a_full_server_is_full_at_every_gateway() -> None:
    async def play(both: Neighbours) -> None:
        here, there = both.gateways
        async with connect(here.ws_url) as socket:
            await read(socket, "session.created")
            for gateway in (here, there):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(gateway.ws_url)
                assert refused.value.response.status_code == 503
            async with connect(there.ws_url + "?queue=1") as waiting:
                assert (await read(waiting, "session.queued"))["position"] == 1
                await socket.close()
                await read(waiting, "session.queue_done")
                await read(waiting, "session.created")

    scene(play, places=1)


def test_the_page_of_metrics_is_the_whole_servers() -> None:
    async def play(both: Neighbours) -> None:
        here, there = both.gateways
        async with connect(here.ws_url, additional_headers=BEARER) as socket:
            await read(socket, "session.created")
            for gateway in (here, there):
                async with httpx2.AsyncClient(base_url=gateway.url) as http:
                    assert (await http.get("/metrics")).status_code == 401
                    reply = await http.get("/metrics", headers=BEARER)
                    ready = (await http.get("/readyz")).json()
                lines = reply.text.splitlines()
                assert reply.headers["content-type"].startswith("text/plain")
                assert 'duplex_connections{gateway="0",transport="websocket"} 1.0' in lines
                assert "duplex_places 8.0" in lines
                assert sum('gateway="1"' in line for line in lines) > 20
                assert lines.count("# TYPE duplex_turns_total counter") == 1
                assert ready == {"ready": True, "sessions": 1, "places": 8, "gateway": gateway.link.number}

    scene(play, settings=Settings(api_keys=(KEY,)))


def test_a_dead_gateway_is_left_out_of_the_metrics() -> None:
    async def play(both: Neighbours) -> None:
        await both.gateways[0].tunnels.aclose()  # and nobody has noticed yet
        async with httpx2.AsyncClient(base_url=both.gateways[1].url) as http:
            text = (await http.get("/metrics")).text
        assert 'gateway="1"' in text and 'gateway="0"' not in text

    scene(play)


def test_a_gateway_that_does_not_answer_is_left_out_of_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PAGE_TIMEOUT_S", 0.1)

    async def play(both: Neighbours) -> None:
        await both.gateways[0].tunnels.aclose()
        connections: list[asyncio.StreamWriter] = []
        server = await asyncio.start_unix_server(
            lambda _, writer: connections.append(writer), socket_of(both.folder, 0)
        )
        async with httpx2.AsyncClient(base_url=both.gateways[1].url) as http:
            text = (await http.get("/metrics")).text
        assert 'gateway="1"' in text and 'gateway="0"' not in text
        server.close()
        for writer in connections:
            writer.close()

    scene(play)


def test_a_body_that_is_no_form_is_answered_as_ever() -> None:
    async def play(both: Neighbours) -> None:
        async with httpx2.AsyncClient(base_url=both.gateways[0].url) as http:
            form = {"session": (None, "{}")}
            reply = await http.post("/v1/realtime/calls", files=form)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "sdp")
            long = {"sdp": (None, "x" * 300_000)}
            assert (await http.post("/v1/realtime/calls", files=long)).status_code == 413

    scene(play)


@pytest.mark.parametrize("query", ["", "?autostart=0", "?autostart=0&duplex=1"])
def test_text_goes_past_asgi_wherever_it_can(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    over_asgi: list[str] = []
    receive = Relay.__call__

    async def listen(self: Relay, scope: Scope, receive_: Receive, send: Send) -> None:
        async def overhear() -> Message:
            message = await receive_()
            over_asgi.append(message.get("text") or message["type"])
            return message

        await receive(self, scope, overhear, send)

    monkeypatch.setattr(Relay, "__call__", listen)

    async def play(both: Neighbours) -> None:
        async with connect(both.gateways[0].ws_url + query) as socket:
            for n_beats in range(5):
                await socket.send(f'{{"type": "session.heartbeat", "event_id": "beat {n_beats}"}}')
                await read(socket, "session.heartbeat_ack")

    scene(play)
    n_first = 1 if query == "?autostart=0" else 0  # the first event is looked at
    assert len([text for text in over_asgi if "beat" in text]) == n_first
