"""RTCP packets: reports, names, farewells, and requests for lost packets and key frames; bytes to fields and back.

Knows nothing about what is counted or when it is sent. Sources: RFC 3550 §6, RFC 4585 §6, RFC 5104 §4.3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from duplex_server.media.rtp import SEQUENCES, MalformedPacket, signed16

__all__ = [
    "FullIntraRequest",
    "Goodbye",
    "Nack",
    "PictureLoss",
    "ReceiverReport",
    "ReportBlock",
    "RtcpPacket",
    "SenderReport",
    "SourceDescription",
    "middle_of",
    "ntp_of",
    "parse_rtcp",
    "seconds_of",
    "write_rtcp",
]

# Packet types and formats.
_SENDER_REPORT, _RECEIVER_REPORT, _SOURCE_DESCRIPTION, _GOODBYE = 200, 201, 202, 203
_TRANSPORT_FEEDBACK, _PAYLOAD_FEEDBACK = 205, 206
_FMT_NACK, _FMT_PICTURE_LOSS, _FMT_FULL_INTRA = 1, 1, 4
_CNAME = 1

_VERSION = 2 << 6
_MOST = 31  # blocks, chunks or sources that the header can count

_HEADER = struct.Struct("!BBH")
_WORD = struct.Struct("!I")
_TWO_WORDS = struct.Struct("!II")
_SENDER_INFO = struct.Struct("!IQIII")
_BLOCK = struct.Struct("!IIIIII")
_NACK_ENTRY = struct.Struct("!HH")
_INTRA_ENTRY = struct.Struct("!IB3x")


class ReportBlock(NamedTuple):
    """What a receiver says of one stream that it gets. Source: RFC 3550 §6.4.1."""

    ssrc: int
    """Of the stream."""
    fraction_lost: int
    """Share lost since the report before, in 256ths."""
    cumulative_lost: int
    """Lost since the stream began, −2²³..2²³ − 1; negative when more packets came than were sent."""
    extended_highest: int
    """Highest sequence number received, with the number of its wraps in the upper 16 bits."""
    jitter: int
    """In units of the stream's clock."""
    last_sender_report: int
    """Middle 32 bits of the NTP time in the last sender report; 0 if there was none."""
    since_sender_report: int
    """Time since then, in 65 536ths of a second."""


class SenderReport(NamedTuple):
    """What a sender says of its stream, with what it says of others' streams."""

    ssrc: int
    ntp: int
    """When this was sent, 64 bits, by :func:`ntp_of`."""
    rtp_timestamp: int
    """The same moment on the stream's clock."""
    n_packets: int
    n_payload_bytes: int
    blocks: tuple[ReportBlock, ...] = ()


class ReceiverReport(NamedTuple):
    """What somebody who sends nothing says of others' streams."""

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()


class SourceDescription(NamedTuple):
    """The names of streams' owners; of all items only the CNAME is kept."""

    cnames: tuple[tuple[int, str], ...]
    """SSRC and name; at most 255 bytes in UTF-8."""


class Goodbye(NamedTuple):
    """Streams that have ended."""

    ssrcs: tuple[int, ...]


class Nack(NamedTuple):
    """A request for packets that did not arrive. Source: RFC 4585 §6.2.1."""

    sender_ssrc: int
    media_ssrc: int
    sequence_numbers: tuple[int, ...]
    """16 bits each; written most compactly when they ascend."""


class PictureLoss(NamedTuple):
    """A request for a picture that needs no other. Source: RFC 4585 §6.3.1."""

    sender_ssrc: int
    media_ssrc: int


class FullIntraRequest(NamedTuple):
    """The same, as a command with a number that tells a repetition from a new one. Source: RFC 5104 §4.3.1."""

    sender_ssrc: int
    requests: tuple[tuple[int, int], ...]
    """SSRC of the stream, and the command's number, 0..255."""


RtcpPacket = SenderReport | ReceiverReport | SourceDescription | Goodbye | Nack | PictureLoss | FullIntraRequest


def parse_rtcp(data: bytes) -> list[RtcpPacket]:
    """Read a compound packet, or a lone one (RFC 5506). Kinds that are not known are left out.

    Raises:
        MalformedPacket: some part is cut short, or contradicts itself; nothing of it is to be believed.
    """
    packets: list[RtcpPacket] = []
    at = 0
    if not data:
        raise MalformedPacket("an empty datagram")
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise MalformedPacket("ends within an RTCP header")
        first, kind, n_words = _HEADER.unpack_from(data, at)
        if first & 0xC0 != _VERSION:
            raise MalformedPacket("not version 2 of RTCP")
        end = at + 4 * (n_words + 1)
        if end > len(data):
            raise MalformedPacket("shorter than its RTCP header says")
        body = data[at + _HEADER.size : end]
        if first & 0x20:
            if not body or not 0 < body[-1] <= len(body):
                raise MalformedPacket("padding of a wrong length")
            body = body[: -body[-1]]
        try:
            packet = _parse_body(kind, first & 0x1F, body)
        except struct.error as error:
            raise MalformedPacket("shorter than its fields") from error
        if packet is not None:
            packets.append(packet)
        at = end
    return packets


def write_rtcp(packets: Iterable[RtcpPacket]) -> bytes:
    """Return packets as one compound packet; the first must be a report where RFC 5506 was not agreed."""
    return b"".join([_write(packet) for packet in packets])


def ntp_of(time_s: float) -> int:
    """Return a time as RTCP writes it: 32 bits of seconds, 32 of their fractions.

    Any clock will do that one sender uses for all its streams (RFC 3550 §6.4.1); only differences are looked at.
    """
    return round(time_s * (1 << 32)) & 0xFFFF_FFFF_FFFF_FFFF


def middle_of(ntp: int) -> int:
    """Return the middle 32 bits: the time in 65 536ths of a second, modulo 18 h."""
    return ntp >> 16 & 0xFFFF_FFFF


def seconds_of(middle: int) -> float:
    """Return a duration of 65 536ths of a second in seconds."""
    return middle / (1 << 16)


def _parse_body(kind: int, count: int, body: bytes) -> RtcpPacket | None:
    """Read what follows the header; ``struct.error`` says that it is too short."""
    if kind == _SENDER_REPORT:
        ssrc, ntp, stamp, n_packets, n_bytes = _SENDER_INFO.unpack_from(body)
        return SenderReport(ssrc, ntp, stamp, n_packets, n_bytes, _parse_blocks(body, _SENDER_INFO.size, count))
    if kind == _RECEIVER_REPORT:
        return ReceiverReport(_WORD.unpack_from(body)[0], _parse_blocks(body, _WORD.size, count))
    if kind == _SOURCE_DESCRIPTION:
        return _parse_names(count, body)
    if kind == _GOODBYE:
        return Goodbye(struct.unpack_from(f"!{count}I", body))
    if kind not in (_TRANSPORT_FEEDBACK, _PAYLOAD_FEEDBACK):
        return None
    sender, media = _TWO_WORDS.unpack_from(body)
    entries = body[_TWO_WORDS.size :]
    if (kind, count) == (_TRANSPORT_FEEDBACK, _FMT_NACK):
        return _parse_nack(sender, media, entries)
    if (kind, count) == (_PAYLOAD_FEEDBACK, _FMT_PICTURE_LOSS):
        return PictureLoss(sender, media)
    if (kind, count) == (_PAYLOAD_FEEDBACK, _FMT_FULL_INTRA):
        return FullIntraRequest(sender, tuple(_INTRA_ENTRY.iter_unpack(entries)))
    return None


def _parse_blocks(body: bytes, at: int, count: int) -> tuple[ReportBlock, ...]:
    blocks = []
    for start in range(at, at + _BLOCK.size * count, _BLOCK.size):
        ssrc, loss, highest, jitter, last, since = _BLOCK.unpack_from(body, start)
        lost = loss & 0xFF_FFFF
        lost -= (lost & 0x80_0000) << 1  # 24 bits, signed
        blocks.append(ReportBlock(ssrc, loss >> 24, lost, highest, jitter, last, since))
    return tuple(blocks)


def _parse_names(count: int, body: bytes) -> SourceDescription:
    names = []
    at = 0
    for _ in range(count):
        (ssrc,) = _WORD.unpack_from(body, at)
        at += _WORD.size
        while True:
            if at >= len(body):
                raise MalformedPacket("a source's items do not end")
            if not body[at]:
                break
            if at + 2 > len(body) or at + 2 + body[at + 1] > len(body):
                raise MalformedPacket("a source's item is cut short")
            if body[at] == _CNAME:
                names.append((ssrc, body[at + 2 : at + 2 + body[at + 1]].decode("utf-8", "replace")))
            at += 2 + body[at + 1]
        at = (at + 4) & ~3  # one to four zero bytes end a chunk on a word
    return SourceDescription(tuple(names))


def _parse_nack(sender: int, media: int, entries: bytes) -> Nack:
    numbers = []
    for number, following in _NACK_ENTRY.iter_unpack(entries):
        numbers.append(number)
        while following:
            lowest = following & -following
            numbers.append((number + lowest.bit_length()) % SEQUENCES)
            following ^= lowest
    return Nack(sender, media, tuple(numbers))


def _write(packet: RtcpPacket) -> bytes:
    match packet:
        case SenderReport():
            info = _SENDER_INFO.pack(*packet[:-1])
            return _framed(_SENDER_REPORT, len(packet.blocks), info + _write_blocks(packet.blocks))
        case ReceiverReport():
            return _framed(_RECEIVER_REPORT, len(packet.blocks), _WORD.pack(packet.ssrc) + _write_blocks(packet.blocks))
        case SourceDescription():
            return _framed(_SOURCE_DESCRIPTION, len(packet.cnames), b"".join(map(_write_name, packet.cnames)))
        case Goodbye():
            return _framed(_GOODBYE, len(packet.ssrcs), struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs))
        case Nack():
            ends = _TWO_WORDS.pack(packet.sender_ssrc, packet.media_ssrc)
            return _framed(_TRANSPORT_FEEDBACK, _FMT_NACK, ends + _write_numbers(packet.sequence_numbers))
        case PictureLoss():
            return _framed(_PAYLOAD_FEEDBACK, _FMT_PICTURE_LOSS, _TWO_WORDS.pack(*packet))
        case FullIntraRequest():
            ends = _TWO_WORDS.pack(packet.sender_ssrc, 0)  # the stream's name stands in each entry
            entries = b"".join([_INTRA_ENTRY.pack(ssrc, number) for ssrc, number in packet.requests])
            return _framed(_PAYLOAD_FEEDBACK, _FMT_FULL_INTRA, ends + entries)


def _framed(kind: int, count: int, body: bytes) -> bytes:
    assert count <= _MOST and len(body) % 4 == 0, f"{count} parts in {len(body)} bytes"
    return _HEADER.pack(_VERSION | count, kind, len(body) // 4) + body


def _write_blocks(blocks: tuple[ReportBlock, ...]) -> bytes:
    return b"".join(
        [
            _BLOCK.pack(ssrc, fraction << 24 | lost & 0xFF_FFFF, highest, jitter, last, since)
            for ssrc, fraction, lost, highest, jitter, last, since in blocks
        ]
    )


def _write_name(named: tuple[int, str]) -> bytes:
    ssrc, name = named
    text = name.encode()
    chunk = _WORD.pack(ssrc) + bytes([_CNAME, len(text)]) + text
    return chunk + bytes(4 - len(chunk) % 4)


def _write_numbers(numbers: tuple[int, ...]) -> bytes:
    entries: list[tuple[int, int]] = []
    for number in numbers:
        distance = signed16(number - entries[-1][0]) if entries else 0
        if 0 < distance <= 16:
            base, following = entries[-1]
            entries[-1] = (base, following | 1 << distance - 1)
        else:
            entries.append((number, 0))
    return b"".join([_NACK_ENTRY.pack(*entry) for entry in entries])
