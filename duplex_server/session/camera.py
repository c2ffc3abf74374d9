"""The newest picture: what the camera sent last is decoded off the event loop and handed on; the rest is dropped.

Knows nothing about units or events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from duplex_server.errors import ClientError, LimitExceeded, MediaError
from duplex_server.media.image import decode_image, fit_image
from duplex_server.session.transport import MediaFrame
from duplex_server.types import VideoFrame
from duplex_server.wire.requests import AppendImage

__all__ = ["Camera", "PictureLimits"]


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a picture may be."""

    max_bytes: int = 8 * 2**20
    """Encoded."""
    max_px: int = 25_000_000
    """Width times height, as sent."""
    max_side_px: int = 448
    """The longer side of what the model sees; larger pictures are scaled down to it."""


@dataclass(slots=True)
class _Taken:
    picture: AppendImage | MediaFrame
    captured_s: float
    then: list[Callable[[], None]] = field(default_factory=list)


class Camera:
    """Keep one session's newest picture until it has been decoded."""

    def __init__(
        self, limits: PictureLimits, see: Callable[[VideoFrame], None], refuse: Callable[[ClientError], None]
    ) -> None:
        """
        Args:
            limits: what is decoded.
            see: takes each decoded picture.
            refuse: takes what was wrong with one that was not.
        """
        self._limits = limits
        self._see = see
        self._refuse = refuse
        self._newest: asyncio.Queue[_Taken] = asyncio.Queue(1)  # when full the older picture goes
        self._last: _Taken | None = None  # the newest, until it has been seen
        self.n_replaced = 0
        """Pictures that a newer one replaced before they were decoded."""

    def put(self, picture: AppendImage | MediaFrame, captured_s: float) -> None:
        """Take a picture in place of the one that still waits."""
        if isinstance(picture, AppendImage) and len(picture.data) > self._limits.max_bytes:
            self._refuse(self._too_large(picture))
            return
        self._last = _Taken(picture, captured_s)
        if self._newest.full():
            self._last.then += self._newest.get_nowait().then
            self.n_replaced += 1
        self._newest.put_nowait(self._last)

    def after(self, do: Callable[[], None]) -> None:
        """Do something once the pictures that came before have been seen: now, unless one is still being decoded."""
        if self._last is None:
            do()
        else:
            self._last.then.append(do)

    @property
    def awaited(self) -> bool:
        """Whether something waits for a picture."""
        return self._last is not None and bool(self._last.then)

    async def look(self) -> None:
        """Decode pictures as they come, until cancelled; a picture being decoded is then lost."""
        loop = asyncio.get_running_loop()
        while True:
            taken = await self._newest.get()
            try:
                rgb = await loop.run_in_executor(None, self._decode, taken.picture)
            except MediaError as error:
                event_id = taken.picture.event_id if isinstance(taken.picture, AppendImage) else None
                self._refuse(MediaError(error.message, param="image", event_id=event_id))
            else:
                self._see(VideoFrame(taken.captured_s, rgb))
            if self._last is taken:
                self._last = None
            for do in taken.then:
                do()

    def _decode(self, picture: AppendImage | MediaFrame) -> npt.NDArray[np.uint8]:
        limits = self._limits
        if isinstance(picture, MediaFrame):
            return fit_image(picture.rgb, limits.max_side_px)
        return decode_image(picture.data, max_px=limits.max_px, max_side_px=limits.max_side_px)

    def _too_large(self, picture: AppendImage) -> LimitExceeded:
        allowed = self._limits.max_bytes
        error = LimitExceeded(
            f"The picture has {len(picture.data)} bytes; at most {allowed} are taken. Send a smaller one.",
            limit="image_max_bytes",
            value=f"{allowed} bytes",
            param="image",
        )
        error.event_id = picture.event_id
        return error
