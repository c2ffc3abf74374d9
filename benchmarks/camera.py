"""What a camera track costs its receiver: CPU per second of the track, ours against decoding every picture.

A panning, slightly noisy picture of 640 × 480 is encoded by aiortc's own VP8 and H.264 encoders and received in the
same process, with the time passed in: ours as a call does it, once a second, from a sender that gives key pictures when
it is asked for them and from one that does not; beside it such packets through aiortc's depacketizer, jitter buffer and
decoder, with one picture a second turned into an array. Encoding, encryption and sockets are not counted. Run:

    python -m benchmarks.camera
    python -m benchmarks.camera --seconds 5 --size 1280x720

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from aiortc.codecs import depayload, get_decoder
from aiortc.codecs.h264 import H264Decoder
from aiortc.codecs.vpx import Vp8Decoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket as AiortcPacket

from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from duplex_server.media.image import fitted_size
from duplex_server.media.rtp import RtpPacket, parse_rtp, write_rtp
from duplex_server.media.video_assembly import PictureAssembler
from duplex_server.media.video_decoder import VideoDecoder
from duplex_server.media.video_picker import PicturePicker
from duplex_server.media.video_picture import VideoCodec
from tests.helpers.camera_track import FilmCamera

TARGETS = (Target("VP8_30_per_s_share", "max", "<=", 0.25), Target("H264_30_per_s_share", "max", "<=", 0.35))
PER_S = (30, 15, 5, 2)
MAX_SIDE_PX = 448
ROUND_TRIP_S = 0.05
_PAN_PX_PER_S = 60


@dataclass(slots=True)
class Cost:
    """What one second of the track came to."""

    cpu_ms: float
    decoded: float
    seen: float


class Film:
    """A texture that the camera pans over, with a sensor's noise."""

    def __init__(self, width: int, height: int, per_s: int) -> None:
        chance = np.random.default_rng(1)
        self._size = width, height
        self._step_px = _PAN_PX_PER_S / per_s
        coarse = chance.integers(30, 226, (height // 16 + 1, width // 4, 3), np.uint8)
        wide = av.VideoFrame.from_ndarray(coarse, format="rgb24").reformat(width=4 * width, height=height)
        self._texture = np.asarray(wide.to_ndarray(), np.int16)
        self._noise = chance.integers(-3, 4, (8, height, width, 1), np.int16)

    def __call__(self, n: int) -> npt.NDArray[np.uint8]:
        """Return the n-th picture."""
        width, _ = self._size
        turn = n * self._step_px % (6 * width)
        left = int(min(turn, 6 * width - turn))
        picture = self._texture[:, left : left + width] + self._noise[n % len(self._noise)]
        return np.asarray(np.clip(picture, 0, 255), np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=10, metavar="S", help="length of each film")
    parser.add_argument("--size", default="640x480", metavar="WxH")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    width, height = map(int, asked.size.split("x"))
    figures, rows = Figures(), []
    progress = Progress(len(VideoCodec) * len(PER_S))
    for codec in VideoCodec:
        for per_s in PER_S:
            film = Film(width, height, per_s)

            def camera(codec: VideoCodec = codec, per_s: int = per_s, film: Film = film) -> FilmCamera:
                return FilmCamera(codec, width=width, height=height, per_s=per_s, show=film)

            all_of_it = decode_all(camera(), codec, per_s, asked.seconds)
            answered = ours(camera(), codec, per_s, asked.seconds, answers=True)
            ignored = ours(camera(), codec, per_s, asked.seconds, answers=False)
            name = f"{codec.value}_{per_s}_per_s"
            figures.add(f"{name}_cpu_ms", answered.cpu_ms, "ours, key pictures given")
            figures.add(f"{name}_ignored_cpu_ms", ignored.cpu_ms, "ours, requests ignored")
            figures.add(f"{name}_decode_all_cpu_ms", all_of_it.cpu_ms, "aiortc's way")
            figures.add(f"{name}_share", answered.cpu_ms / all_of_it.cpu_ms, "ours of aiortc's")
            costs = (answered, ignored, all_of_it)
            rows.append((f"{codec.value}, {per_s}/s", *(f"{c.cpu_ms:.1f} ({c.decoded:.1f})" for c in costs)))
            progress.step(name)
    print(f"\n{width} × {height}: CPU ms per second of the track (pictures decoded per second)\n")
    print_table(("", "ours", "ours, requests ignored", "aiortc: every picture"), rows)
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    save(asked.out / "camera.json", {"size": asked.size, "figures": figures.to_json()}, checks)
    return 0 if met else 1


def datagrams(packets: list[RtpPacket]) -> list[bytes]:
    """What is left of the packets' journey when they have been decrypted."""
    return [write_rtp(packet) for packet in packets]


def ours(camera: FilmCamera, codec: VideoCodec, per_s: int, seconds: int, *, answers: bool) -> Cost:
    """Receive as :class:`~duplex_server.transports.rtc_camera.RtcCamera` does, without its threads."""
    assembler, picker = PictureAssembler(codec), PicturePicker(1.0, 25_000_000)
    decoder = VideoDecoder(max_px=25_000_000, max_side_px=MAX_SIDE_PX)
    cpu_s, n_decoded, n_seen, asked_s = 0.0, 0, 0, float("inf")
    for n in range(seconds * per_s):
        now_s = n / per_s
        if answers and now_s >= asked_s + ROUND_TRIP_S:
            camera.ask()
            asked_s = float("inf")
        arriving = datagrams(camera.shoot())
        began_s = time.thread_time()
        for datagram in arriving:
            for picture in assembler.add(parse_rtp(datagram), now_s):
                picker.put(picture)
            choice = picker.choose(now_s, intact=assembler.intact)
            if choice.ask:
                asked_s = now_s
            if choice.pictures:
                decoder.decode(choice.pictures)
                picker.done(decoded=True)
                n_decoded += len(choice.pictures)
                n_seen += 1
        cpu_s += time.thread_time() - began_s
    return Cost(1000 * cpu_s / seconds, n_decoded / seconds, n_seen / seconds)


def decode_all(camera: FilmCamera, codec: VideoCodec, per_s: int, seconds: int) -> Cost:
    """Receive as aiortc's receiver does, and look once a second."""
    parameters = RTCRtpCodecParameters(mimeType=f"video/{codec.value}", clockRate=90_000)
    decoder, buffer = get_decoder(parameters), JitterBuffer(capacity=512, is_video=True)
    assert isinstance(decoder, H264Decoder | Vp8Decoder)
    decoder.codec.thread_count = 1  # with several, which aiortc lets FFmpeg choose, the same costs a little more
    cpu_s, n_decoded, n_seen = 0.0, 0, 0
    for _ in range(seconds * per_s):
        arriving = datagrams(camera.shoot())
        began_s = time.thread_time()
        for datagram in arriving:
            packet = AiortcPacket.parse(datagram)
            packet._data = depayload(parameters, packet.payload)  # type: ignore[attr-defined]
            _, coded = buffer.add(packet)
            for frame in decoder.decode(coded) if coded is not None else ():
                n_decoded += 1
                if n_decoded % per_s == 1:
                    assert isinstance(frame, av.VideoFrame)
                    width, height = fitted_size(frame.width, frame.height, MAX_SIDE_PX)
                    frame.reformat(width=width, height=height, format="rgb24", threads=1).to_ndarray()
                    n_seen += 1
        cpu_s += time.thread_time() - began_s
    return Cost(1000 * cpu_s / seconds, n_decoded / seconds, n_seen / seconds)


if __name__ == "__main__":
    sys.exit(main())
