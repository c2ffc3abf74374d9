from __future__ import annotations

import random

import av
import numpy as np
import pytest

from duplex_server.media.video_assembly import PictureAssembler
from duplex_server.media.video_decoder import VideoDecoder
from duplex_server.media.video_picture import CodedPicture, CorruptVideo, VideoCodec
from tests.helpers.camera_track import FilmCamera, grey_of, scene

MAX_PX = 640 * 480


def shot(camera: FilmCamera, codec: VideoCodec, n: int) -> list[CodedPicture]:
    """The camera's next ``n`` pictures, the first of them a key picture."""
    camera.ask()
    machine = PictureAssembler(codec)
    return [picture for _ in range(n) for packet in camera.shoot() for picture in machine.add(packet, 0.0)]


@pytest.mark.parametrize("codec", VideoCodec)
def test_of_many_pictures_the_last_is_returned(codec: VideoCodec) -> None:
    pictures = shot(FilmCamera(codec), codec, 40)
    decoder = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    rgb = decoder.decode(pictures)
    assert rgb.shape == (120, 160, 3)
    assert rgb.dtype == np.uint8
    assert grey_of(rgb) == pytest.approx(FilmCamera.grey(39), abs=4)


@pytest.mark.parametrize("codec", VideoCodec)
def test_in_bulk_and_one_by_one_is_the_same(codec: VideoCodec) -> None:
    pictures = shot(FilmCamera(codec), codec, 10)
    bulk = VideoDecoder(max_px=MAX_PX, max_side_px=448).decode(pictures)
    single = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    for picture in pictures:
        rgb = single.decode([picture])
    assert np.array_equal(rgb, bulk)


@pytest.mark.parametrize("codec", VideoCodec)
def test_what_is_decoded_is_what_aiortc_decodes(codec: VideoCodec) -> None:
    pictures = shot(FilmCamera(codec), codec, 6)
    reference = av.CodecContext.create("libvpx" if codec is VideoCodec.VP8 else "h264", "r")
    frames = [frame for picture in pictures for frame in reference.decode(av.Packet(picture.coded))]
    rgb = VideoDecoder(max_px=MAX_PX, max_side_px=448).decode(pictures)
    assert np.array_equal(rgb, frames[-1].to_ndarray(format="rgb24"))


@pytest.mark.parametrize("codec", VideoCodec)
def test_a_picture_is_scaled_to_what_is_looked_at(codec: VideoCodec) -> None:
    pictures = shot(FilmCamera(codec, width=640, height=480), codec, 1)
    rgb = VideoDecoder(max_px=MAX_PX, max_side_px=448).decode(pictures)
    assert rgb.shape == (336, 448, 3)
    assert grey_of(rgb) == pytest.approx(FilmCamera.grey(0), abs=4)


@pytest.mark.parametrize("codec", VideoCodec)
def test_a_key_picture_alone_is_seen_whatever_was_left_out_before(codec: VideoCodec) -> None:
    camera = FilmCamera(codec)
    decoder = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    for n in range(3):
        rgb = decoder.decode(shot(camera, codec, 10)[:1])
        assert grey_of(rgb) == pytest.approx(FilmCamera.grey(10 * n), abs=4)


def test_one_decoder_follows_a_sender_that_changes_size_and_codec() -> None:
    decoder = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    for codec, width, height in (
        (VideoCodec.VP8, 160, 120),
        (VideoCodec.VP8, 320, 240),
        (VideoCodec.H264, 160, 128),
        (VideoCodec.H264, 96, 64),
        (VideoCodec.VP8, 64, 64),
    ):
        assert decoder.decode(shot(FilmCamera(codec, width=width, height=height), codec, 2)).shape == (height, width, 3)


@pytest.mark.parametrize("profile", ["main", "high"])
def test_a_picture_is_there_when_it_was_decoded_and_not_one_later(profile: str) -> None:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.options = {"profile": profile, "preset": "fast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_ndarray(scene(90, 64, 64), format="rgb24").reformat(format="yuv420p")
    coded = b"".join(bytes(packet) for packet in encoder.encode(frame))
    one = CodedPicture(VideoCodec.H264, coded, is_key=True, disposable=False, size_px=(64, 64))
    assert grey_of(VideoDecoder(max_px=MAX_PX, max_side_px=448).decode([one])) == pytest.approx(90, abs=4)


@pytest.mark.parametrize("codec", VideoCodec)
def test_no_room_is_made_for_more_pixels_than_are_allowed(codec: VideoCodec) -> None:
    pictures = shot(FilmCamera(codec, width=160, height=128), codec, 1)
    with pytest.raises(CorruptVideo):
        VideoDecoder(max_px=160 * 128 - 1, max_side_px=448).decode(pictures)


@pytest.mark.parametrize("codec", VideoCodec)
def test_a_corrupt_picture_costs_what_builds_upon_it_and_nothing_more(codec: VideoCodec) -> None:
    camera = FilmCamera(codec)
    pictures = shot(camera, codec, 2)
    noise = CodedPicture(codec, b"\x10\x02" + random.Random(1).randbytes(900), False, False, None)
    decoder = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    with pytest.raises(CorruptVideo):
        decoder.decode([pictures[0], noise])
    with pytest.raises(CorruptVideo):
        decoder.decode([pictures[1]])  # nobody has seen what it builds upon
    assert decoder.decode(shot(camera, codec, 2)).shape == (120, 160, 3)


@pytest.mark.parametrize("codec", VideoCodec)
def test_damaged_pictures_are_decoded_or_refused(codec: VideoCodec) -> None:
    chance = random.Random(7)
    decoder = VideoDecoder(max_px=MAX_PX, max_side_px=448)
    pictures = shot(FilmCamera(codec), codec, 3)
    for _ in range(60):
        damaged = []
        for picture in pictures:
            coded = bytearray(picture.coded)
            for _ in range(chance.randint(0, 4)):
                coded[chance.randrange(len(coded))] = chance.randrange(256)
            if chance.random() < 0.2:
                del coded[chance.randrange(len(coded)) :]
            damaged.append(CodedPicture(codec, bytes(coded), picture.is_key, False, picture.size_px))
        try:
            rgb = decoder.decode(damaged)
        except CorruptVideo:
            continue
        assert rgb.shape[0] * rgb.shape[1] <= MAX_PX
    assert decoder.decode(pictures).shape == (120, 160, 3)


def test_nothing_to_decode_is_nothing_to_see() -> None:
    with pytest.raises(CorruptVideo):
        VideoDecoder(max_px=MAX_PX, max_side_px=448).decode([])
