from __future__ import annotations

import aiortc.rtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.rtcp import (
    FullIntraRequest,
    Goodbye,
    Nack,
    PictureLoss,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    middle_of,
    ntp_of,
    parse_rtcp,
    seconds_of,
    write_rtcp,
)
from duplex_server.media.rtp import MalformedPacket

WORDS = st.integers(0, 2**32 - 1)
NUMBERS = st.integers(0, 2**16 - 1)
BLOCKS = st.builds(
    ReportBlock, WORDS, st.integers(0, 255), st.integers(-(2**23), 2**23 - 1), WORDS, WORDS, WORDS, WORDS
)
SOME_BLOCKS = st.lists(BLOCKS, max_size=3).map(tuple)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
PACKETS: st.SearchStrategy[RtcpPacket] = st.one_of(
    st.builds(SenderReport, WORDS, st.integers(0, 2**64 - 1), WORDS, WORDS, WORDS, SOME_BLOCKS),
    st.builds(ReceiverReport, WORDS, SOME_BLOCKS),
    st.builds(SourceDescription, st.lists(st.tuples(WORDS, NAMES), max_size=3).map(tuple)),
    st.builds(Goodbye, st.lists(WORDS, max_size=3).map(tuple)),
    st.builds(Nack, WORDS, WORDS, st.lists(NUMBERS, max_size=30, unique=True).map(tuple)),
    st.builds(PictureLoss, WORDS, WORDS),
    st.builds(FullIntraRequest, WORDS, st.lists(st.tuples(WORDS, st.integers(0, 255)), max_size=3).map(tuple)),
)

BLOCK = ReportBlock(0x11223344, 64, -2, 0x00010005, 320, 0x0A0B0C0D, 65536)
GOLDENS: list[tuple[RtcpPacket, str]] = [
    (
        SenderReport(1, 0xAABBCCDD_80000000, 960, 50, 8000, (BLOCK,)),
        "81 c8 00 0c  00 00 00 01  aa bb cc dd  80 00 00 00  00 00 03 c0  00 00 00 32  00 00 1f 40"
        "11 22 33 44  40 ff ff fe  00 01 00 05  00 00 01 40  0a 0b 0c 0d  00 01 00 00",
    ),
    (ReceiverReport(2), "80 c9 00 01  00 00 00 02"),
    (SourceDescription(((3, "a@b"),)), "81 ca 00 03  00 00 00 03  01 03 61 40  62 00 00 00"),
    (SourceDescription(((3, "ab"),)), "81 ca 00 03  00 00 00 03  01 02 61 62  00 00 00 00"),
    (Goodbye((4, 5)), "82 cb 00 02  00 00 00 04  00 00 00 05"),
    (
        Nack(6, 7, (100, 101, 116, 117, 200)),
        "81 cd 00 05  00 00 00 06  00 00 00 07  00 64 80 01  00 75 00 00  00 c8 00 00",
    ),
    (Nack(6, 7, (65535, 0, 3)), "81 cd 00 03  00 00 00 06  00 00 00 07  ff ff 00 09"),
    (PictureLoss(8, 9), "81 ce 00 02  00 00 00 08  00 00 00 09"),
    (FullIntraRequest(8, ((9, 255),)), "84 ce 00 04  00 00 00 08  00 00 00 00  00 00 00 09  ff 00 00 00"),
]
"""By hand, from the drawings of RFC 3550 §6.4-6.6, RFC 4585 §6.2-6.3 and RFC 5104 §4.3.1."""


@pytest.mark.parametrize(("packet", "data"), GOLDENS)
def test_each_kind_is_written_and_read_as_its_rfc_draws_it(packet: RtcpPacket, data: str) -> None:
    assert write_rtcp([packet]).hex() == bytes.fromhex(data).hex()
    assert parse_rtcp(bytes.fromhex(data)) == [packet]


@given(st.lists(PACKETS, min_size=1, max_size=4))
def test_what_is_written_is_read_the_same(packets: list[RtcpPacket]) -> None:
    assert parse_rtcp(write_rtcp(packets)) == packets


def theirs(data: bytes) -> list[bytes]:
    return [bytes(packet) for packet in aiortc.rtp.RtcpPacket.parse(data)]


@given(PACKETS.filter(lambda packet: not isinstance(packet, SourceDescription | Nack)))
def test_aiortc_reads_what_is_written_and_writes_the_same(packet: RtcpPacket) -> None:
    data = write_rtcp([packet])
    assert theirs(data) == [data]


@given(st.sets(NUMBERS, min_size=1, max_size=30).map(sorted))
def test_aiortc_reads_the_same_numbers_of_lost_packets(numbers: list[int]) -> None:
    (nack,) = aiortc.rtp.RtcpPacket.parse(write_rtcp([Nack(1, 2, tuple(numbers))]))
    assert isinstance(nack, aiortc.rtp.RtcpRtpfbPacket)
    assert nack.lost == numbers


def test_aiortc_reads_the_name() -> None:
    (names,) = aiortc.rtp.RtcpPacket.parse(write_rtcp([SourceDescription(((3, "a@b"),))]))
    assert isinstance(names, aiortc.rtp.RtcpSdesPacket)
    assert [(chunk.ssrc, chunk.items) for chunk in names.chunks] == [(3, [(1, b"a@b")])]


def test_kinds_that_are_not_known_are_left_out() -> None:
    application = bytes.fromhex("80 cc 00 02  00 00 00 01  6e 61 6d 65")
    bandwidth = bytes.fromhex("8f ce 00 05  00 00 00 01  00 00 00 00  52 45 4d 42  01 00 00 ff  00 00 00 02")
    assert parse_rtcp(application + write_rtcp([Goodbye((1,))]) + bandwidth) == [Goodbye((1,))]


def test_padding_and_what_a_profile_appends_are_stepped_over() -> None:
    padded = bytes.fromhex("a0 c9 00 03  00 00 00 02  00 00 00 07  00 00 00 04")
    assert parse_rtcp(padded) == [ReceiverReport(2)]


def test_items_other_than_the_name_are_left_out() -> None:
    note_then_name = bytes.fromhex("81 ca 00 04  00 00 00 03  07 02 68 69  01 02 6d 65  00 00 00 00")
    assert parse_rtcp(note_then_name) == [SourceDescription(((3, "me"),))]


@pytest.mark.parametrize(
    ("wrong", "data"),
    [
        ("nothing", ""),
        ("a header cut short", "80 c9 00"),
        ("version 1", "40 c9 00 01  00 00 00 02"),
        ("longer than the datagram", "80 c9 00 02  00 00 00 02"),
        ("a second packet cut short", "80 c9 00 01  00 00 00 02  80 c9"),
        ("a report without its block", "81 c9 00 01  00 00 00 02"),
        ("a sender report without sender", "80 c8 00 01  00 00 00 02"),
        ("a farewell without names", "82 cb 00 01  00 00 00 04"),
        ("a request without streams", "81 cd 00 01  00 00 00 06"),
        ("half an entry of a command", "84 ce 00 03  00 00 00 08  00 00 00 00  00 00 00 09"),
        ("items that do not end", "81 ca 00 02  00 00 00 03  01 02 61 62"),
        ("an item cut short", "81 ca 00 02  00 00 00 03  01 09 61 62"),
        ("padding of no length", "a0 c9 00 01  00 00 00 00"),
        ("padding longer than the packet", "a0 c9 00 01  00 00 00 05"),
    ],
)
def test_what_is_no_packet_is_refused(wrong: str, data: str) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtcp(bytes.fromhex(data))


@given(
    first=st.integers(0x80, 0xBF), kind=st.integers(199, 208), n_words=st.integers(0, 9), body=st.binary(max_size=40)
)
def test_any_bytes_are_read_or_refused(first: int, kind: int, n_words: int, body: bytes) -> None:
    try:
        packets = parse_rtcp(bytes([first, kind, 0, n_words]) + body)
    except MalformedPacket:
        return
    assert len(packets) <= 1 + len(body) // 4


def test_times_are_written_as_seconds_and_fractions() -> None:
    assert ntp_of(1.5) == 0x00000001_80000000
    assert middle_of(0x12345678_9ABCDEF0) == 0x56789ABC
    assert seconds_of(middle_of(ntp_of(100.25))) == 100.25
    assert ntp_of(2.0**32 + 1) == 1 << 32, "wraps as RTCP's seconds do"
