"""The official client, unmodified, against a dialogue behind a socket."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from websockets.asyncio.server import ServerConnection, serve

from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.requests import AppendAudio, CancelResponse, CreateResponse
from tests.helpers.wire_driver import WireDriver, ramp
from tests.helpers.wire_oracle import check


class _Server:
    """Answers every ``response.create`` with two words, and lets a cancelled one begin first."""

    def __init__(self) -> None:
        self.driver = WireDriver()
        self.turn = 0
        self.n_heard_samples = 0

    async def serve(self, socket: ServerConnection) -> None:
        await self._send_from(socket, 0)
        async for message in socket:
            n_sent = len(self.driver.sent)
            self.driver.client_text(message)
            self._perform()
            await self._send_from(socket, n_sent)

    async def _send_from(self, socket: ServerConnection, n_sent: int) -> None:
        for event in self.driver.sent[n_sent:]:
            await socket.send(json.dumps(event))

    def _perform(self) -> None:
        dialogue, tell = self.driver.dialogue, self.driver.tell
        for request in self.driver.take_requests():
            if isinstance(request, AppendAudio):
                self.n_heard_samples += len(request.pcm)
            elif isinstance(request, CreateResponse):
                self.turn += 1
                tell(dialogue.begin_response(self.turn))
                tell(dialogue.text(self.turn, "It is noon.", 0))
                tell(dialogue.audio(self.turn, ramp(480)))
                if request.instructions is None:
                    tell(dialogue.end_response(self.turn, Outcome.COMPLETED, 20))
            elif isinstance(request, CancelResponse):
                tell(dialogue.end_response(self.turn, Outcome.CANCELLED, 10))


async def _until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    seen = []
    async for event in connection:
        seen.append(event)
        if event.type == kind:
            return seen
    raise AssertionError(f"the connection ended before {kind}")


async def _talk(connection: AsyncRealtimeConnection) -> None:
    (created,) = await _until(connection, "session.created")
    assert created.session.model == "embedded"
    await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
    (updated,) = await _until(connection, "session.updated")
    assert updated.session.instructions == "Be brief."
    await connection.input_audio_buffer.append(audio=base64.b64encode(bytes(4801)).decode())
    await connection.input_audio_buffer.commit()
    item = (await _until(connection, "conversation.item.done"))[-1].item
    assert (item.role, item.content[0].type) == ("user", "input_audio")
    await connection.response.create(response={"metadata": {"question": "1"}})
    events = await _until(connection, "response.done")
    done = events[-1].response
    assert (done.status, done.metadata) == ("completed", {"question": "1"})
    assert done.output[0].content[0].transcript == "It is noon."
    pcm = b"".join(base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")
    assert len(pcm) == 960
    await connection.conversation.item.truncate(item_id=done.output[0].id, content_index=0, audio_end_ms=5000)
    assert (await _until(connection, "conversation.item.truncated"))[-1].audio_end_ms == 20
    await connection.response.create(response={"instructions": "Talk on."})
    await _until(connection, "response.output_audio.delta")
    await connection.response.cancel()
    done = (await _until(connection, "response.done"))[-1].response
    assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
    await connection.response.cancel()
    error = (await _until(connection, "error"))[-1].error
    assert error.code == "response_cancel_not_active"


async def _run() -> _Server:
    server = _Server()
    async with serve(server.serve, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        async with (
            AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            await _talk(connection)
    return server


def test_the_official_python_client_is_served() -> None:
    server = asyncio.run(_run())
    assert server.n_heard_samples == 2400
    check(server.driver.sent, media_track=False)
