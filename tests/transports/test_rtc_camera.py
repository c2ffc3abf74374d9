from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.errors import ClientError, LimitExceeded
from duplex_server.media.rtp import RtpPacket
from duplex_server.media.video_picture import VideoCodec
from duplex_server.session.transport import MediaFrame
from duplex_server.transports.rtc_camera import LEAST_EVERY_S, CameraView, Eye, RtcCamera
from duplex_server.types import ModelSpec
from tests.helpers.camera_track import FilmCamera, grey_of
from tests.helpers.virtual_time import run

VIEW = CameraView(every_s=1.0, max_side_px=128, max_px=400_000)
CODECS = {97: "vp8", 98: "rtx", 99: "H264", 100: "rtx", 101: "VP9"}


class Stage:
    """A camera track without a network: what was seen, asked for and refused."""

    def __init__(self, tasks: asyncio.TaskGroup, view: CameraView = VIEW) -> None:
        self.seen: list[tuple[float, float]] = []  # time and brightness
        self.shapes: set[tuple[int, ...]] = set()
        self.refused: list[ClientError] = []
        self.asked: list[int] = []
        self.on_ask: Callable[[], None] = lambda: None
        self._tasks = tasks
        self.track = RtcCamera(
            Eye(view, self._see, self.refused.append), request_key_frame=self._ask, spawn=self._spawn
        )
        self.track.agree(CODECS)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> object:
        return self._tasks.create_task(job)

    def _see(self, frame: MediaFrame) -> None:
        self.seen.append((asyncio.get_running_loop().time(), grey_of(frame.rgb)))
        self.shapes.add(frame.rgb.shape)

    def _ask(self, ssrc: int) -> None:
        self.asked.append(ssrc)
        self.on_ask()

    async def film(
        self,
        camera: FilmCamera,
        n_pictures: int,
        *,
        per_s: float,
        spoil: Callable[[RtpPacket], list[RtpPacket]] = lambda packet: [packet],
    ) -> list[tuple[float, float]]:
        """Let the camera send; returns when each picture was taken, and its brightness."""
        loop = asyncio.get_running_loop()
        taken = []
        for _ in range(n_pictures):
            taken.append((loop.time(), float(FilmCamera.grey(camera.n_shot))))
            for packet in camera.shoot():
                for arriving in spoil(packet):
                    self.track.add(arriving, loop.time())
            await asyncio.sleep(1 / per_s)
        return taken


def on_stage(scenario: Callable[[Stage], Coroutine[Any, Any, None]], view: CameraView = VIEW) -> Stage:
    async def main() -> Stage:
        async with asyncio.TaskGroup() as tasks:
            stage = Stage(tasks, view)
            await scenario(stage)
            stage.track.close()
        return stage

    return run(main())


@pytest.mark.parametrize(
    ("codec", "per_s", "width", "height"),
    [
        (VideoCodec.VP8, 30, 640, 480),
        (VideoCodec.VP8, 15, 160, 120),
        (VideoCodec.H264, 30, 160, 120),
        (VideoCodec.H264, 15, 640, 480),
    ],
)
def test_of_a_real_senders_film_one_key_picture_a_second_is_decoded(
    codec: VideoCodec, per_s: int, width: int, height: int
) -> None:
    taken: list[tuple[float, float]] = []

    async def scenario(stage: Stage) -> None:
        camera = FilmCamera(codec, width=width, height=height, per_s=per_s)
        stage.on_ask = camera.ask
        taken.extend(await stage.film(camera, round(2.5 * per_s), per_s=per_s))
        assert camera.n_keys == len(stage.asked) + 1

    stage = on_stage(scenario)
    assert stage.track.n_decoded == stage.track.n_seen == len(stage.seen) == 3
    assert stage.shapes == {(96, 128, 3)}
    assert stage.track.n_corrupt == 0
    for at_s, grey in stage.seen:
        newest = max((shot for shot in taken if shot[0] <= at_s), key=lambda shot: shot[0])
        assert grey == pytest.approx(newest[1], abs=4), "it is the newest picture"


@pytest.mark.parametrize("codec", VideoCodec)
def test_of_a_slow_film_all_is_decoded_and_nothing_asked_for(codec: VideoCodec) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.film(FilmCamera(codec, per_s=2), 20, per_s=2)

    stage = on_stage(scenario)
    assert not stage.asked
    assert stage.track.n_decoded >= 18
    assert len(stage.seen) == 10


@pytest.mark.parametrize("codec", VideoCodec)
def test_a_sender_that_gives_no_key_pictures_is_seen_all_the_same(codec: VideoCodec) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.film(FilmCamera(codec, per_s=15), 150, per_s=15)

    stage = on_stage(scenario)
    assert 7 <= len(stage.seen) <= 11
    assert stage.track.n_decoded > 120
    assert [grey for _, grey in stage.seen] == sorted(grey for _, grey in stage.seen)


def test_the_last_picture_before_a_camera_stops_is_seen() -> None:
    async def scenario(stage: Stage) -> None:
        camera = FilmCamera(VideoCodec.VP8)
        await stage.film(camera, 20, per_s=30)
        await asyncio.sleep(10)

    stage = on_stage(scenario)
    assert len(stage.seen) == 2
    assert stage.seen[-1][1] == pytest.approx(FilmCamera.grey(19), abs=4)


@pytest.mark.parametrize("codec", VideoCodec)
@pytest.mark.parametrize("loss", [0.02, 0.1, 0.3])
def test_with_losses_it_is_still_looked_at(codec: VideoCodec, loss: float) -> None:
    chance = random.Random(5)

    async def scenario(stage: Stage) -> None:
        camera = FilmCamera(codec, per_s=15)
        stage.on_ask = camera.ask
        await stage.film(camera, 150, per_s=15, spoil=lambda packet: [packet] * (chance.random() >= loss))

    stage = on_stage(scenario)
    assert len(stage.seen) >= 6
    assert stage.track.n_corrupt == 0, "what a loss has spoilt is not tried"
    assert len(stage.asked) <= 14


@functools.cache
def short_film(codec: VideoCodec) -> list[list[RtpPacket]]:
    """Four seconds with a key picture in each."""
    camera = FilmCamera(codec, width=64, height=64, per_s=15)
    film = []
    for n in range(60):
        if n % 15 == 0:
            camera.ask()
        film.append(camera.shoot())
    return film


@settings(max_examples=20)  # each is four seconds of a camera
@given(seed=st.integers(0, 2**32 - 1), codec=st.sampled_from(VideoCodec))
def test_garbage_among_the_packets_breaks_nothing(seed: int, codec: VideoCodec) -> None:
    chance = random.Random(seed)

    def spoil(packet: RtpPacket) -> list[RtpPacket]:
        kind = chance.choice(["whole"] * 4 + ["noise", "bit", "short", "elsewhere", "stranger", "twice", "empty"])
        payload = bytearray(packet.payload)
        if kind == "bit":
            payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
        changed = {
            "noise": packet._replace(payload=chance.randbytes(chance.randint(0, 60))),
            "bit": packet._replace(payload=bytes(payload)),
            "short": packet._replace(payload=packet.payload[: chance.randint(0, 12)]),
            "elsewhere": packet._replace(sequence_number=chance.randrange(65536), timestamp=chance.randrange(2**32)),
            "stranger": packet._replace(ssrc=chance.randrange(3), payload_type=chance.choice([0, 97, 98, 99, 127])),
            "empty": packet._replace(payload=b""),
        }
        return [packet] * (1 + (kind == "twice")) if kind not in changed else [packet, changed[kind]]

    async def scenario(stage: Stage) -> None:
        loop, before = asyncio.get_running_loop(), 0
        for n, packets in enumerate(short_film(codec)):
            if n == 20:
                before = len(stage.seen)
            for packet in packets:
                for arriving in spoil(packet) if n < 20 else [packet]:
                    stage.track.add(arriving, loop.time())
            await asyncio.sleep(1 / 15)
        assert len(stage.seen) > before, "it is seen again when the garbage ends"

    on_stage(scenario)


def test_pictures_of_other_streams_do_not_come_closer_than_looks() -> None:
    async def scenario(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        for ssrc in range(40):
            for packet in FilmCamera(VideoCodec.VP8, width=64, height=64).shoot():
                stage.track.add(packet._replace(ssrc=ssrc), loop.time())
            await asyncio.sleep(0.1)

    assert on_stage(scenario).track.n_decoded <= 5


def test_too_large_pictures_are_refused_once_and_clearly() -> None:
    async def scenario(stage: Stage) -> None:
        large = FilmCamera(VideoCodec.VP8, width=640, height=640, per_s=5)
        for _ in range(3):
            large.ask()
            await stage.film(large, 5, per_s=5)
        assert not stage.seen
        assert not stage.asked, "the next picture would be as large"
        small = FilmCamera(VideoCodec.VP8)
        await stage.film(small, 15, per_s=15, spoil=lambda packet: [packet._replace(ssrc=7)])

    stage = on_stage(scenario)
    (error,) = stage.refused
    assert isinstance(error, LimitExceeded)
    assert error.limit == "image_max_px"
    assert "640 × 640" in str(error)
    assert "400000" in str(error)
    assert stage.seen


def test_retransmissions_and_codecs_that_were_not_agreed_upon_are_dropped() -> None:
    async def scenario(stage: Stage) -> None:
        for packet in FilmCamera(VideoCodec.VP8).shoot():
            for payload_type in (98, 100, 101, 111):
                stage.track.add(packet._replace(payload_type=payload_type), asyncio.get_running_loop().time())
        assert stage.track._timer is None

    stage = on_stage(scenario)
    assert not stage.seen
    assert not stage.asked


def test_a_sender_that_changes_its_codec_is_followed() -> None:
    async def scenario(stage: Stage) -> None:
        for codec in (VideoCodec.VP8, VideoCodec.H264, VideoCodec.VP8):
            before = len(stage.seen)
            await stage.film(FilmCamera(codec, per_s=5), 10, per_s=5)
            assert len(stage.seen) > before

    assert not on_stage(scenario).track.n_corrupt


def test_a_closed_track_delivers_nothing_and_leaves_no_timer() -> None:
    async def scenario(stage: Stage) -> None:
        camera = FilmCamera(VideoCodec.VP8)
        for packet in camera.shoot():
            stage.track.add(packet, asyncio.get_running_loop().time())
        stage.track.close()  # while it is being decoded
        await stage.film(camera, 10, per_s=5)
        assert stage.track._timer is None

    assert not on_stage(scenario).seen


def test_a_view_is_the_models() -> None:
    spec = ModelSpec(name="a", unit_ms=1000, max_frames=1, frame_max_px=448)
    assert CameraView.of(spec, 10**6) == CameraView(1.0, 448, 10**6)
    eager = ModelSpec(name="b", unit_ms=40, max_frames=1)
    view = CameraView.of(eager, 10**6)
    assert view is not None
    assert view.every_s == LEAST_EVERY_S
    assert CameraView.of(ModelSpec(name="c", unit_ms=40, max_frames=0), 10**6) is None, "it is blind"
