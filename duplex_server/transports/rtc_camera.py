"""The camera track of a call: RTP packets in, now and then a small picture out, and a key picture asked for in between.

Keeps time and a thread for the machines of ``media/video_*.py``, which decide everything. Knows nothing about SDP, RTCP
or sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from duplex_server.errors import ClientError, LimitExceeded
from duplex_server.media.rtp import RtpPacket
from duplex_server.media.video_assembly import PictureAssembler
from duplex_server.media.video_decoder import VideoDecoder
from duplex_server.media.video_picker import PicturePicker
from duplex_server.media.video_picture import CodedPicture, CorruptVideo, VideoCodec
from duplex_server.session.transport import MediaFrame
from duplex_server.types import ModelSpec

__all__ = ["CLOCK_HZ", "CameraView", "Eye", "RtcCamera"]

_log = logging.getLogger(__name__)

CLOCK_HZ = 90_000
"""Of the timestamps of VP8 and H.264. Source: RFC 7741 §4.1, RFC 6184 §5.1."""

LEAST_EVERY_S = 0.5
"""Looks at a track are no closer than this, whatever a model could take: each makes the sender send a key picture.
Whoever wants to show more sends stills."""


@dataclass(frozen=True, slots=True)
class CameraView:
    """How the model looks at a camera."""

    every_s: float
    """Time from look to look."""
    max_side_px: int
    """Longer side of what it is shown."""
    max_px: int
    """Most pixels in a picture that is decoded."""

    @classmethod
    def of(cls, spec: ModelSpec, max_px: int) -> CameraView | None:
        """Return how a model looks; None for a blind one.

        Args:
            spec: the model's.
            max_px: as the settings have it.
        """
        if not spec.max_frames:
            return None
        every_s = max(LEAST_EVERY_S, spec.unit_ms / 1000 / spec.max_frames)
        return cls(every_s, spec.frame_max_px, max_px)


@dataclass(frozen=True, slots=True)
class Eye:
    """Who looks at a camera; a :class:`~duplex_server.session.session.Session`, in the end."""

    view: CameraView
    see: Callable[[MediaFrame], None]
    """Given each picture that was looked at, on the event loop."""
    refuse: Callable[[ClientError], None]
    """Told, once in a row, that pictures are too large."""


class RtcCamera:
    """Look at one received video track.

    Args:
        eye: who looks at it.
        request_key_frame: asks the sender with this ssrc for a key picture (PLI, RFC 4585 §6.3.1).
        spawn: starts a task that lives at most as long as the call.

    Attributes:
        n_corrupt: packets and pictures that were not what they claimed to be.
        n_decoded: pictures that were decoded.
        n_seen: pictures that were delivered.
        n_asked: key pictures that were asked for.
    """

    def __init__(
        self,
        eye: Eye,
        *,
        request_key_frame: Callable[[int], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._eye = eye
        self._codecs: dict[int, VideoCodec] = {}
        self._request_key_frame = request_key_frame
        self._spawn = spawn
        view = eye.view
        self._picker = PicturePicker(view.every_s, view.max_px)
        self._decoder = VideoDecoder(max_px=view.max_px, max_side_px=view.max_side_px)
        self._assembler: PictureAssembler | None = None
        self._stream: tuple[int, VideoCodec] | None = None  # what is assembled: ssrc and codec
        self._timer: asyncio.TimerHandle | None = None
        self.n_corrupt = 0
        self.n_decoded = 0
        self.n_seen = 0
        self.n_asked = 0

    def agree(self, codecs: Mapping[int, str]) -> None:
        """Follow a description: take encoding names by payload type.

        Packets of other codecs than :class:`VideoCodec` (``rtx``, retransmission, is one) are dropped.
        """
        named = {payload_type: VideoCodec.named(encoding) for payload_type, encoding in codecs.items()}
        self._codecs = {payload_type: codec for payload_type, codec in named.items() if codec is not None}

    def add(self, packet: RtpPacket, now_s: float) -> None:
        """Take in a packet as it arrives.

        Args:
            packet: of the track, whatever its payload type.
            now_s: of the event loop's clock.
        """
        codec = self._codecs.get(packet.payload_type)
        if codec is None:
            return
        if self._assembler is None or self._stream != (packet.ssrc, codec):
            self._stream = packet.ssrc, codec
            self._assembler = PictureAssembler(codec)
            self._picker.begin_anew()
        n_corrupt = self._assembler.n_corrupt
        for picture in self._assembler.add(packet, now_s):
            if (size_px := self._picker.put(picture)) is not None:
                self._tell_too_large(size_px)
        self.n_corrupt += self._assembler.n_corrupt - n_corrupt
        self._choose(now_s)

    def close(self) -> None:
        """Look no more. What is being decoded is delivered to nobody."""
        self._codecs = {}
        self._assembler = None
        self._set_timer(None)

    def _choose(self, now_s: float) -> None:
        if self._assembler is None or self._stream is None:
            return
        choice = self._picker.choose(now_s, intact=self._assembler.intact)
        if choice.ask:
            self.n_asked += 1
            self._request_key_frame(self._stream[0])
        if choice.pictures:
            self._spawn(self._decode(choice.pictures))
        self._set_timer(self._picker.deadline_s)

    async def _decode(self, pictures: tuple[CodedPicture, ...]) -> None:
        """Decode in a thread, and deliver. Cancelled, it delivers nothing; the thread ends by itself."""
        loop = asyncio.get_running_loop()
        self.n_decoded += len(pictures)
        try:
            rgb = await loop.run_in_executor(None, self._decoder.decode, pictures)
        except CorruptVideo as error:
            _log.debug("pictures of a camera track cannot be decoded: %s", error)
            self.n_corrupt += 1
            self._picker.done(decoded=False)
        else:
            self._picker.done(decoded=True)
            if self._assembler is not None:
                self.n_seen += 1
                self._eye.see(MediaFrame(rgb))
        self._choose(loop.time())

    def _set_timer(self, at_s: float | None) -> None:
        """Be called at a time even if no packet comes."""
        if self._timer is not None:
            if self._timer.when() == at_s:
                return
            self._timer.cancel()
            self._timer = None
        if at_s is not None:
            self._timer = asyncio.get_running_loop().call_at(at_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._choose(asyncio.get_running_loop().time())

    def _tell_too_large(self, size_px: tuple[int, int]) -> None:
        width, height = size_px
        max_px = self._eye.view.max_px
        self._eye.refuse(
            LimitExceeded(
                f"The camera track's pictures have {width} × {height} pixels, and at most {max_px} are decoded. "
                "They are not looked at until they are smaller.",
                limit="image_max_px",
                value=f"{max_px} pixels",
            )
        )
