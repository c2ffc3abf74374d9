"""The client over a WebSocket, against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import base64
import http
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from duplex_server.client import Conversation, ReceivedAudio, connect
from duplex_server.errors import (
    AuthError,
    CapacityError,
    ClientError,
    ConfigError,
    DuplexError,
    InvalidEvent,
    SessionExpired,
    TransportError,
)
from duplex_server.wire.audio_format import AudioFormat, AudioOutlet
from duplex_server.wire.codec import encode
from duplex_server.wire.events import (
    ErrorEvent,
    InputAudioBufferSpeechStarted,
    ResponseOutputAudioDelta,
    SessionCreated,
    SessionQueued,
    SessionQueueDone,
    SessionQueueUpdate,
    SessionUpdated,
    UnknownEvent,
)
from duplex_server.wire.objects import ErrorObject
from duplex_server.wire.session_object import AudioConfig, AudioInputConfig, AudioOutputConfig, Session

Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(script: Script, refusal: Response | None = None) -> AsyncIterator[tuple[str, list[Request]]]:
    """A server that greets with ``session.created`` and then follows a script; yields its address."""
    requests: list[Request] = []

    def look(connection: ServerConnection, request: Request) -> Response | None:
        requests.append(request)
        return refusal

    async def converse(connection: ServerConnection) -> None:
        await say(connection, SessionCreated(session=Session(id="sess_1")))
        await script(connection)

    running: Server
    async with serve(converse, "127.0.0.1", 0, process_request=look, subprotocols=["realtime"]) as running:  # type: ignore[list-item]
        port = running.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", requests


@asynccontextmanager
async def full_server(wait: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server with a line: it lets everybody wait as ``wait`` says; yields its address, and who came and left."""
    seen: list[str] = []

    async def converse(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.path)
        try:
            await say(connection, SessionQueued(ticket_id="t", position=2, estimated_wait_s=60.0, queue_length=2))
            await wait(connection)
            await connection.wait_closed()
        finally:
            seen.append("left")

    running: Server
    async with serve(converse, "127.0.0.1", 0, subprotocols=["realtime"]) as running:  # type: ignore[list-item]
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}", seen


async def say(connection: ServerConnection, event: Any) -> None:
    await connection.send(encode(event), text=True)


async def heard(connection: ServerConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await connection.recv())
    return message


async def nothing(connection: ServerConnection) -> None:
    await connection.wait_closed()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(limited())


def test_settings_hold_when_the_block_is_entered() -> None:
    async def script(connection: ServerConnection) -> None:
        update = await heard(connection)
        assert update == {"type": "session.update", "session": {"extra_body": {"interruption": "immediate"}}}
        await say(connection, SessionUpdated(session=Session(id="sess_1", instructions="new")))
        await connection.wait_closed()

    async def main() -> None:
        async with (
            server(script) as (url, requests),
            connect(url, api_key="k1", session={"extra_body": {"interruption": "immediate"}}) as conversation,
        ):
            assert conversation.session.instructions == "new"
            assert not conversation.media_track
            assert requests[0].path == "/v1/realtime?resume=1"
            assert requests[0].headers["Authorization"] == "Bearer k1"
            assert conversation.session.id == "sess_1"

    run(main)


def test_events_that_came_while_connecting_are_not_lost_and_keep_their_order() -> None:
    async def script(connection: ServerConnection) -> None:
        await heard(connection)
        await say(connection, InputAudioBufferSpeechStarted(item_id="early"))
        await say(connection, SessionUpdated(session=Session()))
        await say(connection, InputAudioBufferSpeechStarted(item_id="late"))
        await connection.send('{"type": "something.new", "event_id": "e"}')

    async def main() -> None:
        async with server(script) as (url, _), connect(url, session={}) as conversation:
            events = [event async for event in conversation.events()]
            assert [type(event) for event in events] == [
                SessionCreated,
                InputAudioBufferSpeechStarted,
                SessionUpdated,
                InputAudioBufferSpeechStarted,
                UnknownEvent,
            ]

    run(main)


def test_refused_settings_raise_the_servers_sentence() -> None:
    async def script(connection: ServerConnection) -> None:
        await heard(connection)
        await say(connection, ErrorEvent(error=ErrorObject(code="invalid_value", message="No.", param="session.x")))
        await connection.wait_closed()

    async def main() -> None:
        async with server(script) as (url, _):
            with pytest.raises(ClientError, match=r"No\.") as caught:
                async with connect(url, session={}):
                    pass
            assert caught.value.param == "session.x"

    run(main)


def test_settings_of_a_wrong_type_are_refused_before_connecting() -> None:
    async def main() -> None:
        with pytest.raises(InvalidEvent, match="instructions"):
            async with connect("127.0.0.1:1", session={"instructions": 5}):
                pass

    run(main)


def test_microphone_audio_arrives_as_pcm16_at_24_khz() -> None:
    received: list[dict[str, Any]] = []

    async def script(connection: ServerConnection) -> None:
        received.extend([await heard(connection) for _ in range(10)])
        await connection.close()

    async def main() -> None:
        async with server(script) as (url, _), connect(url) as conversation:
            for _ in range(10):
                await conversation.send_audio(np.full(320, 0.5, np.float32), 16_000)
            assert [event async for event in conversation.events()]
        assert {event["type"] for event in received} == {"input_audio_buffer.append"}

    run(main)
    samples = np.concatenate([np.frombuffer(base64.b64decode(e["audio"]), "<i2") for e in received])
    assert 10 * 480 - 40 < len(samples) <= 10 * 480
    assert samples[100:-100] == pytest.approx(16_384, abs=40)


def test_a_picture_goes_out_as_base64() -> None:
    received: list[dict[str, Any]] = []

    async def script(connection: ServerConnection) -> None:
        received.append(await heard(connection))

    async def main() -> None:
        async with server(script) as (url, _), connect(url) as conversation:
            await conversation.send_frame(b"\xff\xd8picture", captured_ms=40)
            assert [event async for event in conversation.events()]

    run(main)
    assert received == [{"type": "input_image_buffer.append", "image": "/9hwaWN0dXJl", "capture_ms": 40.0}]


@pytest.mark.parametrize("kind", ["audio/pcm", "audio/pcmu"])
def test_received_audio_is_float_at_24_khz_with_its_time(kind: Any) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 300 * np.arange(4800) / 24_000)).astype(np.float32)
    audio_format = AudioFormat(type=kind)

    async def script(connection: ServerConnection) -> None:
        audio = AudioConfig(input=AudioInputConfig(), output=AudioOutputConfig(format=audio_format))
        await say(connection, SessionUpdated(session=Session(audio=audio)))
        delta = AudioOutlet(audio_format).encode(tone)
        await say(connection, ResponseOutputAudioDelta(response_id="r1", item_id="i1", delta=delta))

    async def main() -> None:
        async with server(script) as (url, _), connect(url) as conversation:
            before_s = asyncio.get_running_loop().time()
            received = [event async for event in conversation.events() if isinstance(event, ReceivedAudio)]
            after_s = asyncio.get_running_loop().time()
        assert [(audio.response_id, audio.item_id) for audio in received] == [("r1", "i1")]
        assert before_s <= received[0].received_s <= after_s
        assert received[0].position_samples is None
        pcm = received[0].pcm
        assert pcm.dtype == np.float32
        assert 4500 < len(pcm) <= 4800
        assert np.sqrt(np.mean(pcm[200:-200] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)

    run(main)


def ended(close: Callable[[ServerConnection], Awaitable[None]]) -> DuplexError | None:
    """Return what the event iterator raises when the server ends the connection so."""
    found: list[DuplexError | None] = []

    async def main() -> None:
        async with server(close) as (url, _), connect(url) as conversation:
            found.append(await end_of(conversation))

    run(main)
    return found[0]


async def end_of(conversation: Conversation) -> DuplexError | None:
    try:
        async for _ in conversation.events():
            pass
    except DuplexError as error:
        return error
    return None


def test_a_good_end_is_the_end_of_the_events() -> None:
    assert ended(lambda connection: connection.close()) is None


def test_a_session_that_hits_its_limit_says_so() -> None:
    error = ended(lambda connection: connection.close(1001, "60 minutes are over"))
    assert isinstance(error, SessionExpired)
    assert str(error) == "60 minutes are over"


def test_a_place_that_is_lost_is_no_capacity() -> None:
    assert isinstance(ended(lambda connection: connection.close(1013)), CapacityError)


def test_a_server_failure_is_told_with_its_reason() -> None:
    assert str(ended(lambda connection: connection.close(1011, "worker died"))) == (
        "the server closed the connection with code 1011: worker died"
    )


def test_a_connection_that_breaks_is_told() -> None:
    async def script(connection: ServerConnection) -> None:
        connection.transport.abort()

    assert str(ended(script)) == "the connection broke off"


def test_sending_after_a_good_end_sends_nothing() -> None:
    async def main() -> None:
        async with server(lambda connection: connection.close()) as (url, _), connect(url) as conversation:
            assert await end_of(conversation) is None
            assert not await conversation.send_audio(np.zeros(480, np.float32), 24_000)

    run(main)


def test_sending_after_a_bad_end_raises_the_reason() -> None:
    async def main() -> None:
        async with server(lambda connection: connection.close(1011, "died")) as (url, _), connect(url) as conversation:
            assert await end_of(conversation) is not None
            with pytest.raises(TransportError, match="1011: died"):
                await conversation.send_audio(np.zeros(480, np.float32), 24_000)

    run(main)


def refused(response: Response) -> DuplexError:
    caught: list[DuplexError] = []

    async def main() -> None:
        async with server(nothing, response) as (url, _):
            try:
                async with connect(url):
                    pass
            except DuplexError as error:
                caught.append(error)

    run(main)
    return caught[0]


def answer(status: http.HTTPStatus, headers: dict[str, str] | None = None, body: bytes = b"") -> Response:
    return Response(status.value, status.phrase, Headers({"Content-Length": str(len(body)), **(headers or {})}), body)


def test_a_wrong_key_raises_the_servers_sentence() -> None:
    body = b'{"error": {"message": "Wrong key.", "code": "invalid_api_key"}}'
    error = refused(answer(http.HTTPStatus.UNAUTHORIZED, body=body))
    assert isinstance(error, AuthError)
    assert str(error) == "Wrong key."


def test_a_full_server_says_when_to_try_again() -> None:
    error = refused(answer(http.HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "17"}))
    assert isinstance(error, CapacityError)
    assert error.retry_after_s == 17


def test_another_kind_of_server_is_told_apart() -> None:
    error = refused(answer(http.HTTPStatus.NOT_FOUND, body=b"<html>"))
    assert str(error) == "the server answered with HTTP 404: Not Found"


def test_nobody_there() -> None:
    async def main() -> None:
        with pytest.raises(TransportError, match=r"cannot connect to http://127\.0\.0\.1:9"):
            async with connect("http://127.0.0.1:9"):
                pass

    run(main)


def test_a_server_that_says_nothing_is_given_up() -> None:
    async def main() -> None:
        async with serve(nothing, "127.0.0.1", 0) as running:
            port = running.sockets[0].getsockname()[1]
            with pytest.raises(TransportError, match="did not report the session"):
                async with connect(f"127.0.0.1:{port}", timeout_s=0.2):
                    pass

    run(main)


def test_an_unknown_transport_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="carrier pigeon"):
            async with connect("127.0.0.1:9", transport="carrier pigeon"):  # type: ignore[arg-type]
                pass

    run(main)


def test_waiting_in_the_line_is_no_failure_however_long_it_takes() -> None:
    async def wait(connection: ServerConnection) -> None:
        for _ in range(3):
            await asyncio.sleep(0.2)
            await say(connection, SessionQueueUpdate(ticket_id="t", position=1, estimated_wait_s=30.0, queue_length=1))
        await asyncio.sleep(0.2)
        await say(connection, SessionQueueDone(ticket_id="t"))
        await say(connection, SessionCreated(session=Session(id="sess_1")))
        await say(connection, InputAudioBufferSpeechStarted(item_id="first"))
        await connection.close()

    async def main() -> None:
        told: list[tuple[int, float]] = []
        async with full_server(wait) as (url, seen):
            async with connect(
                url, timeout_s=0.3, on_queue=lambda line: told.append((line.position, line.estimated_wait_s))
            ) as conversation:
                assert told == [(2, 60.0), (1, 30.0), (1, 30.0), (1, 30.0)]
                kinds = [type(event) async for event in conversation.events()]
                assert kinds == [SessionCreated, InputAudioBufferSpeechStarted], "the line is no part of it"
                assert conversation.session.id == "sess_1"
            assert seen[0] == "/v1/realtime?resume=1&queue=1"

    run(main)


def test_who_stops_waiting_leaves_the_line() -> None:
    async def main() -> None:
        async with full_server(nothing) as (url, seen):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), connect(url, on_queue=lambda _: None):
                    raise AssertionError("there was no place")
            while "left" not in seen:  # noqa: ASYNC110 - the server sees it a moment later
                await asyncio.sleep(0.01)

    run(main)


def test_a_server_that_never_greets_after_the_line_is_a_failure() -> None:
    async def wait(connection: ServerConnection) -> None:
        await say(connection, SessionQueueDone(ticket_id="t"))

    async def main() -> None:
        async with full_server(wait) as (url, _):
            with pytest.raises(TransportError, match="did not report"):
                async with connect(url, timeout_s=0.3, on_queue=lambda _: None):
                    raise AssertionError("there was no session")

    run(main)


def test_a_line_that_is_sent_away_is_a_full_server() -> None:
    async def wait(connection: ServerConnection) -> None:
        await connection.close(1013)

    async def main() -> None:
        async with full_server(wait) as (url, _):
            with pytest.raises(CapacityError):
                async with connect(url, on_queue=lambda _: None):
                    raise AssertionError("there was no place")

    run(main)
