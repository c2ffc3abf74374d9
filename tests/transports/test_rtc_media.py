from __future__ import annotations

import asyncio

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from duplex_server.session.transport import MediaAudio, MediaFrame
from duplex_server.transports.rtc_media import MediaPath
from tests.helpers.virtual_time import run


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
    async def scenario() -> list[MediaFrame | MediaAudio]:
        seen: list[MediaFrame | MediaAudio] = []
        camera = FastCamera()
        async with asyncio.TaskGroup() as tasks:
            path = MediaPath(seen.append, tasks.create_task)
            tasks.create_task(path._watch(camera))
        assert camera.n_read == 300
        return seen

    seen = run(scenario())
    assert 18 <= len(seen) <= 20
    levels = [float(item.rgb.mean()) for item in seen if isinstance(item, MediaFrame)]
    assert levels == sorted(levels)
    assert levels[-1] > 225


def test_speech_before_there_is_a_track_goes_nowhere() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            path = MediaPath(lambda _: None, tasks.create_task)
            path.send(np.zeros(480, np.float32))
            path.clear()
            path.close()
            assert path.n_lost == 0

    run(scenario())
