"""vLLM-Omni's duplex dialect, by a client written from its documentation, against a real session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from duplex_server.types import Floor
from tests.helpers.slots import speech
from tests.helpers.vllm_client import VllmClient
from tests.transports import serving
from tests.transports.speaking import Speaking, speaking

LOUD = np.full(1600, 8000, "<i2").tobytes()


def run(scenario: Callable[[Speaking], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), speaking(**options) as stage:
            await scenario(stage)

    serving.run(main())


def test_a_conversation_goes_as_its_documentation_says() -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url, instructions="Be brief.", voice="unheard of") as client:
            assert client.session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 16_000}
            assert client.session["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}
            assert client.session["capabilities"]["implementation_level"] == "model_native_duplex"
            created = client.events[0]
            assert created["resume_token"] and created["attachment_generation"] == 1
            updated = (await client.wait_for("session.updated"))["session"]
            assert updated["instructions"] == "Be brief."
            assert updated["audio"]["input"]["turn_detection"] is None
            assert updated["extra_body"]["interruption"] == "model"
            await client.stream(LOUD * 3)
            await client.send("input_audio_buffer.commit", final=True, response_create=False)
            await client.wait_for("input_audio_buffer.committed")
            stage.slot.say(speech(0.5, text="It is noon."))
            began = await client.wait_for("response.created")
            done = await client.wait_for("response.done")
            assert began["response_id"] == began["response"]["id"] == done["response_id"]
            assert done["response"]["status"] == "completed"
            assert done["response"]["output"][0]["content"][0]["transcript"] == "It is noon."
            assert len(client.audio(began["response_id"])) == 24_000
            await client.send("playback.ack", response_id=began["response_id"], played_ms=200, committed_ms=200)
            assert (await client.wait_for("playback.acknowledged"))["event"]["played_ms"] == 200
            await client.send("session.heartbeat")
            await client.wait_for("session.heartbeat_ack")
        heard = np.concatenate([unit.audio for unit in stage.slot.units])
        assert np.count_nonzero(heard) == pytest.approx(0.3 * 16_000, abs=20), "16 kHz, as it is"
        assert all(unit.floor is Floor.FREE for unit in stage.slot.units)

    run(scenario)


def test_speech_over_the_model_changes_nothing_unless_the_client_says_so() -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url, overlap_policy="listen_only") as client:
            stage.slot.say(speech(20.0, text="A long story."))
            await client.wait_for("response.output_audio.delta")
            await client.stream(LOUD * 10)
            await client.send("session.heartbeat")
            await client.wait_for("session.heartbeat_ack")
            assert "response.done" not in [event["type"] for event in client.events]
            assert "input_audio_buffer.speech_started" not in [event["type"] for event in client.events]
            await client.send("turn.signal", event="something_else")
            await client.send("turn.signal", event="barge_in", payload={"source": "client_vad"})
            assert (await client.wait_for("response.done"))["response"]["status"] == "cancelled"

    run(scenario)


def test_a_client_may_ask_for_every_answer() -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url, extra_body={"auto_response": False}) as client:
            await client.stream(LOUD * 2)
            assert all(unit.floor is Floor.LISTEN for unit in stage.slot.units)
            await client.send("input_audio_buffer.commit", final=True, response_create=True)
            await client.wait_for("response.created")
            stage.slot.say(speech(0.2, text="Yes."))
            assert (await client.wait_for("response.done"))["response"]["status"] == "completed"

    run(scenario)


def test_other_names_and_silence_are_understood() -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url) as client:
            await client.send("input.text.append", text="and tomorrow?")
            assert (await client.wait_for("conversation.item.added"))["item"]["role"] == "user"
            await client.send("input.cancel")
            await client.wait_for("input_audio_buffer.cleared")
            await client.send("input_audio_buffer.commit", final=True, is_speech=False)
            await client.stream(LOUD * 2)
            await client.send("input.commit", final=True)
            await client.wait_for("input_audio_buffer.committed")
            assert "error" not in [event["type"] for event in client.events]

    run(scenario)


@pytest.mark.parametrize(
    ("kind", "fields", "code", "param"),
    [
        ("session.update", {"session": {"input_audio_format": "pcm_f32le"}}, "unsupported_value", None),
        ("session.update", {"session": {"modalities": ["smell"]}}, "invalid_value", "session.modalities[0]"),
        ("input.text.append", {}, "missing_required_parameter", "text"),
        ("push_chunk", {}, "invalid_value", "type"),
        ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty", None),
    ],
)
def test_what_is_wrong_is_told_and_the_session_goes_on(
    kind: str, fields: dict[str, Any], code: str, param: str | None
) -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url) as client:
            event_id = await client.send(kind, **fields)
            error = (await client.wait_for("error"))["error"]
            assert (error["code"], error["event_id"]) == (code, event_id)
            assert param is None or error["param"] == param
            await client.send("session.heartbeat")
            await client.wait_for("session.heartbeat_ack")

    run(scenario)


def test_without_autostart_the_session_is_greeted_at_once_and_sound_is_24_khz_until_said_otherwise() -> None:
    async def scenario(stage: Speaking) -> None:
        async with VllmClient(stage.served.ws_url, query="duplex=1&autostart=1") as client:
            assert client.session["audio"]["input"]["format"]["rate"] == 24_000
            updated = (await client.wait_for("session.updated"))["session"]
            assert updated["audio"]["input"]["format"]["rate"] == 16_000

    run(scenario)
