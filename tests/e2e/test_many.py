"""Several people at the page at the same time."""

from __future__ import annotations

import asyncio
import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from duplex_server.client import ReceivedAudio, TransportName, connect
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.events import ResponseDone, ResponseOutputAudioTranscriptDelta
from tests.e2e.clips import said
from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server
from tests.e2e.visitor import AUDIBLE_RMS, TRANSPORTS
from tests.helpers.speech import UserVoice

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_people_hear_their_own_answers(visit: OpenPage, server: Server, voice: UserVoice, transport: str) -> None:
    # Twice, as people ask who were not understood: on a busy machine the fake microphone drops sound.
    time, date = (said(voice, (5.0, asks), (14.0, asks)) for asks in ("what time is it", "what is the date"))
    first = visit(server.url, hears=time, transport=transport)
    second = visit(server.url, hears=date, transport=transport)
    first.start()
    second.start()
    assert first.answer(r"^it is \d+", 30)
    assert second.answer("^today is", 30)
    assert first.look("duplex.state.facts.id") != second.look("duplex.state.facts.id")
    for visitor, others in ((first, "today is"), (second, "it is")):
        assert visitor.sound_s() > 0.6
        visitor.until(f"!lines('model').some((line) => /{others}/i.test(line.text))")


async def ask_the_time(url: str, track: Pcm, transport: TransportName) -> tuple[str, str, float]:
    """Speak to the server at real-time pace; returns the session's id, what it said, and seconds of sound."""
    loop = asyncio.get_running_loop()
    async with connect(url, transport=transport) as conversation:
        said_back, sound_s = "", 0.0

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
                    sound_s += float(np.abs(received.pcm).max() > AUDIBLE_RMS) * len(received.pcm) / OUTPUT_RATE_HZ
                    continue
                if isinstance(received, ResponseOutputAudioTranscriptDelta):
                    said_back += received.delta
                elif isinstance(received, ResponseDone):
                    break
            speaking.cancel()
        return conversation.session.id, said_back, sound_s


def test_the_tenth_person_is_answered_as_the_first_is(visit: OpenPage, server: Server, voice: UserVoice) -> None:
    """Nine clients without a page, over both transports, and a browser: ten Chromiums are too much for two cores."""
    track = said(voice, (2.0, "what time is it"))

    async def nine() -> list[tuple[str, str, float]]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            transports: list[TransportName] = ["webrtc"] * 4
            transports += ["websocket"] * 5
            asked = [tasks.create_task(ask_the_time(server.url, track, transport)) for transport in transports]
        return [task.result() for task in asked]

    page = visit(server.url, hears=said(voice, (5.0, "what time is it")), transport="webrtc")
    with ThreadPoolExecutor(1) as elsewhere:  # the page's driver holds this thread
        others = elsewhere.submit(asyncio.run, nine())
        page.start(40)
        assert page.answer(r"^it is \d+", 60)
        answered = others.result()
    assert page.sound_s() > 0.6
    assert all(re.match(r"It is \d+", words) and sound_s > 0.4 for _, words, sound_s in answered), answered
    assert len({session_id for session_id, _, _ in answered} | {page.look("duplex.state.facts.id")}) == 10
