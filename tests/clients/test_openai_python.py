"""openai-python's ``client.realtime``, unmodified, speaks with the embedded model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import openai
import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides

from tests.clients.conftest import KEY, Clips, black_picture
from tests.clients.microphone import Microphone
from tests.clients.tap import Tap, tapping
from tests.e2e.serving import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

_BYTES_PER_S = 48_000
_LONGEST_WAIT_S = 20.0


class _Listener:
    """Reads what the connection yields, and lets a test wait for it."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.events: list[Any] = []
        self._change = asyncio.Event()
        self._n_seen = 0

    async def run(self) -> None:
        async for event in self.connection:
            self.events.append(event)
            self._change.set()

    async def until(self, kind: str, **fields: Any) -> Any:
        """Return the next event of a type, after the last that was waited for."""
        async with asyncio.timeout(_LONGEST_WAIT_S):
            while True:
                for n, event in enumerate(self.events[self._n_seen :], self._n_seen):
                    if event.type == kind and all(getattr(event, name) == value for name, value in fields.items()):
                        self._n_seen = n + 1
                        return event
                self._change.clear()
                await self._change.wait()

    async def answer(self) -> tuple[Any, str, float]:
        """Wait for a whole response; return it, its words, and how long it sounded, in seconds."""
        begun = await self.until("response.created")
        done = await self.until("response.done")
        assert done.response.id == begun.response.id
        of_it = [event for event in self.events if getattr(event, "response_id", None) == begun.response.id]
        words = "".join(event.delta for event in of_it if event.type == "response.output_audio_transcript.delta")
        pcm = b"".join(base64.b64decode(event.delta) for event in of_it if event.type == "response.output_audio.delta")
        return done.response, words, len(pcm) / _BYTES_PER_S

    async def heard_s(self, duration_s: float) -> str:
        """Wait until the next response has sounded this long; return its item's id."""
        n_bytes = 0
        while n_bytes < duration_s * _BYTES_PER_S:
            event = await self.until("response.output_audio.delta")
            n_bytes += len(base64.b64decode(event.delta))
        return str(event.item_id)


@asynccontextmanager
async def _calling(tap: Tap, **options: Any) -> AsyncIterator[tuple[_Listener, Microphone]]:
    """A connection whose events are read and whose microphone is open."""
    async with (
        AsyncOpenAI(base_url=tap.url, api_key=KEY) as client,
        client.realtime.connect(model="gpt-realtime", **options) as connection,
        asyncio.TaskGroup() as tasks,
    ):
        listener, microphone = _Listener(connection), Microphone()

        async def append(pcm: bytes) -> None:
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())

        running = [tasks.create_task(listener.run()), tasks.create_task(microphone.run(append))]
        await listener.until("session.created")
        yield listener, microphone
        for task in running:
            task.cancel()


async def _type(connection: AsyncRealtimeConnection, *content: Any, respond: bool = True) -> None:
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": list(content)})
    if respond:
        await connection.response.create()


async def _speak(tap: Tap, clips: Clips) -> None:
    async with _calling(tap) as (listener, microphone):
        connection = listener.connection
        await connection.session.update(
            session={"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"voice": "marin"}}}
        )
        assert (await listener.until("session.updated")).session.instructions == "Be brief."
        microphone.say(clips["question"])
        await listener.until("input_audio_buffer.speech_started")
        item_id = (await listener.until("input_audio_buffer.committed")).item_id
        said, words, sounded_s = await listener.answer()
        assert (said.status, words[:5]) == ("completed", "It is")
        assert sounded_s > 0.5
        await connection.conversation.item.retrieve(item_id=item_id)
        item = (await listener.until("conversation.item.retrieved")).item
        assert (item.role, item.content[0].type) == ("user", "input_audio")

        microphone.say(clips["story"])
        heard_id = await listener.heard_s(2.0)
        microphone.say(clips["stop"])
        await listener.until("input_audio_buffer.speech_started")
        cut = (await listener.until("response.done")).response
        assert (cut.status, cut.status_details.reason) == ("cancelled", "turn_detected")
        assert [item.id for item in cut.output] == [heard_id]
        await connection.conversation.item.truncate(item_id=heard_id, content_index=0, audio_end_ms=900)
        assert (await listener.until("conversation.item.truncated")).audio_end_ms == 900
        await connection.conversation.item.retrieve(item_id=heard_id)
        kept = (await listener.until("conversation.item.retrieved")).item.content[0].transcript
        assert kept
        assert len(kept) < len(cut.output[0].content[0].transcript)


async def _type_and_show(tap: Tap) -> None:
    async with _calling(tap) as (listener, _):
        connection = listener.connection
        await _type(connection, {"type": "input_text", "text": "tell me a story"})
        await listener.heard_s(0.5)
        await connection.response.cancel()
        cut = (await listener.until("response.done")).response
        assert (cut.status, cut.status_details.reason) == ("cancelled", "client_cancelled")

        picture = f"data:image/jpeg;base64,{base64.b64encode(black_picture()).decode()}"
        await _type(connection, {"type": "input_image", "image_url": picture}, respond=False)
        await listener.until("conversation.item.done")
        await _type(connection, {"type": "input_text", "text": "what do you see"})
        _, words, _ = await listener.answer()
        assert "dark" in words

        wrong: list[tuple[dict[str, Any], str]] = [
            ({"type": "input_audio_buffer.append", "audio": "not base64!"}, "invalid_value"),
            ({"type": "response.cancel"}, "response_cancel_not_active"),
            ({"type": "conversation.item.retrieve", "item_id": "item_x"}, "item_retrieve_invalid_item_id"),
            ({"type": "conversation.item.delete", "item_id": "item_x"}, "item_delete_invalid_item_id"),
            ({"type": "session.update", "session": {"type": "realtime", "instructions": 7}}, "invalid_value"),
            ({"type": "sing"}, "invalid_value"),
        ]
        for n, (event, code) in enumerate(wrong):
            await connection.send(cast(Any, {**event, "event_id": f"wrong_{n}"}))
            error = (await listener.until("error")).error
            assert (error.code, error.event_id) == (code, f"wrong_{n}")
        await _type(connection, {"type": "input_text", "text": "what is two plus three"})
        _, words, _ = await listener.answer()
        assert "5" in words


async def _lose_the_connection(tap: Tap) -> None:
    causes: list[int] = []

    def again(event: ReconnectingEvent) -> ReconnectingOverrides | None:
        causes.append(event.close_code)
        return None

    async with _calling(tap, on_reconnecting=again, initial_delay=0.05) as (listener, _):
        first = listener.events[0].session.id
        tap.calls[-1].cut()
        assert (await listener.until("session.created")).session.id != first
        assert causes == [1006]
        await _type(listener.connection, {"type": "input_text", "text": "what is two plus three"})
        _, words, _ = await listener.answer()
        assert "5" in words


def _run(server: Server, clips: Clips) -> None:
    async def main() -> None:
        async with tapping(server.port) as tap:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_speak(tap, clips))
                tasks.create_task(_type_and_show(tap))
            await _lose_the_connection(tap)
            assert len(tap.calls) == 4

    asyncio.run(main())


def test_it_speaks_and_is_spoken_to(server: Server, clips: Clips) -> None:
    _run(server, clips)


def test_a_wrong_key_is_refused_in_its_own_words(server: Server) -> None:
    async def main() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}v1", api_key="sk-wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            with pytest.raises(Exception, match="401"):
                async with client.realtime.connect(model="gpt-realtime"):
                    pass

    asyncio.run(main())
