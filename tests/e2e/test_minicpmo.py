"""Speaking with a tiny MiniCPM-o of random weights: through the server, by WebSocket, WebRTC and at the page."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from duplex_server.client import ReceivedAudio, TransportName, connect
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.events import ResponseDone, ResponseOutputAudioTranscriptDelta
from tests.e2e.clips import said
from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server
from tests.e2e.visitor import TRANSPORTS
from tests.helpers.speech import UserVoice

MISSING = [name for name in ("torch", "tokenizers", "safetensors") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install duplex-server[minicpmo]"
    ),
]

ANSWER = "one two three four five six"
"""What the scripted model says; its sound is made by the weights and means nothing."""
_BEGIN_S = 4.0
_SILENT_AFTER_MS = 700.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.minicpmo_voice import speaking_checkpoint

    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def scripted(checkpoint: Path) -> Iterator[Server]:
    """A server whose model decides by a script, and computes all else."""
    from tests.helpers.minicpmo_voice import CHECKPOINT_VARIABLE

    os.environ[CHECKPOINT_VARIABLE] = str(checkpoint)
    flags = ("--model-workers", "1", "--rows-per-worker", "4")
    with Server("--model", "tests.helpers.minicpmo_voice:serve_scripted", *flags) as started:
        yield started


async def converse(url: str, track: Pcm, transport: TransportName, *, until_s: float) -> tuple[str, float]:
    """Speak at real-time pace until a response is over; returns what was said, and for how many seconds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(until_s), connect(url, transport=transport) as conversation:
        text, n_samples = "", 0

        async def speak() -> None:
            due_s = loop.time()
            silent = np.zeros(320, np.float32)
            for start in itertools.count(0, 320):
                tick = track[start : start + 320]
                await conversation.send_audio(tick if len(tick) == 320 else silent, INPUT_RATE_HZ)
                due_s += 0.02
                await asyncio.sleep(max(0.0, due_s - loop.time()))

        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(speak())
            async for received in conversation.events():
                if isinstance(received, ReceivedAudio):
                    if np.abs(received.pcm).max() > 1e-3:
                        n_samples += len(received.pcm)
                elif isinstance(received, ResponseOutputAudioTranscriptDelta):
                    text += received.delta
                elif isinstance(received, ResponseDone):
                    break
            speaking.cancel()
    return text, n_samples / OUTPUT_RATE_HZ


def loud(seed: int, duration_s: float = 1.5) -> Pcm:
    return np.random.default_rng(seed).normal(0, 0.2, round(INPUT_RATE_HZ * duration_s)).astype(np.float32)


def test_three_conversations_at_once_are_each_answered(scripted: Server) -> None:
    async def three() -> list[tuple[str, float]]:
        async with asyncio.TaskGroup() as tasks:
            ways: list[TransportName] = ["websocket", "websocket", "webrtc"]
            talking = [
                tasks.create_task(converse(scripted.url, loud(seed), way, until_s=90)) for seed, way in enumerate(ways)
            ]
        return [task.result() for task in talking]

    for text, sound_s in asyncio.run(three()):
        assert text.strip() == ANSWER
        assert sound_s > 2.0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_at_the_page_it_answers_aloud_and_in_captions(
    visit: OpenPage, scripted: Server, voice: UserVoice, transport: str
) -> None:
    track = said(voice, *((_BEGIN_S + at_s, "what time is it") for at_s in (0.0, 12.0)))
    visitor = visit(scripted.url, hears=track, transport=transport)
    visitor.start()
    assert visitor.answer(ANSWER, 60).strip() == ANSWER
    assert visitor.sound_s() > 1.5


def test_interrupted_it_falls_silent_and_answers_again(visit: OpenPage, scripted: Server, voice: UserVoice) -> None:
    track = said(voice, *((_BEGIN_S + at_s, "what time is it") for at_s in (0.0, 12.0, 24.0)))
    visitor = visit(scripted.url, hears=track, transport="webrtc")
    visitor.start()
    visitor.until("duplex.state.view === 'speaking' && lines('model').at(-1).heard.length > 2", 40)
    visitor.button("Interrupt").click()
    pressed_ms = visitor.look("performance.now()")
    visitor.until("lines('model').at(-1).status === 'cut'")
    visitor.until(f"performance.now() > {pressed_ms + 2500}")
    assert visitor.sound_s(pressed_ms + _SILENT_AFTER_MS, pressed_ms + 2500) == 0.0
    assert visitor.answer(ANSWER, 60)


def test_a_folder_is_served_as_the_model_that_it_holds(checkpoint: Path) -> None:
    """With random weights it says anything, but speaks, and what it says comes with sound."""
    flags = ("--devices", "cpu", "--rows-per-worker", "1", "--window-tokens", "500", "--flow-steps", "2")
    with Server("--model", str(checkpoint), *flags) as server:
        assert any("conversations each" in line for line in server.log)

        async def first_sound() -> int:
            async with asyncio.timeout(90), connect(server.url, transport="websocket") as conversation:
                sending = True

                async def speak() -> None:
                    while sending:
                        await conversation.send_audio(loud(0, 0.1), INPUT_RATE_HZ)
                        await asyncio.sleep(0.1)

                async with asyncio.TaskGroup() as tasks:
                    speaking = tasks.create_task(speak())
                    async for received in conversation.events():
                        if isinstance(received, ReceivedAudio) and np.abs(received.pcm).max() > 1e-3:
                            break
                    sending = False
                    speaking.cancel()
                return len(received.pcm) if isinstance(received, ReceivedAudio) else 0

        assert asyncio.run(first_sound()) > 0
