"""A program as people write it with openai-agents; it runs in an environment of its own.

``python agents_python.py URL KEY FOLDER``: FOLDER holds what is said, int16 at 24 kHz, and a picture. It prints ``cut``
when its line is to be torn, and ends with an error when something is not as the package promises.
"""

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agents.realtime import RealtimeAgent, RealtimeModelSendRawMessage, RealtimeRunner, RealtimeSession

URL, KEY, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
CHUNK_BYTES = 40 * 48
LONGEST_WAIT_S = 20.0
PICTURE = base64.b64encode((FOLDER / "black.jpg").read_bytes()).decode()


class Talk:
    """A session, its microphone, and everything that it reported."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.events: list[Any] = []
        self.error: BaseException | None = None
        self.change = asyncio.Event()
        self.n_seen = 0
        self.waiting = bytearray()

    def say(self, name: str) -> None:
        self.waiting += (FOLDER / f"{name}.pcm").read_bytes()

    async def listen(self) -> None:
        try:
            async for event in self.session:
                self.events.append(event)
                self.change.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of the session
            self.error = error
        self.change.set()

    async def speak(self) -> None:
        due_s = time.monotonic()
        while self.error is None:
            chunk = bytes(self.waiting[:CHUNK_BYTES])
            del self.waiting[:CHUNK_BYTES]
            await self.session.send_audio(chunk.ljust(CHUNK_BYTES, b"\0"))
            due_s += 0.04
            await asyncio.sleep(due_s - time.monotonic())

    async def until(self, kind: str, holds: Callable[[Any], bool] = lambda event: True) -> Any:
        """Return the next event of a type for which something holds."""
        async with asyncio.timeout(LONGEST_WAIT_S):
            while True:
                for n in range(self.n_seen, len(self.events)):
                    if self.events[n].type == kind and holds(self.events[n]):
                        self.n_seen = n + 1
                        return self.events[n]
                self.change.clear()
                await self.change.wait()

    async def said(self) -> str:
        """Wait for the end of an answer and return what the package's history holds of it."""
        await self.until("audio_end")
        await self.until("agent_end")
        return transcripts(self.session)[-1]

    async def heard(self, duration_s: float) -> None:
        n_bytes = 0
        while n_bytes < duration_s * 48_000:
            n_bytes += len((await self.until("audio")).audio.data)

    def errors(self) -> list[Any]:
        return [event.error for event in self.events if event.type == "error"]


def transcripts(session: RealtimeSession) -> list[str]:
    items = [item for item in session._history if item.type == "message" and item.role == "assistant"]
    return [str(part.transcript) for item in items for part in item.content if part.type == "audio"]


def was_committed(event: Any) -> bool:
    raw = event.data
    return bool(raw.type == "raw_server_event" and raw.data["type"] == "input_audio_buffer.committed")


@asynccontextmanager
async def talking(instructions: str, *, open_microphone: bool) -> AsyncIterator[Talk]:
    agent = RealtimeAgent(name="guide", instructions=instructions)
    runner = RealtimeRunner(agent)
    async with await runner.run(model_config={"url": URL, "api_key": KEY}) as session:
        talk = Talk(session)
        tasks = [asyncio.create_task(talk.listen())]
        if open_microphone:
            tasks.append(asyncio.create_task(talk.speak()))
        try:
            yield talk
        finally:
            for task in tasks:
                task.cancel()


async def speak() -> None:
    async with talking("Be brief.", open_microphone=True) as talk:
        talk.say("question")
        await talk.until("agent_start")
        words = await talk.said()
        assert words.startswith("It is"), words
        users = [item for item in talk.session._history if item.type == "message" and item.role == "user"]
        assert users, "what the user said is in the history"

        talk.say("story")
        await talk.heard(2.0)
        talk.say("stop")
        await talk.until("audio_interrupted")
        await talk.until("raw_model_event", was_committed)
        await talk.session.update_agent(RealtimeAgent(name="other", instructions="Be kind."))
        talk.say("question")
        words = await talk.said()
        assert words.startswith("It is"), words
        assert not talk.errors(), talk.errors()


async def type_and_show() -> None:
    async with talking("Be brief.", open_microphone=False) as talk:
        session = talk.session
        await session.send_message("tell me a story")
        await talk.heard(0.5)
        await session.interrupt()
        await talk.until("audio_interrupted")
        raw: Any = {"type": "response.cancel"}
        await session.model.send_event(RealtimeModelSendRawMessage(message=raw))
        await talk.until("agent_end")

        image: Any = {"type": "input_image", "image_url": f"data:image/jpeg;base64,{PICTURE}"}
        text: Any = {"type": "input_text", "text": "what do you see"}
        await session.send_message({"type": "message", "role": "user", "content": [image, text]})
        words = await talk.said()
        assert "dark" in words, words
        assert not talk.errors(), talk.errors()

        raw = {"type": "conversation.item.delete", "other_data": {"item_id": "item_x"}}
        await session.model.send_event(RealtimeModelSendRawMessage(message=raw))
        error = (await talk.until("error")).error
        assert error.code == "item_delete_invalid_item_id", error
        await session.send_message("what is two plus three")
        words = await talk.said()
        assert "5" in words, words

        print("cut item_x", flush=True)
        async with asyncio.timeout(LONGEST_WAIT_S):
            while talk.error is None:
                talk.change.clear()
                await talk.change.wait()
    async with talking("Be brief.", open_microphone=False) as talk:
        await talk.session.send_message("what is three plus four")
        words = await talk.said()
        assert "7" in words, words


async def main() -> None:
    async with asyncio.TaskGroup() as both:
        both.create_task(speak())
        both.create_task(type_and_show())


asyncio.run(main())
