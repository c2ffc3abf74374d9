from __future__ import annotations

import asyncio

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from duplex_server.media.opus import OpusDecoder
from duplex_server.session.transport import MediaFrame
from duplex_server.transports.rtc_camera import CameraView, Eye
from duplex_server.transports.rtc_fallback import Speaker, watch_camera
from duplex_server.transports.rtc_speaker import MAX_QUEUED_PACKETS, SILENCE_PACKETS
from duplex_server.types import Pcm
from tests.helpers.virtual_time import run

TICK_S = 0.02


def tone(n_ticks: int) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(n_ticks * 480) / 24_000)).astype(np.float32)


async def collect(speaker: Speaker, into: list[tuple[float, int, bytes]]) -> None:
    """Do as aiortc's sender does: take packets as they come; note the loop time, the timestamp and the payload."""
    began_s = asyncio.get_running_loop().time()
    while True:
        packet = await speaker.recv()
        assert packet.pts is not None
        into.append((asyncio.get_running_loop().time() - began_s, packet.pts, bytes(packet)))


async def speak(speaker: Speaker, n_ticks: int) -> None:
    for tick in tone(n_ticks).reshape(n_ticks, 480):
        speaker.push(tick)
        await asyncio.sleep(TICK_S)


def test_speech_is_followed_by_200_ms_of_silence_and_then_by_nothing() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 25)
            await asyncio.sleep(5)
            collecting.cancel()
        return sent

    sent = run(scenario())
    assert len(sent) == 25 + SILENCE_PACKETS
    assert [stamp for _, stamp, _ in sent] == [960 * k for k in range(35)]
    decoder = OpusDecoder()
    levels = [float(np.sqrt(np.mean(decoder.decode(payload) ** 2))) for _, _, payload in sent]
    assert min(levels[2:25]) > 0.15
    assert max(levels[27:]) < 0.001


def test_timestamps_follow_the_clock_through_silence() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            for _ in range(3):
                await speak(speaker, 5)
                await asyncio.sleep(7.3)
            collecting.cancel()
        return sent

    for at_s, stamp, _ in run(scenario()):
        assert abs(at_s - stamp / 48_000) <= 0.06


def test_ticks_that_come_in_a_burst_after_a_stall_keep_their_places() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 5)
            for tick in tone(5).reshape(5, 480):
                speaker.push(tick)
            await asyncio.sleep(TICK_S)
            collecting.cancel()
        return sent

    assert [stamp for _, stamp, _ in run(scenario())] == [960 * k for k in range(10)]


def test_a_cut_sends_silence_at_once() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 5)
            speaker.clear()
            await asyncio.sleep(1)
            collecting.cancel()
        return sent

    sent = run(scenario())
    assert len(sent) == 5 + SILENCE_PACKETS
    assert sent[5][0] == pytest.approx(5 * TICK_S)


def test_a_cut_drops_what_has_not_left() -> None:
    async def scenario() -> list[int | None]:
        speaker = Speaker()
        for tick in tone(5).reshape(5, 480):
            speaker.push(tick)
        speaker.clear()
        return [(await speaker.recv()).pts for _ in range(SILENCE_PACKETS)]

    assert run(scenario()) == [960 * k for k in range(SILENCE_PACKETS)]


def test_a_sender_that_takes_nothing_costs_bounded_memory() -> None:
    async def scenario() -> int:
        speaker = Speaker()
        for tick in tone(200).reshape(200, 480):
            speaker.push(tick)
        return len(speaker._queue)

    assert run(scenario()) == MAX_QUEUED_PACKETS


class FastCamera(MediaStreamTrack):
    """Thirty pictures a second for ten seconds, each brighter than the one before; then it ends."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.n_read = 0

    async def recv(self) -> av.VideoFrame:
        if self.n_read == 300:
            raise MediaStreamError
        await asyncio.sleep(1 / 30)
        self.n_read += 1
        grey = np.full((48, 64, 3), self.n_read * 255 // 300, np.uint8)
        return av.VideoFrame.from_ndarray(grey, format="rgb24")


def test_every_frame_of_a_camera_is_read_and_two_a_second_are_handed_on() -> None:
    async def scenario() -> list[MediaFrame]:
        seen: list[MediaFrame] = []
        camera = FastCamera()
        await watch_camera(camera, Eye(CameraView(0.5, 32, 10**6), seen.append, lambda _: None))
        assert camera.n_read == 300
        await watch_camera(FastCamera(), None)
        return seen

    seen = run(scenario())
    assert 18 <= len(seen) <= 20
    assert {item.rgb.shape for item in seen} == {(24, 32, 3)}
    levels = [float(item.rgb.mean()) for item in seen]
    assert levels == sorted(levels)
    assert levels[-1] > 225
