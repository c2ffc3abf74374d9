from __future__ import annotations

import aiortc.rtp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duplex_server.media.rtp import (
    MalformedPacket,
    RtpPacket,
    is_rtcp,
    parse_rtp,
    signed16,
    signed32,
    write_rtp,
)

PACKETS = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127),
    marker=st.booleans(),
    sequence_number=st.integers(0, 2**16 - 1),
    timestamp=st.integers(0, 2**32 - 1),
    ssrc=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=40),
)

PLAIN = bytes.fromhex("80 ef 12 34  00 01 e2 40  de ad be ef") + b"opus"
"""Version 2; marker, type 111; sequence, timestamp, source: RFC 3550 §5.1, field by field."""


def test_a_packet_written_by_hand_is_read() -> None:
    assert parse_rtp(PLAIN) == RtpPacket(111, True, 0x1234, 123456, 0xDEADBEEF, b"opus")


def test_a_packet_is_written_as_the_rfc_draws_it() -> None:
    assert write_rtp(RtpPacket(111, True, 0x1234, 123456, 0xDEADBEEF, b"opus")) == PLAIN


def test_contributing_sources_an_extension_and_padding_are_stepped_over() -> None:
    header = bytes.fromhex("b2 6f 00 01  00 00 00 02  00 00 00 03")  # padding, extension, two contributing sources
    sources = bytes(8)
    extension = bytes.fromhex("be de 00 02  10 aa 00 00  00 00 00 00")
    assert parse_rtp(header + sources + extension + b"opus" + b"\0\0\3").payload == b"opus"


def test_a_packet_of_nothing_but_padding_has_an_empty_payload() -> None:
    assert parse_rtp(bytes.fromhex("a0 6f 00 01  00 00 00 02  00 00 00 03  00 00 00 04")).payload == b""


@pytest.mark.parametrize(
    ("wrong", "data"),
    [
        ("nothing", ""),
        ("a header cut short", "80 6f 00 01  00 00 00 02  00 00 00"),
        ("version 1", "40 6f 00 01  00 00 00 02  00 00 00 03"),
        ("a contributing source is missing", "81 6f 00 01  00 00 00 02  00 00 00 03"),
        ("the extension is missing", "90 6f 00 01  00 00 00 02  00 00 00 03"),
        ("the extension is shorter than it says", "90 6f 00 01  00 00 00 02  00 00 00 03  be de 00 01"),
        ("padding of no length", "a0 6f 00 01  00 00 00 02  00 00 00 03  00"),
        ("padding that covers the header", "a0 6f 00 01  00 00 00 02  00 00 00 03  02"),
    ],
)
def test_what_is_no_packet_is_refused(wrong: str, data: str) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtp(bytes.fromhex(data))


@given(PACKETS)
def test_what_is_written_is_read_the_same(packet: RtpPacket) -> None:
    assert parse_rtp(write_rtp(packet)) == packet


@given(PACKETS)
def test_aiortc_reads_what_is_written(packet: RtpPacket) -> None:
    read = aiortc.rtp.RtpPacket.parse(write_rtp(packet))
    assert (read.payload_type, read.marker, read.sequence_number, read.timestamp, read.ssrc, read.payload) == packet


@given(
    packet=PACKETS,
    sources=st.lists(st.integers(0, 2**32 - 1), max_size=15),
    padding=st.integers(0, 255),
    level=st.none() | st.integers(0, 127),
)
def test_what_aiortc_writes_is_read(packet: RtpPacket, sources: list[int], padding: int, level: int | None) -> None:
    kinds = aiortc.rtp.HeaderExtensionsMap()
    kinds.configure(
        aiortc.RTCRtpParameters(
            headerExtensions=[
                aiortc.RTCRtpHeaderExtensionParameters(id=3, uri="urn:ietf:params:rtp-hdrext:ssrc-audio-level")
            ]
        )
    )
    theirs = aiortc.rtp.RtpPacket(
        payload_type=packet.payload_type,
        marker=int(packet.marker),
        sequence_number=packet.sequence_number,
        timestamp=packet.timestamp,
        ssrc=packet.ssrc,
        payload=packet.payload,
    )
    theirs.csrc, theirs.padding_size = sources, padding
    theirs.extensions.audio_level = None if level is None else (True, level)
    assert parse_rtp(theirs.serialize(kinds)) == packet


@given(st.binary(max_size=60).map(lambda data: b"\x80" + data) | st.binary(max_size=60))
@example(bytes.fromhex("bf 6f 00 01  00 00 00 02  00 00 00 03"))
def test_any_bytes_are_read_or_refused_as_aiortc_does(data: bytes) -> None:
    try:
        theirs = aiortc.rtp.RtpPacket.parse(data).payload
    except ValueError:
        theirs = None
    try:
        ours = parse_rtp(data).payload
    except MalformedPacket:
        ours = None
    assert ours == theirs or (theirs is None and data[0] & 0x10), "only an extension broken inside is stepped over"


def test_rtcp_is_told_from_rtp_by_its_type() -> None:
    assert is_rtcp(bytes([0x80, 200]))
    assert is_rtcp(bytes([0x81, 223]))
    assert not is_rtcp(bytes([0x80, 111 | 0x80]))  # a marked packet of type 111
    assert not is_rtcp(bytes([0x80, 111]))
    assert not is_rtcp(b"\x80")


@pytest.mark.parametrize(
    ("later", "earlier", "distance"), [(1, 65535, 2), (65535, 1, -2), (5, 5, 0), (32768, 0, -32768)]
)
def test_distances_go_the_short_way_around(later: int, earlier: int, distance: int) -> None:
    assert signed16(later - earlier) == distance
    assert signed32((later << 16) - (earlier << 16)) == distance << 16
