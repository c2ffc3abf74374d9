"""The words of the camera track: a coded picture, a piece of one, and what they can be wrong in.

Knows nothing about codecs' syntax, packets' order or pixels.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["CodedPicture", "CorruptVideo", "Fragment", "VideoCodec"]


class CorruptVideo(ValueError):
    """Bytes that are not what they claim to be: a payload, a coded picture, or one that no decoder takes."""


class VideoCodec(enum.Enum):
    """What a camera's pictures may be coded in: what every WebRTC endpoint must know (RFC 7742 §5)."""

    VP8 = "VP8"
    H264 = "H264"

    @classmethod
    def named(cls, encoding: str) -> VideoCodec | None:
        """Return the codec with this encoding name, which SDP may write in any case (RFC 4855 §3); None for others."""
        return next((codec for codec in cls if codec.value == encoding.upper()), None)


class Fragment(NamedTuple):
    """What one RTP packet holds of one picture."""

    coded: bytes
    """The codec's own bytes; those of a picture's packets make the picture when they are put together in order."""
    opens_key: bool
    """A picture that needs no other begins here."""
    disposable: bool = False
    """The packet says that no other picture is made from this one."""


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One whole picture, not decoded."""

    codec: VideoCodec
    coded: bytes
    """A VP8 frame, or the NAL units of an H.264 access unit, each behind a start code."""
    is_key: bool
    """It needs no picture before it, and brings its own size."""
    disposable: bool
    """No picture after it needs it."""
    size_px: tuple[int, int] | None
    """Width and height that a decoder makes room for, if the picture says so: key pictures do."""
