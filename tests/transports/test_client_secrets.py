"""Client secrets and limits, at the real application."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from duplex_server.config import LogLevel, Settings, hashed_key
from duplex_server.security.limits import FREE_FAILURES
from tests.transports.calling import calling
from tests.transports.serving import NOW_S, FakeManager, Served
from tests.transports.test_http import BEARER, KEY, SDP, error_of, run

SECRETS = "/v1/realtime/client_secrets"
GUARDED = Settings(api_keys=(hashed_key(KEY), "another-key"))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def mint(http: httpx2.AsyncClient, **asked: Any) -> str:
    answer = await http.post(SECRETS, json=asked, headers=BEARER)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["value"])


async def status_of(served: Served, **options: Any) -> int:
    """Try to begin a conversation; return 101 or the status of the refusal."""
    try:
        async with connect(served.ws_url, **options) as socket:
            await socket.recv()
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_openais_client_makes_a_secret_and_its_session_is_complete() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
            made = await client.realtime.client_secrets.create(
                expires_after={"anchor": "created_at", "seconds": 30},
                session={"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"voice": "marin"}}},
            )
        assert made.value.startswith("ek_")
        assert made.expires_at == NOW_S + 30
        assert made.session.type == "realtime"
        assert made.session.instructions == "Be brief."
        assert made.session.audio is not None and made.session.audio.output is not None
        assert made.session.audio.output.voice == "calm", "an unknown voice is the default one"

    run(scenario, settings=GUARDED)


def test_a_secrets_session_is_what_its_conversations_begin_with() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        terms = {"max_session_seconds": 90}
        value = await mint(http, expires_after=terms, session={"type": "realtime", "instructions": "Be brief."})
        assert await status_of(served, additional_headers=bearer(value)) == 101
        assert await status_of(served, subprotocols=["realtime", f"openai-insecure-api-key.{value}"]) == 101
        async with calling(served) as client:
            client.headers = bearer(value)
            await client.connect()
        assert len(served.manager.hellos) == 3
        for hello in served.manager.hellos:
            assert [patch.instructions for patch in hello.session] == ["Be brief."]
            assert hello.session_max_s == 90

    run(scenario, settings=GUARDED)


def test_a_secret_begins_so_many_sessions_and_no_more() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        value = await mint(http, expires_after={"max_sessions": 2})
        statuses = [await status_of(served, additional_headers=bearer(value)) for _ in range(3)]
        assert statuses == [101, 101, 401]
        assert await status_of(served, additional_headers=BEARER) == 101

    run(scenario, settings=GUARDED)


def test_a_secret_opens_nothing_but_conversations() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        value = await mint(http)
        for method, path in (("POST", SECRETS), ("GET", "/metrics")):
            refused = await http.request(method, path, headers=bearer(value))
            assert refused.status_code == 403
            assert error_of(refused)["code"] == "insufficient_permissions"
        assert (await http.get("/v1/ice_servers", headers=bearer(value))).status_code == 200

    run(scenario, settings=GUARDED)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"expires_after": {"seconds": 9}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": 7201}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now"}}, "expires_after.anchor"),
        ({"expires_after": {"max_sessions": 0}}, "expires_after.max_sessions"),
        ({"session": {"type": "transcription"}}, "session.type"),
        ({"session": {"audio": {"output": {"speed": 9}}}}, "session.audio.output.speed"),
        ({"session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}}, None),
    ],
)
def test_terms_that_cannot_be_had_are_refused_and_the_server_goes_on(asked: dict[str, Any], param: str | None) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        refused = await http.post(SECRETS, json=asked, headers=BEARER)
        assert refused.status_code == 400
        assert error_of(refused)["param"] == (param or "session.audio.input.format.rate")
        assert (await http.post(SECRETS, headers=BEARER)).status_code == 200

    run(scenario, settings=GUARDED)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 50_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        refused = await http.post(SECRETS, content=body, headers=BEARER)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_json")

    run(scenario, settings=GUARDED)


def test_a_key_has_its_share_of_sessions() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        async with connect(served.ws_url, additional_headers=BEARER) as socket:
            await socket.recv()
            assert await status_of(served, additional_headers=BEARER) == 429
            refused = await http.post("/v1/realtime/calls", content="v=0", headers={**BEARER, **SDP})
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert error_of(refused)["code"] == "rate_limit_exceeded"
            assert await status_of(served, additional_headers=bearer("another-key")) == 101
            await socket.send(json.dumps({"type": "session.heartbeat"}))
            await socket.recv()
        await served.manager.until(lambda: served.manager.sessions == 0)
        assert await status_of(served, additional_headers=BEARER) == 101

    run(scenario, settings=Settings(api_keys=(KEY, "another-key"), key_max_sessions=1))


def test_a_full_server_takes_nothing_from_the_keys_share() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        served.manager.places = 0
        assert await status_of(served, additional_headers=BEARER) == 503
        served.manager.places = 1
        assert await status_of(served, additional_headers=BEARER) == 101

    run(scenario, settings=Settings(api_keys=(KEY,), key_max_sessions=1))


def test_who_guesses_keys_is_slowed_down() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        for _ in range(FREE_FAILURES):
            assert (await http.get("/v1/models", headers=bearer("wrong-key"))).status_code == 401
        refused = await http.get("/v1/models", headers=BEARER)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert await status_of(served, additional_headers=BEARER) == 429

    run(scenario, settings=GUARDED)


def test_another_keys_call_cannot_be_ended() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        value = await mint(http)
        async with calling(served) as client:
            client.headers = bearer(value)
            await client.connect()
            path = client.response.headers["Location"]
            refused = await http.post(f"{path}/hangup", headers=bearer("another-key"))
            assert (refused.status_code, error_of(refused)["code"]) == (404, "call_not_found")
            await client.heartbeat()
            assert (await http.post(f"{path}/hangup", headers=BEARER)).status_code == 200
            await served.ended("webrtc", "peer")

    run(scenario, settings=GUARDED)


def test_no_key_and_no_secret_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    shown = ["wrong-key-in-header", "wrong-key-in-query", "wrong-key-in-protocol"]

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        value = await mint(http)
        for key in (KEY, value):
            assert await status_of(served, additional_headers=bearer(key)) == 101
            assert await status_of(served, subprotocols=["realtime", f"openai-insecure-api-key.{key}"]) == 101
            async with connect(f"{served.ws_url}?api_key={key}") as socket:
                await socket.recv()
        assert await status_of(served, additional_headers=bearer(shown[0])) == 401
        await http.get(f"/v1/models?api_key={shown[1]}")
        assert await status_of(served, subprotocols=[f"openai-insecure-api-key.{shown[2]}"]) == 401
        await http.post("/v1/realtime/calls", content="nothing", headers={**bearer(value), **SDP})
        server = [record for record in caplog.records if not record.name.startswith(("websockets.client", "http"))]
        assert server, "something was logged"
        text = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in server)
        for secret in (KEY, value, *shown):
            assert secret not in text

    caplog.set_level(logging.DEBUG)
    run(scenario, settings=Settings(api_keys=(KEY,), log_level=LogLevel.DEBUG), manager=FakeManager())
