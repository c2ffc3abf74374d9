"""RTP packets (RFC 3550 §5.1): bytes to fields and back.

Knows nothing about streams, codecs or encryption. Header extensions and contributing sources are stepped over.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "MAX_DROPOUT",
    "MAX_MISORDER",
    "SEQUENCES",
    "MalformedPacket",
    "RtpPacket",
    "is_rtcp",
    "parse_rtp",
    "signed16",
    "signed32",
    "write_rtp",
]

SEQUENCES = 1 << 16
"""Sequence numbers that there are."""

MAX_DROPOUT = 3000
"""A number further ahead is not the end of a gap, but of a sender that began anew. Source: RFC 3550 A.1."""

MAX_MISORDER = 100
"""A number further back is not a late packet, likewise. Source: RFC 3550 A.1."""

_HEADER = struct.Struct("!BBHII")
_WORDS = struct.Struct("!HH")
_VERSION = 2 << 6
_PADDING = 1 << 5
_EXTENSION = 1 << 4
_MARKER = 1 << 7


class MalformedPacket(ValueError):
    """Bytes that are no packet of the kind they were taken for."""


class RtpPacket(NamedTuple):
    """One packet of a stream."""

    payload_type: int
    """0..127; what it stands for was agreed in SDP."""
    marker: bool
    """Of sound: the first packet after a silence (RFC 3551 §4.1). Of pictures: the last packet of one."""
    sequence_number: int
    """16 bits, one more with each packet."""
    timestamp: int
    """32 bits, the clock of the payload type."""
    ssrc: int
    """32 bits, names the stream."""
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket:
    """Read one packet.

    Raises:
        MalformedPacket: it is none, or says that more belongs to it than is there.
    """
    if len(data) < _HEADER.size:
        raise MalformedPacket("shorter than an RTP header")
    first, second, sequence_number, timestamp, ssrc = _HEADER.unpack_from(data)
    start, end = _HEADER.size, len(data)
    if first != _VERSION:  # anything but the plain header
        if first & 0xC0 != _VERSION:
            raise MalformedPacket("not version 2 of RTP")
        start += 4 * (first & 0x0F)
        if first & _EXTENSION:
            if end < start + _WORDS.size:
                raise MalformedPacket("ends before its header extension")
            _, n_words = _WORDS.unpack_from(data, start)
            start += _WORDS.size + 4 * n_words
        if first & _PADDING:
            if not data[-1]:
                raise MalformedPacket("padding without length")
            end -= data[-1]
        if start > end:
            raise MalformedPacket("shorter than its header says")
    return RtpPacket(second & 0x7F, second >= _MARKER, sequence_number, timestamp, ssrc, data[start:end])


def write_rtp(packet: RtpPacket) -> bytes:
    """Return the packet as it is sent, without padding, extensions or contributing sources."""
    payload_type, marker, sequence_number, timestamp, ssrc, payload = packet
    second = payload_type | _MARKER if marker else payload_type
    return _HEADER.pack(_VERSION, second, sequence_number, timestamp, ssrc) + payload


def is_rtcp(datagram: bytes) -> bool:
    """Tell RTCP from RTP where both share a port. Source: RFC 5761 §4, which keeps packet types 192..223 for RTCP."""
    return len(datagram) > 1 and 192 <= datagram[1] <= 223


def signed16(difference: int) -> int:
    """Return the distance between two sequence numbers the short way around the circle: −32768..32767."""
    return (difference + (1 << 15)) % (1 << 16) - (1 << 15)


def signed32(difference: int) -> int:
    """Return the distance between two timestamps the short way around the circle: −2³¹..2³¹ − 1."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)
