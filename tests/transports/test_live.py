"""OpenAI's Live API: its official client, unmodified, against the real application and a real session."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.resources.live.live import AsyncLiveConnection
from openai.types.live import ServerEvent as OpenAIServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from duplex_server.config import Settings
from duplex_server.errors import EngineLost
from duplex_server.session.session import SessionLimits
from duplex_server.transports import reception
from duplex_server.transports.continuous import FRAME_MS
from duplex_server.types import Floor, Heard, ModelOutput
from tests.helpers.slots import speech
from tests.transports import serving
from tests.transports.calling import calling
from tests.transports.speaking import Speaking, speaking
from tests.transports.test_http import KEY, error_of

_SCHEMA: TypeAdapter[Any] = TypeAdapter(OpenAIServerEvent)


def run(scenario: Callable[[Speaking], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), speaking(**options) as stage:
            await scenario(stage)

    serving.run(main())


class Listener:
    """Reads one connection of the official client, and checks each event against the official models."""

    def __init__(self, connection: AsyncLiveConnection) -> None:
        self._connection = connection
        self.pcm = bytearray()
        self.events: list[Any] = []

    async def until(self, kind: str) -> Any:
        while True:
            raw = json.loads(await self._connection.recv_bytes())
            event: Any = _SCHEMA.validate_python(raw)
            if event.type == "session.output_audio.delta":
                self.pcm += base64.b64decode(event.delta)
            else:
                self.events.append(event)
            if event.type == kind:
                return event

    async def hear(self, n_bytes: int) -> None:
        n_bytes += len(self.pcm)
        while len(self.pcm) < n_bytes:
            await self.until("session.output_audio.delta")

    def levels(self) -> np.ndarray[Any, Any]:
        return np.frombuffer(bytes(self.pcm), "<i2").astype(np.float32) / 32_768


def test_openais_client_holds_a_conversation() -> None:
    async def scenario(stage: Speaking) -> None:
        async with (
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none") as client,
            client.live.connect() as connection,
        ):
            listener = Listener(connection)
            await connection.session.start(
                session={
                    "model": "gpt-live-1",
                    "instructions": "Be brief.",
                    "audio": {"format": {"type": "audio/pcm", "rate": 24000}, "output": {"voice": "marin"}},
                    "input": [{"role": "developer", "content": [{"type": "input_text", "text": "The user is Ada."}]}],
                },
                event_id="start",
            )
            started = await listener.until("session.started")
            assert listener.events == [started]
            assert started.client_event_id == "start"
            assert (started.session.model, started.session.instructions) == ("scripted", "Be brief.")
            assert started.session.audio.output.voice == "default"
            await connection.session.input_audio.append(audio=base64.b64encode(bytes(4800)).decode())
            await listener.hear(24_000)
            assert not listener.levels().any(), "it listens: exact silence"
            n_silent = len(listener.pcm) // 2
            stage.slot.say(speech(0.4, text="Hello ", end=False))
            stage.slot.say(speech(0.4, text="Ada."))
            words = [await listener.until("session.output_transcript.delta") for _ in range(2)]
            assert [word.delta for word in words] == ["Hello ", "Ada."]
            assert [word.end_ms - word.start_ms for word in words] == [400, 400]
            assert words[1].start_ms == words[0].end_ms
            usage = await listener.until("session.usage.updated")
            assert usage.usage.seconds > 1.2
            await listener.hear(9600)
            spoken = np.flatnonzero(listener.levels())
            assert len(spoken) == 0.8 * 24_000 and spoken[-1] - spoken[0] == len(spoken) - 1, "whole, without a hole"
            assert spoken[0] >= n_silent
            assert spoken[0] * 1000 / 24_000 == pytest.approx(words[0].start_ms, abs=1)
            await connection.session.close(event_id="bye")
            closed = await listener.until("session.closed")
            assert (closed.reason, closed.client_event_id) == ("close_requested", "bye")
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        assert [unit.texts for unit in stage.slot.units if unit.texts] == [("The user is Ada.",)]
        assert stage.slot.setups[0].instructions == "Be brief."

    run(scenario)


def test_what_is_appended_is_acknowledged_and_commentary_is_said() -> None:
    async def scenario(stage: Speaking) -> None:
        async with (
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none") as client,
            client.live.connect() as connection,
        ):
            listener, session = Listener(connection), connection.session
            await session.start(session={"model": "any"})
            await listener.until("session.started")
            await session.instructions.append(content="Speak slowly.", delegation_id=None, event_id="1")
            assert (await listener.until("session.instructions.appended")).client_event_id == "1"
            await session.thinking.append(content="It rains.", delegation_id=None, event_id="2")
            assert (await listener.until("session.thinking.appended")).client_event_id == "2"
            assert all(unit.floor is Floor.FREE for unit in stage.slot.units)
            await session.commentary.append(content="Say that it rains.", delegation_id=None, event_id="3")
            told = await listener.until("session.commentary.appended")
            assert told.client_event_id == "3" and told.start_ms == told.end_ms > 0
            await session.update(session={"delegation": None}, event_id="4")
            assert (await listener.until("session.updated")).client_event_id == "4"
            while not any(unit.floor is Floor.SPEAK for unit in stage.slot.units):
                await listener.hear(2)
            texts = [text for unit in stage.slot.units for text in unit.texts]
            assert texts == ["Speak slowly.", "It rains.", "Say that it rains."]

    run(scenario)


def test_a_muted_microphone_is_silence_to_the_model() -> None:
    loud = base64.b64encode(np.full(2400, 16_000, "<i2").tobytes()).decode()

    async def scenario(stage: Speaking) -> None:
        async with (
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none") as client,
            client.live.connect() as connection,
        ):
            listener, microphone = Listener(connection), connection.session.input_audio
            await connection.session.start(session={"model": "any"})
            await listener.until("session.started")
            await microphone.mute(event_id="quiet")
            assert (await listener.until("session.input_audio.muted")).client_event_id == "quiet"
            await microphone.append(audio=loud)
            await listener.hear(19_200)
            assert not any(unit.audio.any() for unit in stage.slot.units)
            await microphone.unmute()
            await listener.until("session.input_audio.unmuted")
            await microphone.append(audio=loud)
            while not any(unit.audio.any() for unit in stage.slot.units):
                await listener.hear(2)

    run(scenario)


@pytest.mark.parametrize(
    ("audio_format", "bytes_per_s"),
    [
        ({"type": "audio/pcm", "rate": 16000}, 32_000),
        ({"type": "audio/pcmu", "rate": 8000}, 8000),
        ({"type": "audio/pcma", "rate": 8000}, 8000),
    ],
)
def test_other_formats_go_both_ways(audio_format: Any, bytes_per_s: int) -> None:
    async def scenario(stage: Speaking) -> None:
        async with (
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none") as client,
            client.live.connect() as connection,
        ):
            listener = Listener(connection)
            await connection.session.start(session={"model": "any", "audio": {"format": audio_format}})
            started = await listener.until("session.started")
            assert started.session.audio.format.model_dump() == audio_format
            tenth = b"\x10" * (bytes_per_s // 10)
            for _ in range(3):
                await connection.session.input_audio.append(audio=base64.b64encode(tenth).decode())
            for _ in range(10):
                await listener.until("session.output_audio.delta")
            assert len(listener.pcm) == pytest.approx(bytes_per_s * FRAME_MS / 100, rel=0.02)
            while (n_heard := sum(np.count_nonzero(unit.audio) for unit in stage.slot.units)) < 0.3 * 16_000 - 50:
                await listener.until("session.output_audio.delta")
            assert n_heard == pytest.approx(0.3 * 16_000, abs=50)

    run(scenario)


def test_what_the_user_said_comes_as_timed_words() -> None:
    async def scenario(stage: Speaking) -> None:
        async with (
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none") as client,
            client.live.connect() as connection,
        ):
            listener = Listener(connection)
            await connection.session.start(session={"model": "any"})
            await listener.until("session.started")
            for text in ("what time is it", "and where"):
                stage.slot.say(ModelOutput(0, heard=Heard(text, final=True)))
            words = [await listener.until("session.input_transcript.delta") for _ in range(2)]
            assert "".join(word.delta for word in words) == "what time is it and where"
            assert all(word.start_ms <= word.end_ms for word in words)

    run(scenario)


async def ended(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Read to the end; return all events but sound, and the close code."""
    events: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosedError):
        async for message in socket:
            events.append(json.loads(message))
    for event in events:
        _SCHEMA.validate_python(event)
    assert socket.close_code is not None
    return [event for event in events if event["type"] != "session.output_audio.delta"], socket.close_code


def path_of(stage: Speaking) -> str:
    return f"ws://{stage.served.host}:{stage.served.port}/v1/live/sessions"


def test_whatever_comes_before_the_start_is_refused_and_the_start_still_works() -> None:
    async def scenario(stage: Speaking) -> None:
        async with connect(path_of(stage)) as socket:
            wrong: list[tuple[Any, str, str | None]] = [
                ({"type": "session.input_audio.append", "audio": "", "event_id": "1"}, "session_not_started", "1"),
                ({"type": "session.close", "event_id": "2"}, "session_not_started", "2"),
                ({"type": "response.create", "event_id": "3"}, "invalid_value", "3"),
                ({"type": "session.start", "event_id": "4"}, "missing_required_parameter", "4"),
                (
                    {
                        "type": "session.start",
                        "event_id": "5",
                        "session": {
                            "audio": {"format": {"type": "audio/pcm", "rate": 44100}},
                            "input": [{"role": "user", "content": [{"text": "lost"}]}],
                        },
                    },
                    "invalid_value",
                    "5",
                ),
                (
                    {"type": "session.start", "session": {"audio": {"format": {"type": "audio/pcmu", "rate": 16000}}}},
                    "invalid_value",
                    None,
                ),
            ]
            for event, code, client_event_id in wrong:
                await socket.send(json.dumps(event))
                told = json.loads(await socket.recv())
                _SCHEMA.validate_python(told)
                assert (told["type"], told["error"]["code"]) == ("error", code)
                assert told["error"]["client_event_id"] == client_event_id
            await socket.send(json.dumps({"type": "session.start", "session": {"model": "any"}}))
            assert json.loads(await socket.recv())["type"] == "session.started"
            await socket.send(json.dumps({"type": "session.start", "session": {"model": "any"}, "event_id": "again"}))
            while (told := json.loads(await socket.recv()))["type"] == "session.output_audio.delta":
                pass
            assert told["error"]["code"] == "session_already_started"
            await socket.send(json.dumps({"type": "session.instructions.append", "content": "x" * 70_000}))
            await socket.send(json.dumps({"type": "session.close"}))
            events, close_code = await ended(socket)
            assert [event["type"] for event in events] == ["error", "session.closed"]
            assert close_code == 1000
        assert not any(unit.texts for unit in stage.slot.units), "what came with a refused start is not kept"

    run(scenario)


def test_who_does_not_start_holds_no_place_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "OPENING_TIMEOUT_S", 0.2)

    async def scenario(stage: Speaking) -> None:
        async with connect(path_of(stage)) as socket:
            assert await ended(socket) == ([], 1000)
        assert stage.manager.sessions == 0

    run(scenario)


def test_the_time_limit_is_told_as_its_own_end() -> None:
    async def scenario(stage: Speaking) -> None:
        async with connect(path_of(stage)) as socket:
            await socket.send(json.dumps({"type": "session.start", "session": {"model": "any"}}))
            events, code = await ended(socket)
            assert [event["type"] for event in events] == ["session.started", "info", "error", "session.closed"]
            assert (events[-1]["reason"], code) == ("expired", 1001)

    run(scenario, limits=SessionLimits(session_max_s=0.5))


def test_a_model_that_is_lost_and_one_that_says_goodbye() -> None:
    async def scenario(stage: Speaking) -> None:
        for lost in (False, True):
            async with connect(path_of(stage)) as socket:
                await socket.send(json.dumps({"type": "session.start", "session": {"model": "any"}}))
                await socket.recv()
                if lost:
                    stage.slot.break_down(EngineLost("worker 0"))
                else:
                    stage.slot.say(ModelOutput(0, end_of_session=True))
                events, code = await ended(socket)
                assert (events[-1]["type"], events[-1]["reason"], code) == (
                    ("session.closed", "connection_lost", 1011) if lost else ("session.closed", "remote_hangup", 1000)
                )

    run(scenario)


def test_a_key_is_asked_for_and_pictures_are_seen() -> None:
    png = base64.b64encode(
        base64.b64decode(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
        )
    ).decode()

    async def scenario(stage: Speaking) -> None:
        with pytest.raises(Exception, match="401"):
            await connect(path_of(stage))
        async with connect(path_of(stage), additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
            await socket.send(json.dumps({"type": "session.start", "session": {"model": "any"}}))
            await socket.recv()
            await socket.send(json.dumps({"type": "session.input_image.append", "image": png}))
            while not any(unit.frames for unit in stage.slot.units):
                await socket.recv()
            await socket.send(json.dumps({"type": "session.input_image.append", "image": "?", "event_id": "bad"}))
            await socket.send(json.dumps({"type": "session.close"}))
            events, _ = await ended(socket)
            assert [event["type"] for event in events] == ["error", "session.closed"]
            assert events[0]["error"]["client_event_id"] == "bad"

    run(scenario, settings=Settings(api_keys=(KEY,)))


def test_a_call_is_made_in_json_attached_to_and_hung_up() -> None:
    async def scenario(stage: Speaking) -> None:
        async with (
            calling(stage.served, of_realtime=False) as peer,
            AsyncOpenAI(base_url=f"{stage.served.url}/v1", api_key="none", max_retries=0) as client,
        ):
            with pytest.raises(BadRequestError):
                await client.live.create(session={"model": "any"}, transport={"type": "webrtc", "sdp": "v=0"})
            created = await client.live.create(
                session={
                    "model": "any",
                    "input": [{"role": "user", "content": [{"type": "input_text", "text": "I am Ada."}]}],
                },
                transport={"type": "webrtc", "sdp": await peer.offer()},
            )
            await peer.accept(created.transport.sdp)
            await peer.until(lambda: bool(peer.events))
            assert peer.events[0]["type"] == "session.started"
            assert peer.events[0]["session"]["id"] == created.session.id
            async with client.live.sideband.connect(session_id=created.session.id) as sideband:
                assert json.loads(await sideband.recv_bytes())["type"] == "session.started"
                await sideband.session.instructions.append(content="Be brief.", delegation_id=None, event_id="side")
                assert json.loads(await sideband.recv_bytes())["client_event_id"] == "side"
            peer.send({"type": "session.input_audio.mute"})
            await peer.until(lambda: peer.events[-1]["type"] == "session.input_audio.muted")
            stage.slot.say(speech(0.3, text="Hello."))
            await peer.until(lambda: peer.events[-1]["type"] == "session.usage.updated")
            words = [event for event in peer.events if event["type"] == "session.output_transcript.delta"]
            assert [word["delta"] for word in words] == ["Hello."]
            for event in peer.events:
                _SCHEMA.validate_python(event)
            await client.live.sessions.hangup(created.session.id)
            await stage.served.ended("webrtc", "peer")
        assert [text for unit in stage.slot.units for text in unit.texts] == ["I am Ada.", "Be brief."]

    run(scenario)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "session"),
        ({"session": {}}, "transport"),
        ({"session": {}, "transport": {"type": "sip", "sdp": ""}}, "transport.type"),
        ({"session": {"instructions": 1}, "transport": {"sdp": ""}}, "session.instructions"),
        ({"session": {"extra_body": {"language": "xx"}}, "transport": {"sdp": ""}}, "session.extra_body.language"),
    ],
)
def test_a_call_that_cannot_be_had_is_refused(body: dict[str, Any], param: str) -> None:
    async def scenario(stage: Speaking) -> None:
        async with httpx2.AsyncClient(base_url=stage.served.url) as http:
            refused = await http.post("/v1/live/sessions", json=body)
            assert refused.status_code == 400
            assert error_of(refused)["param"] == param
        assert stage.manager.sessions == 0

    run(scenario)
