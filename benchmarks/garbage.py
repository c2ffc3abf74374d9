"""Datagrams and session descriptions that nobody should send: made at random, or from good ones by damage.

Everything is decided by a seed. Knows nothing about sockets or calls.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence

from duplex_server.media.rtp import RtpPacket, write_rtp

__all__ = ["KINDS", "SEALED_KINDS", "Garbage", "damaged", "damaged_text"]

_LONGEST = 1500
_MAGIC_COOKIE = 0x2112A442  # RFC 8489 §5
_STUN_ATTRIBUTES = (0x0001, 0x0006, 0x0008, 0x0009, 0x000D, 0x0020, 0x0024, 0x0025, 0x8022, 0x8028, 0x8029, 0x802A)
_DTLS_TYPES = (20, 21, 22, 23, 24, 25, 26)  # change cipher, alert, handshake, data, heartbeat, connection id, ack
_RTP_TYPES = (*range(64), *range(96, 128))  # the others, marked, are reports (RFC 5761 §4)
_RTCP_TYPES = (*range(192, 196), *range(200, 208), 223)


class Garbage:
    """A source of garbage.

    Args:
        seed: of all luck.
        samples: good datagrams by kind (``"rtp"``, ``"rtcp"``, ``"stun"``, ``"dtls"``) that are repeated and damaged.
        ssrcs: streams that sealed packets claim to be, so that the peer's own sound is not among them.
    """

    def __init__(self, seed: int, samples: Mapping[str, Sequence[bytes]], ssrcs: Sequence[int]) -> None:
        self._dice = random.Random(seed)
        self._samples = samples
        self._ssrcs = ssrcs

    def make(self, kind: str) -> bytes:
        """Return a datagram of a kind of :data:`KINDS` or, to be encrypted by the peer, of :data:`SEALED_KINDS`."""
        return (KINDS | SEALED_KINDS)[kind](self)

    def noise(self) -> bytes:
        """Bytes of no meaning; some datagrams are empty, some as long as the network carries."""
        return self._dice.randbytes(self._dice.choice((0, 1, 2, 12, 20, 40, 172, _LONGEST, self._dice.randrange(3000))))

    def rtp(self) -> bytes:
        """Sound that was heard before, or sound damaged under way."""
        return self._damaged_sample("rtp")

    def rtcp(self) -> bytes:
        """Reports likewise."""
        return self._damaged_sample("rtcp")

    def stun(self) -> bytes:
        """ICE checks damaged under way, or made up: any method, any attributes of any length."""
        if self._dice.random() < 0.5:
            return self._damaged_sample("stun")
        attributes = b""
        for _ in range(self._dice.randrange(6)):
            content = self._dice.randbytes(self._dice.choice((0, 1, 4, 8, 20, 30)))
            claimed = len(content) if self._dice.random() < 0.8 else self._dice.randrange(65536)
            attributes += struct.pack("!HH", self._dice.choice(_STUN_ATTRIBUTES), claimed) + content
            attributes += bytes(-len(content) % 4)
        cookie = _MAGIC_COOKIE if self._dice.random() < 0.9 else self._dice.getrandbits(32)
        kind = self._dice.choice((0x0001, 0x0011, 0x0101, 0x0111, self._dice.randrange(0x4000)))
        return struct.pack("!HHI", kind, len(attributes), cookie) + self._dice.randbytes(12) + attributes

    def dtls(self) -> bytes:
        """Records damaged under way, or made up: alerts, handshakes, data, of any epoch."""
        if self._dice.random() < 0.5:
            return self._damaged_sample("dtls")
        content = self._dice.randbytes(self._dice.choice((0, 2, 12, 25, 60, 300)))
        if self._dice.random() < 0.3:
            content = self._dice.choice((b"\x02\x28", b"\x01\x00", b"\x02\x00"))  # alerts: failure, farewell
        version = self._dice.choice((0xFEFD, 0xFEFF, 0x0303))
        header = struct.pack("!BHHHI", self._dice.choice(_DTLS_TYPES), version, self._dice.randrange(3), 0, 7)
        return header + struct.pack("!H", len(content)) + content

    def sealed_rtp(self) -> bytes:
        """An RTP packet from the peer itself: any type, any number, any payload."""
        packet = RtpPacket(
            self._dice.choice(_RTP_TYPES),
            self._dice.random() < 0.5,
            self._dice.randrange(65536),
            self._dice.getrandbits(32),
            self._dice.choice(self._ssrcs),
            self._dice.randbytes(self._dice.choice((0, 1, 3, 40, 120, 1200))),
        )
        header = bytearray(write_rtp(packet))
        if self._dice.random() < 0.3:
            header[0] |= self._dice.choice(
                (0x10, 0x20, 0x01, 0x0F)
            )  # an extension, padding, sources that are not there
        return bytes(header)

    def sealed_rtcp(self) -> bytes:
        """Reports from the peer itself: any kind, any count, any length."""
        compound = b""
        for _ in range(self._dice.randrange(1, 4)):
            body = self._dice.randbytes(4 * self._dice.randrange(12))
            n_words = len(body) // 4 if self._dice.random() < 0.8 else self._dice.randrange(30)
            compound += struct.pack("!BBH", 0x80 | self._dice.randrange(64), self._dice.choice(_RTCP_TYPES), n_words)
            compound += body
        return compound[:4] + struct.pack("!I", self._dice.choice(self._ssrcs)) + compound[8:]

    def _damaged_sample(self, kind: str) -> bytes:
        return damaged(self._dice.choice(self._samples[kind]), self._dice)


KINDS: dict[str, Callable[[Garbage], bytes]] = {
    "noise": Garbage.noise,
    "rtp": Garbage.rtp,
    "rtcp": Garbage.rtcp,
    "stun": Garbage.stun,
    "dtls": Garbage.dtls,
}
"""What anybody can send to the port."""

SEALED_KINDS: dict[str, Callable[[Garbage], bytes]] = {
    "sealed rtp": Garbage.sealed_rtp,
    "sealed rtcp": Garbage.sealed_rtcp,
}
"""What only the peer can send, because it is encrypted with the call's keys; made here in the clear."""


def damaged(good: bytes, dice: random.Random) -> bytes:
    """Return a datagram as it was, or with bits turned, cut short, or with something added."""
    data = bytearray(good)
    way = dice.randrange(6)
    if way == 0:
        return good
    if way == 1:
        return bytes(data[: dice.randrange(len(data) + 1)])
    if way == 2:
        return good + dice.randbytes(dice.randrange(1, 60))
    for _ in range(dice.choice((1, 2, 8, 40))):
        place = dice.randrange(min(len(data), 40) if way == 3 else len(data))
        data[place] = dice.randrange(256)
    return bytes(data)


def damaged_text(good: str, dice: random.Random) -> str:
    """Return a session description with lines lost, doubled, exchanged or cut, or numbers and characters replaced."""
    lines = good.splitlines()
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        place, other = dice.randrange(len(lines)), dice.randrange(len(lines))
        match dice.randrange(7):
            case 0 if len(lines) > 1:
                del lines[place]
            case 1:
                lines.insert(other, lines[place])
            case 2:
                lines[place], lines[other] = lines[other], lines[place]
            case 3:
                lines[place] = lines[place][: dice.randrange(len(lines[place]) + 1)]
            case 4:
                number = dice.choice(("0", "-1", "65536", "4294967296", "1e9", "9" * 40, "nan", "", "٣"))
                lines[place] = "".join(number if letter.isdigit() else letter for letter in lines[place])
            case 5:
                at = dice.randrange(len(lines[place]) + 1)
                lines[place] = lines[place][:at] + chr(dice.randrange(1, 0x2000)) + lines[place][at + 1 :]
            case _:
                lines[place] += " " + lines[other]
    return "\r\n".join([*lines, ""])
