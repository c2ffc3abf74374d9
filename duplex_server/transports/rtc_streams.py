"""What a session description says of each stream of media: codecs by payload type, names of streams, who may send.

Pure functions. Knows nothing about connections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Stream", "read_streams"]


@dataclass(frozen=True, slots=True)
class Stream:
    """One media section, as its owner describes it."""

    mid: str
    kind: str
    """``"audio"``, ``"video"`` or ``"application"``."""
    codecs: Mapping[int, str]
    """Lower-case encoding names by payload type, in the order of preference: ``{111: "opus"}``."""
    sends: bool
    """Whether the owner means to send."""
    ssrcs: tuple[int, ...]
    """Of what the owner sends, as far as it says."""
    cname: str
    """Canonical name of the owner's streams (RFC 3550 §6.5.1); "" if it gives none."""
    repairs: frozenset[int]
    """Payload types of which the owner answers negative acknowledgements (RFC 4585 §4.2)."""


def read_streams(sdp: str) -> list[Stream]:
    """Return the media sections of a description, in its order. What cannot be read is left out."""
    return [_stream(section) for section in re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)[1:]]


def _stream(section: str) -> Stream:
    words = section.split("\n", 1)[0].split()
    names = {number: name.lower() for number, name in re.findall(r"^a=rtpmap:(\d+) ([^/\s]+)/", section, re.MULTILINE)}
    ssrcs = dict.fromkeys(re.findall(r"^a=ssrc:(\d+) ", section, re.MULTILINE))
    nacks = re.findall(r"^a=rtcp-fb:(\d+|\*) nack\s*$", section, re.MULTILINE)
    codecs = {int(word): names[word] for word in words[3:] if word in names}
    return Stream(
        mid=_first(r"^a=mid:(\S+)", section),
        kind=words[0][2:],
        codecs=codecs,
        sends=not re.search(r"^a=(?:recvonly|inactive)\s*$", section, re.MULTILINE),
        ssrcs=tuple(int(ssrc) for ssrc in ssrcs),
        cname=_first(r"^a=ssrc:\d+ cname:(\S+)", section),
        repairs=frozenset(number for number in codecs if "*" in nacks or str(number) in nacks),
    )


def _first(pattern: str, section: str) -> str:
    match = re.search(pattern, section, re.MULTILINE)
    return match[1] if match else ""
