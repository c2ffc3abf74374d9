from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from duplex_server.config import Settings
from duplex_server.page import page_folder
from duplex_server.security import relay_credentials
from tests.transports import serving
from tests.transports.calling import Client
from tests.transports.serving import NOW_S, FakeManager, Served

KEY = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {KEY}"}
SDP = {"Content-Type": "application/sdp"}


def run(scenario: Callable[[Served, httpx2.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            serving.serving(**options) as served,
            httpx2.AsyncClient(base_url=served.url) as http,
        ):
            await scenario(served, http)

    serving.run(main())


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the error in a response after checking that it has the shape that clients of OpenAI's API expect."""
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    assert error["message"].endswith(".")
    expected = "server_error" if response.status_code >= 500 else "invalid_request_error"
    assert error["type"] == ("rate_limit_error" if response.status_code == 429 else expected)
    return error


def test_health_readiness_and_metrics_tell_how_the_server_is() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/healthz")).status_code == 200
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "sessions": 0, "places": 100, "gateway": 0})
        served.manager.ready = False
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
        metrics = await http.get("/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain; version=")
        assert "duplex_connections_refused_total" in metrics.text

    run(scenario)


def test_the_model_is_listed() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        listed = (await http.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["embedded"]

    run(scenario)


GUARDED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/ice_servers"),
    ("GET", "/metrics"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/live/sessions"),
    ("POST", "/v1/live/sessions/rtc_1/hangup"),
    ("POST", "/v1/realtime/calls"),
    ("POST", "/v1/realtime/calls/rtc_1"),
    ("POST", "/v1/realtime/calls/rtc_1/hangup"),
    ("DELETE", "/v1/realtime/calls/rtc_1"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_every_path_is_there_without_v1_too(method: str, path: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.request(method, path.removeprefix("/v1"))).status_code == 401

    run(scenario, settings=Settings(api_keys=(KEY,)))


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_key_is_asked_for(method: str, path: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        refused = await http.request(method, path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert error_of(refused)["code"] == "invalid_api_key"
        assert (await http.request(method, path, headers=BEARER)).status_code not in (401, 403)
        assert (await http.request(method, f"{path}?api_key={KEY}")).status_code not in (401, 403)

    run(scenario, settings=Settings(api_keys=(KEY,)))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key(path: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get(path)).status_code == 200

    run(scenario, settings=Settings(api_keys=(KEY,)))


@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        (b"", SDP, "sdp"),
        (b"v=0\r\n", SDP, "sdp"),
        (b"\xff\xfe", SDP, "sdp"),
        (b"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 20, SDP, "sdp"),
        (b"{}", {"Content-Type": "application/json"}, None),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "sdp"),
        (b"no parts at all", {"Content-Type": "multipart/form-data; boundary=x"}, "sdp"),
        (b"no parts at all", {"Content-Type": "multipart/form-data"}, "sdp"),
    ],
)
def test_what_is_no_offer_is_refused_and_takes_no_place(body: bytes, headers: dict[str, str], param: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        refused = await http.post("/v1/realtime/calls", content=body, headers=headers)
        assert refused.status_code == 400
        error = error_of(refused)
        assert (error["code"], error["param"]) == ("invalid_offer", param)
        await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


@pytest.mark.parametrize("session", ["not JSON", "[1]", "[" * 50_000])
def test_a_session_that_is_no_object_is_refused(session: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        files = {"sdp": (None, "v=0\r\n", "application/sdp"), "session": (None, session, "application/json")}
        refused = await http.post("/v1/realtime/calls", files=files)
        assert refused.status_code == 400
        assert error_of(refused)["param"] == "session"

    run(scenario)


def test_a_body_that_is_too_long_is_refused() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        refused = await http.post("/v1/realtime/calls", content=b"a" * 300_000, headers=SDP)
        assert refused.status_code == 413
        assert error_of(refused)["code"] == "request_too_large"

    run(scenario)


def test_a_full_server_says_when_to_come_back() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        client = Client(served)
        client.connection.addTransceiver("audio")
        refused = await http.post("/v1/realtime/calls", content=await client.offer(), headers=SDP)
        await client.connection.close()
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "17"
        assert error_of(refused)["code"] == "server_overloaded"
        assert served.counted('duplex_connections_refused_total{reason="server_overloaded",transport="webrtc"} 1.0')

    run(scenario, manager=FakeManager(places=0))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/realtime/calls/rtc_1"),
        ("POST", "/v1/realtime/calls/rtc_1/hangup"),
        ("DELETE", "/v1/realtime/calls/rtc_1"),
    ],
)
def test_a_call_that_does_not_stand_is_not_found(method: str, path: str) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        missing = await http.request(method, path, headers=SDP, content=b"v=0\r\n" if method == "POST" else None)
        assert missing.status_code == 404
        assert error_of(missing)["code"] == "call_not_found"

    run(scenario)


def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        missing = await http.get("/v1/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "not_found"
        wrong = await http.delete("/v1/models")
        assert wrong.status_code == 405
        assert wrong.json()["error"]["code"] == "invalid_request"

    run(scenario)


def test_a_bug_tells_the_client_nothing_of_its_inside() -> None:
    class Broken(FakeManager):
        def admit(self, *, queue: bool = False) -> Any:
            raise RuntimeError("secret of the house")

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        failed = await http.post("/v1/realtime/calls", content=b"v=0\r\n", headers=SDP)
        assert failed.status_code == 500
        assert "secret" not in failed.text
        assert error_of(failed)["code"] == "server_error"

    run(scenario, manager=Broken())


def test_no_log_holds_a_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get(f"/v1/models?api_key={KEY}")).status_code == 200
        async with connect(f"{served.ws_url}?api_key={KEY}") as peer:
            await peer.recv()
        with pytest.raises(InvalidStatus):
            await connect(f"{served.ws_url}?api_key=wrong-{KEY}")

    run(scenario, settings=Settings(api_keys=(KEY,)))
    ours = [record for record in caplog.records if record.name.startswith(("uvicorn", "duplex_server"))]
    assert ours
    assert not any(KEY in record.getMessage() for record in ours)


# -- relays -----------------------------------------------------------------------------------------------------------


def test_without_servers_there_are_none_to_name() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/v1/ice_servers")).json() == {"ice_servers": []}

    run(scenario)


def test_relays_come_with_credentials_that_expire() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        response = await http.get("/v1/ice_servers")
        assert response.headers["Cache-Control"] == "no-store"
        body = response.json()
        stun, turn = body["ice_servers"]
        assert stun == {"urls": ["stun:stun.example:3478"]}
        expected = relay_credentials("north", ttl_s=600, now_s=NOW_S, name="duplex")
        assert turn == {
            "urls": ["turn:turn.example:3478"],
            "username": expected.username,
            "credential": expected.password,
        }
        assert body["expires_at"] == int(NOW_S) + 600

    settings = Settings(
        ice_servers=("stun:stun.example:3478",),
        turn_urls=("turn:turn.example:3478",),
        turn_secret="north",
        turn_ttl_s=600,
    )
    run(scenario, settings=settings)


# -- pages of other sites ---------------------------------------------------------------------------------------------

APP = "https://app.example"


def test_an_allowed_page_may_call_and_read_where_its_call_is() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        asked = {
            "Origin": APP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-sdk-version",
        }
        preflight = await http.options("/v1/realtime/calls", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == APP
        assert "x-sdk-version" in preflight.headers["Access-Control-Allow-Headers"]
        client = Client(served)
        client.connection.addTransceiver("audio")
        answer = await http.post("/v1/realtime/calls", content=await client.offer(), headers=SDP | {"Origin": APP})
        await client.connection.close()
        assert answer.status_code == 201
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Access-Control-Allow-Origin"] == APP

    run(scenario, settings=Settings(allowed_origins=(APP,)))


def test_an_allowed_page_may_ask_whether_there_is_a_server_before_it_opens_a_websocket() -> None:
    """Browsers ask people about servers on their own machine when a page fetches, and not always for a WebSocket."""

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        for origin, allowed in ((APP, APP), ("https://evil.example", None)):
            answer = await http.get("/readyz", headers={"Origin": origin})
            assert answer.status_code == 200
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed

    run(scenario, settings=Settings(allowed_origins=(APP,)))


def test_other_pages_may_not() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        evil = {"Origin": "https://evil.example"}
        preflight = await http.options("/v1/realtime/calls", headers=evil | {"Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 400
        for method, path in GUARDED:
            refused = await http.request(method, path, headers=evil)
            assert refused.status_code == 403
            assert "Access-Control-Allow-Origin" not in refused.headers
            assert error_of(refused)["code"] == "origin_not_allowed"

    run(scenario, settings=Settings(allowed_origins=(APP,)))


def test_a_name_that_somebody_pointed_here_is_refused() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/v1/models", headers={"Host": "evil.example"})).status_code == 403

    run(scenario)


# -- the page ---------------------------------------------------------------------------------------------------------


def make_page(folder: Path) -> Path:
    for name, text in {
        "index.html": "<!doctype html><title>page</title>",
        "main.js": "export {};",
        "package.json": "{}",
        "tests/main.test.js": "",
        "node_modules/x/index.js": "",
        ".hidden.js": "",
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_the_page_is_never_stale_and_can_load_nothing_foreign(tmp_path: Path) -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        for path, kind in (("/", "text/html"), ("/main.js", "text/javascript")):
            response = await http.get(path)
            assert response.status_code == 200
            assert response.headers["Content-Type"].startswith(kind)
            assert response.headers["Cache-Control"] == "no-cache"
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "microphone=(self)" in response.headers["Permissions-Policy"]
            again = await http.get(path, headers={"If-None-Match": response.headers["ETag"]})
            assert again.status_code == 304

    run(scenario, page_folder=make_page(tmp_path))


@pytest.mark.parametrize(
    "path",
    [
        "/package.json",
        "/tests/main.test.js",
        "/node_modules/x/index.js",
        "/.hidden.js",
        "/../secret.js",
        "/%2e%2e/secret.js",
        "/..%2fsecret.js",
        "/no\x00name.js",
        "/" + "a" * 3000 + ".js",
        "/nothing.js",
    ],
)
def test_what_is_not_the_page_is_not_served(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.js").write_text("secret")

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        quoted = path.replace("\x00", "%00")
        writer.write(f"GET {quoted} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"secret" not in answer

    run(scenario, page_folder=make_page(tmp_path / "page"))


def test_every_file_that_the_real_page_names_is_served() -> None:
    folder = page_folder()
    names = [file.name for file in folder.iterdir() if file.suffix in (".js", ".css", ".svg", ".html")]
    assert names

    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        for name in names:
            assert (await http.get(f"/{name}")).status_code == 200, name

    run(scenario, page_folder=folder)


def test_a_server_without_a_page_serves_none() -> None:
    async def scenario(served: Served, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/")).status_code == 404

    run(scenario)
