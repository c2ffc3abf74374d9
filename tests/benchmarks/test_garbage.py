"""The garbage that calls are tested with: varied, of the kind it says, and the same for the same seed."""

from __future__ import annotations

import random

import pytest

from benchmarks.garbage import KINDS, SEALED_KINDS, Garbage, damaged, damaged_text
from duplex_server.media.rtcp import parse_rtcp
from duplex_server.media.rtp import MalformedPacket, is_rtcp, parse_rtp

SAMPLES = {"rtp": [b"\x80\x6f" + bytes(40)], "rtcp": [b"\x80\xc8" + bytes(40)]}
SAMPLES |= {"stun": [b"\x00\x01" + bytes(40)], "dtls": [b"\x17\xfe\xfd" + bytes(40)]}


def several(kind: str, seed: int = 1, n: int = 300) -> list[bytes]:
    source = Garbage(seed, SAMPLES, (1, 2, 3))
    return [source.make(kind) for _ in range(n)]


@pytest.mark.parametrize("kind", [*KINDS, *SEALED_KINDS])
def test_every_kind_is_varied_and_can_be_repeated(kind: str) -> None:
    made = several(kind)
    assert made == several(kind)
    assert made != several(kind, seed=2)
    assert len(set(made)) > 150


def test_noise_is_empty_now_and_then() -> None:
    assert b"" in several("noise")


def readable(read: object, data: bytes) -> bool:
    try:
        assert callable(read)
        read(data)
    except MalformedPacket:
        return False
    return True


def test_what_the_peer_sends_itself_is_sometimes_a_packet_and_sometimes_none() -> None:
    for kind, read in (("sealed rtp", parse_rtp), ("sealed rtcp", parse_rtcp)):
        good = sum(readable(read, data) for data in several(kind))
        assert 30 < good < 300
    assert all(is_rtcp(data) for data in several("sealed rtcp"))


def test_damage_leaves_some_as_they_were() -> None:
    dice = random.Random(1)
    made = [damaged(b"0123456789", dice) for _ in range(100)]
    assert 5 < made.count(b"0123456789") < 40
    assert len(set(made)) > 50


def test_descriptions_are_damaged_line_by_line() -> None:
    dice = random.Random(1)
    good = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\na=mid:0\r\n"
    made = {damaged_text(good, dice) for _ in range(200)}
    assert len(made) > 150
