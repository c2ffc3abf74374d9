"""Camera tracks as packets: what aiortc's sender makes of a film, and made-up pictures that tell which they are."""

from __future__ import annotations

import fractions
import random
from collections.abc import Callable, Iterator

import av
import numpy as np
import numpy.typing as npt
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder

from duplex_server.media.rtp import RtpPacket
from duplex_server.media.video_picture import VideoCodec

__all__ = ["FilmCamera", "PAYLOAD_TYPES", "grey_of", "made_up_vp8", "packets_of", "scene"]

PAYLOAD_TYPES = {VideoCodec.VP8: 97, VideoCodec.H264: 99}
_SSRC = 0xC0FFEE
_CLOCK_HZ = 90_000


def scene(grey: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A picture of one mean brightness with a pattern that codecs must work for."""
    pattern = np.random.default_rng(grey).integers(-12, 13, (height // 8, width // 8, 1))
    pattern = np.repeat(np.repeat(pattern - round(pattern.mean()), 8, 0), 8, 1)
    picture = np.zeros((height, width, 3), np.int64)
    picture[: pattern.shape[0], : pattern.shape[1]] = pattern
    return np.clip(picture + grey, 0, 255).astype(np.uint8)


def grey_of(rgb: npt.NDArray[np.uint8]) -> float:
    """The mean brightness of what was decoded."""
    return float(rgb.mean())


def packets_of(
    payloads: list[bytes], timestamp: int, first: int, payload_type: int = 97, ssrc: int = _SSRC
) -> list[RtpPacket]:
    """The packets of one picture."""
    last = len(payloads) - 1
    return [
        RtpPacket(payload_type, index == last, (first + index) % 65536, timestamp % 2**32, ssrc, payload)
        for index, payload in enumerate(payloads)
    ]


class FilmCamera:
    """A camera behind aiortc's own encoder.

    Args:
        codec: what it encodes in.
        width: of its pictures, pixels.
        height: likewise.
        per_s: pictures per second.
        show: gives the n-th picture, uint8 ``[height, width, 3]``; by default one whose brightness is :meth:`grey`.

    Attributes:
        n_keys: key pictures that were made.
        n_shot: pictures that were taken.
    """

    def __init__(
        self,
        codec: VideoCodec,
        *,
        width: int = 160,
        height: int = 120,
        per_s: float = 30.0,
        show: Callable[[int], npt.NDArray[np.uint8]] | None = None,
    ) -> None:
        self._show = show or (lambda n: scene(self.grey(n), width, height))
        self._encoder = Vp8Encoder() if codec is VideoCodec.VP8 else H264Encoder()
        self._payload_type = PAYLOAD_TYPES[codec]
        self._step = round(_CLOCK_HZ / per_s)
        self._sequence = 65_500  # it wraps soon
        self.n_shot = 0
        self._key_wanted = True
        self.n_keys = 0

    @staticmethod
    def grey(n: int) -> int:
        """The brightness of the n-th picture."""
        return 16 + n % 200

    def ask(self) -> None:
        """Have the next picture be a key picture."""
        self._key_wanted = True

    def shoot(self) -> list[RtpPacket]:
        """Take the next picture, and return its packets."""
        frame = av.VideoFrame.from_ndarray(self._show(self.n_shot), format="rgb24")
        frame.pts, frame.time_base = self.n_shot * self._step, fractions.Fraction(1, _CLOCK_HZ)
        payloads, timestamp = self._encoder.encode(frame, self._key_wanted)
        self.n_keys += self._key_wanted
        self._key_wanted = False
        packets = packets_of(payloads, timestamp + 2**32 - 90_000, self._sequence, self._payload_type)
        self._sequence = (self._sequence + len(packets)) % 65536
        self.n_shot += 1
        return packets


def made_up_vp8(
    chance: random.Random, n_pictures: int, *, key_every: int, first: int = 0, most_packets: int = 4
) -> Iterator[tuple[bytes, list[RtpPacket]]]:
    """Pictures that no decoder would take, but whose headers are right: each with its packets.

    Yields:
        The picture's bytes, which begin as VP8 does and hold its number, and its packets.
    """
    sequence = first
    for number in range(n_pictures):
        body = number.to_bytes(4, "big") + chance.randbytes(chance.randint(10, 400))
        key = number % key_every == 0
        coded = (b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" if key else b"\x11\x02\x00") + body
        cuts = sorted(chance.sample(range(1, len(coded)), chance.randint(0, most_packets - 1)))
        parts = [coded[start:end] for start, end in zip([0, *cuts], [*cuts, len(coded)], strict=True)]
        payloads = [bytes([0x10 if index == 0 else 0x00]) + part for index, part in enumerate(parts)]
        packets = packets_of(payloads, 1000 + number * 3000, sequence)
        sequence = (sequence + len(packets)) % 65536
        yield coded, packets
