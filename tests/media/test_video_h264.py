from __future__ import annotations

import struct

import av
import pytest
from aiortc.codecs.h264 import H264Encoder, H264PayloadDescriptor
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.video_h264 import h264_picture, read_h264_payload
from duplex_server.media.video_picture import CorruptVideo, VideoCodec
from tests.helpers.camera_track import FilmCamera, scene

START = b"\x00\x00\x00\x01"


def parameter_set(*fields: str) -> bytes:
    """A baseline parameter set, whose bits after the level are given."""
    bits = "".join(fields) + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\xc0\x0d" + int(bits, 2).to_bytes(len(bits) // 8, "big")


# Id 0, frame number of 4 bits, order type 2, one reference; 20 by 15 blocks, frames only; nothing cut off, no VUI.
SPS_QVGA = parameter_set("1", "1", "011", "010", "0", "000010100", "0001111", "1", "1", "0", "0")
# The same with order type 1: offsets of 0, −1 and, in a cycle of two, 1 and −2.
SPS_CYCLE = parameter_set(
    *("1", "1", "010", "0", "1", "011", "011", "010", "00101", "010", "0", "000010100", "0001111", "1", "1", "0", "0")
)
SPS, PPS, IDR, SLICE, SPARE_SLICE, AUD = b"\x67\x42", b"\x68\xce", b"\x65\x88", b"\x41\x9a", b"\x01\x9a", b"\x09\xf0"


def stap(*units: bytes) -> bytes:
    return b"\x78" + b"".join(struct.pack("!H", len(unit)) + unit for unit in units)


def test_a_nal_unit_gets_its_start_code() -> None:
    assert read_h264_payload(SLICE).coded == START + SLICE


def test_an_aggregate_becomes_its_nal_units() -> None:
    fragment = read_h264_payload(stap(SPS, PPS, IDR))
    assert fragment.coded == START + SPS + START + PPS + START + IDR


def test_fragments_make_the_nal_unit_that_was_cut() -> None:
    parts = [b"\x7c\x85\x11\x22", b"\x7c\x05\x33", b"\x7c\x45\x44"]
    assert b"".join(read_h264_payload(part).coded for part in parts) == START + b"\x65\x11\x22\x33\x44"


@pytest.mark.parametrize(
    ("payload", "opens"),
    [
        (SPS, True),
        (stap(SPS, PPS), True),
        (stap(AUD, SPS, PPS), True),
        (AUD, False),
        (stap(AUD, SLICE), False),
        (PPS, False),
        (IDR, False),  # its parameter set is in the packet before
        (SLICE, False),
        (b"\x7c\x87\x42\x00", True),
        (b"\x7c\x07\x42\x00", False),
    ],
)
def test_a_key_picture_begins_with_its_parameter_set(payload: bytes, opens: bool) -> None:
    assert read_h264_payload(payload).opens_key is opens


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x7c",
        b"\x7c\x85",
        b"\x78",
        b"\x78\x00",
        b"\x78\x00\x00",
        b"\x78\x00\x05\x65",
        b"\x60\x00",
        b"\x79\x00\x01",
    ],
)
def test_payloads_that_are_not_whole_or_not_agreed_upon_are_refused(payload: bytes) -> None:
    with pytest.raises(CorruptVideo):
        read_h264_payload(payload)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_aiortc_reads_them_or_refused(payload: bytes) -> None:
    try:
        fragment = read_h264_payload(payload)
    except CorruptVideo:
        return
    if len(payload) > 1:  # aiortc takes no NAL unit of one byte, which ends a sequence
        assert H264PayloadDescriptor.parse(payload)[1] == fragment.coded


@given(st.lists(st.binary(min_size=1, max_size=4000).map(lambda body: b"\x65" + body), min_size=1, max_size=6))
def test_what_aiortc_cuts_is_put_together(units: list[bytes]) -> None:
    payloads = H264Encoder._packetize(units)
    assert b"".join(read_h264_payload(payload).coded for payload in payloads) == b"".join(START + u for u in units)


def test_a_parameter_set_makes_a_key_picture_and_tells_its_size() -> None:
    picture = h264_picture(START + SPS_QVGA + START + PPS + START + IDR)
    assert picture.is_key
    assert picture.size_px == (320, 240)
    assert not picture.disposable
    assert h264_picture(START + SPS_CYCLE + START + IDR).size_px == (320, 240)


def test_without_a_parameter_set_nothing_can_begin() -> None:
    picture = h264_picture(START + IDR)
    assert (picture.is_key, picture.size_px) == (False, None)
    assert not h264_picture(START + SPS_QVGA + START + SLICE).is_key


def test_a_picture_is_needed_by_others_unless_all_its_slices_say_no() -> None:
    assert h264_picture(START + SPARE_SLICE).disposable
    assert not h264_picture(START + SPARE_SLICE + START + SLICE).disposable


def test_what_shows_nothing_is_refused() -> None:
    for coded in (START + PPS, START + AUD, b"", b"\x00\x00\x01"):
        with pytest.raises(CorruptVideo):
            h264_picture(coded)


@pytest.mark.parametrize("profile", ["baseline", "main", "high", "high422", "high444"])
@pytest.mark.parametrize("size", [(176, 144), (640, 480), (1920, 1080), (50, 34)])
def test_sizes_are_those_that_x264_writes(profile: str, size: tuple[int, int]) -> None:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = {"high422": "yuv422p", "high444": "yuv444p"}.get(profile, "yuv420p")
    encoder.options = {"profile": profile, "preset": "ultrafast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_ndarray(scene(90, *size), format="rgb24").reformat(format=encoder.pix_fmt)
    coded = b"".join(bytes(packet) for packet in encoder.encode(frame))
    picture = h264_picture(coded)
    assert picture.is_key
    assert picture.size_px == tuple(-(-side // 16) * 16 for side in size)  # in blocks, as decoders make room


def test_interlaced_pictures_are_twice_as_high_as_their_fields() -> None:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "interlaced=1"}
    frame = av.VideoFrame.from_ndarray(scene(90, 64, 64), format="rgb24").reformat(format="yuv420p")
    assert h264_picture(b"".join(bytes(packet) for packet in encoder.encode(frame))).size_px == (64, 64)


@given(st.binary(max_size=60))
def test_a_parameter_set_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    try:
        picture = h264_picture(START + b"\x67" + content + START + IDR)
    except CorruptVideo:
        return
    assert picture.size_px is not None


@given(st.binary(max_size=300))
def test_any_picture_is_described_or_refused(coded: bytes) -> None:
    try:
        picture = h264_picture(coded)
    except CorruptVideo:
        return
    assert picture.codec is VideoCodec.H264


def test_what_is_sent_to_be_read_for_long_is_refused() -> None:
    for coded in (
        (START + SPS_QVGA) * 70_000,
        START + b"\x67\x64\x00\x1f" + b"\xff" * 2_000_000,
        (START + SLICE) * 300_000,
    ):
        with pytest.raises(CorruptVideo):
            h264_picture(coded)


def test_a_real_senders_first_picture_is_a_key_picture_of_its_size() -> None:
    camera = FilmCamera(VideoCodec.H264, width=176, height=144)
    fragments = [read_h264_payload(packet.payload) for packet in camera.shoot()]
    assert fragments[0].opens_key
    picture = h264_picture(b"".join(fragment.coded for fragment in fragments))
    assert (picture.is_key, picture.size_px) == (True, (176, 144))
    second = camera.shoot()
    assert not read_h264_payload(second[0].payload).opens_key
    assert not h264_picture(b"".join(read_h264_payload(packet.payload).coded for packet in second)).is_key
