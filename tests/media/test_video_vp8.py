from __future__ import annotations

import pytest
from aiortc.codecs.vpx import VpxPayloadDescriptor
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.video_picture import CorruptVideo, VideoCodec
from duplex_server.media.video_vp8 import read_vp8_payload, vp8_picture
from tests.helpers.camera_track import FilmCamera

KEY = bytes.fromhex("10020 09d012a 4001 f000 00".replace(" ", ""))  # 320 x 240: RFC 6386 section 9.1
INTER = bytes.fromhex("110200 aabb".replace(" ", ""))


@pytest.mark.parametrize(
    "descriptor",
    [
        "10",  # S
        "90 80 11",  # X I, 7 bits
        "90 80 9234",  # X I, 15 bits
        "90 c0 11 07",  # I L
        "90 e0 9234 07 60",  # I L T
        "90 f0 11 07 65",  # I L T K
        "90 10 05",  # K alone
        "90 20 40",  # T alone
        "90 00",  # X and nothing
    ],
)
def test_every_descriptor_of_rfc_7741_is_stepped_over(descriptor: str) -> None:
    head = bytes.fromhex(descriptor)
    fragment = read_vp8_payload(head + KEY)
    assert fragment.coded == KEY
    assert fragment.opens_key
    assert not fragment.disposable


def test_a_picture_begins_where_the_first_partition_does() -> None:
    assert not read_vp8_payload(b"\x00" + KEY).opens_key  # not the start of a partition
    assert not read_vp8_payload(b"\x11" + KEY).opens_key  # of the second one
    assert not read_vp8_payload(b"\x10" + INTER).opens_key


def test_a_picture_that_no_other_needs_says_so() -> None:
    assert read_vp8_payload(b"\x30" + INTER).disposable


@pytest.mark.parametrize("payload", ["", "10", "90", "9080", "908092", "90f0110765", "90801100"[:6]])
def test_payloads_that_end_too_early_are_refused(payload: str) -> None:
    with pytest.raises(CorruptVideo):
        read_vp8_payload(bytes.fromhex(payload))


@given(
    st.builds(
        VpxPayloadDescriptor,
        partition_start=st.integers(0, 1),
        partition_id=st.integers(0, 7),
        picture_id=st.none() | st.integers(0, 2**15 - 1),
        tl0picidx=st.none() | st.integers(0, 255),
        tid=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 1)),
        keyidx=st.none() | st.integers(0, 31),
    ),
    st.binary(min_size=1, max_size=40),
)
def test_what_aiortc_writes_is_read(descriptor: VpxPayloadDescriptor, coded: bytes) -> None:
    fragment = read_vp8_payload(bytes(descriptor) + coded)
    assert fragment.coded == coded
    begins = descriptor.partition_start == 1 and descriptor.partition_id == 0
    assert fragment.opens_key == (begins and coded[0] & 1 == 0)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_aiortc_reads_them_or_refused(payload: bytes) -> None:
    try:
        fragment = read_vp8_payload(payload)
    except CorruptVideo:
        try:
            _, rest = VpxPayloadDescriptor.parse(payload)
        except ValueError:
            return
        assert not rest
        return
    assert VpxPayloadDescriptor.parse(payload)[1] == fragment.coded


def test_a_key_picture_tells_its_size() -> None:
    picture = vp8_picture(KEY, disposable=False)
    assert picture.is_key
    assert picture.size_px == (320, 240)
    inter = vp8_picture(INTER, disposable=True)
    assert (inter.is_key, inter.size_px, inter.disposable) == (False, None, True)


def test_scaling_bits_are_not_part_of_the_size() -> None:
    scaled = KEY[:6] + (320 | 1 << 14).to_bytes(2, "little") + (240 | 3 << 14).to_bytes(2, "little") + b"\x00"
    assert vp8_picture(scaled, disposable=False).size_px == (320, 240)


@pytest.mark.parametrize("coded", [KEY[:9], KEY[:3] + b"\x9d\x01\x2b" + KEY[6:], KEY[:6] + bytes(5)])
def test_what_is_no_key_picture_is_refused(coded: bytes) -> None:
    with pytest.raises(CorruptVideo):
        vp8_picture(coded, disposable=False)


def test_a_real_senders_first_picture_is_a_key_picture_of_its_size() -> None:
    camera = FilmCamera(VideoCodec.VP8, width=176, height=144)
    fragments = [read_vp8_payload(packet.payload) for packet in camera.shoot()]
    assert [fragment.opens_key for fragment in fragments] == [True] + [False] * (len(fragments) - 1)
    picture = vp8_picture(b"".join(fragment.coded for fragment in fragments), disposable=False)
    assert picture.size_px == (176, 144)
    assert not read_vp8_payload(camera.shoot()[0].payload).opens_key
