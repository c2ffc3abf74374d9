"""Coded pictures to one small RGB array: FFmpeg's decoders, by PyAV.

FFmpeg's own VP8 decoder is a tenth faster than libvpx. Knows nothing about packets, time or who looks. What is called
here takes milliseconds of one core: call it off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from duplex_server.media.image import fitted_size
from duplex_server.media.video_picture import CodedPicture, CorruptVideo, VideoCodec

__all__ = ["VideoDecoder"]

_DECODERS = {VideoCodec.VP8: "vp8", VideoCodec.H264: "h264"}


class VideoDecoder:
    """Decode one camera's pictures. One caller at a time, in the stream's order, from whichever thread.

    Args:
        max_px: FFmpeg makes room for no larger picture, whatever the stream says later.
        max_side_px: longer side of what is returned; smaller pictures stay as they are.
    """

    def __init__(self, *, max_px: int, max_side_px: int) -> None:
        self._max_px = max_px
        self._max_side_px = max_side_px
        self._codec: VideoCodec | None = None
        self._context: av.VideoCodecContext | None = None
        self._reformatter = VideoReformatter()  # keeps its tables from one picture to the next

    def decode(self, pictures: Sequence[CodedPicture]) -> npt.NDArray[np.uint8]:
        """Decode pictures that follow those decoded before, and return the last one that can be seen.

        Returns:
            uint8 ``[height, width, 3]``.

        Raises:
            CorruptVideo: one of them is no picture, or none can be seen. A key picture must come next.
        """
        newest: av.VideoFrame | None = None
        try:
            for picture in pictures:
                frames = self._context_for(picture.codec).decode(av.Packet(picture.coded))
                if frames:
                    newest = frames[-1]
                if newest is not None and newest.is_corrupt:
                    raise CorruptVideo("a picture with damaged parts")
            if newest is None:
                raise CorruptVideo("nothing that can be seen")
            width, height = fitted_size(newest.width, newest.height, self._max_side_px)
            small = self._reformatter.reformat(newest, width, height, "rgb24", threads=1)
            return np.asarray(small.to_ndarray(), np.uint8)
        except (av.FFmpegError, ValueError) as error:
            self._context = None  # it may be in any state
            raise CorruptVideo(str(error)) from error

    def _context_for(self, codec: VideoCodec) -> av.VideoCodecContext:
        if self._context is None or codec is not self._codec:
            context = av.CodecContext.create(_DECODERS[codec], "r")
            assert isinstance(context, av.VideoCodecContext), "VP8 and H.264 are video"
            # One thread: many cameras share the cores, and more would cost a third more CPU, and hold pictures back.
            context.thread_count = 1
            context.flags |= av.codec.context.Flags.low_delay
            context.options = {"max_pixels": str(self._max_px)}
            self._codec, self._context = codec, context
        return self._context
