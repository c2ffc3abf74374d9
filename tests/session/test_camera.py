"""The newest picture is seen, and what was said about a picture comes after it."""

from __future__ import annotations

import asyncio
import io

from PIL import Image

from duplex_server.errors import ClientError
from duplex_server.session.camera import Camera, PictureLimits
from duplex_server.types import VideoFrame
from duplex_server.wire.requests import AppendImage
from tests.helpers.virtual_time import run


def picture(size: int) -> AppendImage:
    encoded = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 30)).save(encoded, "PNG")
    return AppendImage(encoded.getvalue(), None, None)


class Story:
    """A camera, and in which order things happened."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.camera = Camera(PictureLimits(), self._see, self._refuse)

    def _see(self, frame: VideoFrame) -> None:
        self.told.append(f"saw {len(frame.rgb)}")

    def _refuse(self, error: ClientError) -> None:
        self.told.append("refused")

    def ask(self, word: str) -> None:
        self.camera.after(lambda: self.told.append(word))


def test_a_question_about_a_picture_comes_after_it() -> None:
    async def main() -> None:
        story = Story()
        story.ask("before")
        assert story.told == ["before"], "nobody waits for a picture that is not there"
        looking = asyncio.ensure_future(story.camera.look())
        story.camera.put(picture(8), 0.0)
        story.ask("of 8")
        waiting = [story.camera.awaited]
        await asyncio.sleep(0)  # it is being decoded
        story.camera.put(picture(16), 0.1)
        story.ask("of 16")
        await asyncio.sleep(1)
        waiting.append(story.camera.awaited)
        story.ask("after")
        assert waiting == [True, False]
        assert story.told == ["before", "saw 8", "of 8", "saw 16", "of 16", "after"]
        looking.cancel()

    run(main())


def test_a_question_outlives_the_picture_that_was_replaced_or_is_none() -> None:
    async def main() -> None:
        story = Story()
        story.camera.put(picture(8), 0.0)
        story.ask("of 8")
        story.camera.put(picture(16), 0.1)
        looking = asyncio.ensure_future(story.camera.look())
        await asyncio.sleep(1)
        story.camera.put(AppendImage(b"no picture", None, None), 0.2)
        story.ask("of none")
        await asyncio.sleep(1)
        assert story.told == ["saw 16", "of 8", "refused", "of none"]
        assert story.camera.n_replaced == 1
        looking.cancel()

    run(main())
