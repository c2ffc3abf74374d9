"""Session descriptions as text: what is taken out of an offer before aiortc reads it, and put into its answer after.

Pure functions; the session description protocol of RFC 8866 and its use by browsers (RFC 9429). Knows nothing about
connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiortc.sdp import SessionDescription

from duplex_server.errors import ClientError

__all__ = ["InvalidOffer", "Offer", "check_readable", "finish_answer", "finish_offer", "read_offer"]

MAX_SECTIONS = 16
"""Media sections in one offer. A browser with microphone, camera and data channel has three."""

MAX_CANDIDATES = 64
"""Candidates per section; a laptop with many interfaces has about ten. Each costs checks, so the rest is left out."""

MAX_MESSAGE_BYTES = 262_144
"""What a peer may send in one data channel message: Chromium's own limit, enough for a camera still as base64."""

CAMERA_KBIT_PER_S = 800
"""What a camera may send. A key picture of VGA has 12 to 23 kB, one a second 100 to 200 kbit/s, and changes fill the
rest. Browsers would send up to 2500 of HD, of which a model sees little, on the way up that the voice takes too."""

_UNREADABLE = (ValueError, AttributeError, KeyError, IndexError, TypeError, AssertionError, StopIteration)
"""What aiortc's SDP parser raises on text that is not SDP."""

_CODECS = {"audio": ("opus/48000", "pcmu/8000", "pcma/8000"), "video": ("vp8/90000", "h264/90000", "rtx/90000")}
_OPUS_WISHES = "minptime=10;useinbandfec=1"
"""Asks the sender to put a copy of each packet into the next (RFC 7587 §6.1). DTX is not asked for."""


class InvalidOffer(ClientError):
    """An SDP offer that cannot be answered."""

    code = "invalid_offer"


@dataclass(frozen=True, slots=True)
class Section:
    """One media section of an offer."""

    lines: tuple[str, ...]
    mid: str
    kind: str
    """``"audio"``, ``"video"`` or ``"application"``, as far as they are known."""
    port: str

    @property
    def is_stopped(self) -> bool:
        """Whether the peer has given this section up (RFC 9429 §5.2.2)."""
        return self.port == "0" and "a=bundle-only" not in self.lines


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer made fit for aiortc.

    Attributes:
        sdp: what aiortc is given: without refused sections, other codecs, and candidates that lead nowhere.
        sections: all sections in the peer's order, of which the answer must have the same.
        refused: ``mid`` of each section that the answer refuses.
        ice: the peer's ``ice-ufrag`` and ``ice-pwd``.
        has_audio: whether a section for sound is among the accepted ones.
        has_channel: whether one for data channels is.
    """

    sdp: str
    sections: tuple[Section, ...]
    refused: frozenset[str]
    ice: tuple[str, str]
    has_audio: bool
    has_channel: bool


def read_offer(sdp: str, *, taken: Iterable[str] = (), refused: Iterable[str] = ()) -> Offer:
    """Read an offer.

    Refused are sections of an unknown kind, given up by the peer, or without a codec that is known here; the rest of
    the call goes on. Left out are candidates that are mDNS names, which a server can rarely resolve and which cost a
    second each (the peer's own checks reveal its address), and the end-of-candidates mark, so that an offer without
    candidates does not fail at once.

    Args:
        sdp: as the peer sent it.
        taken: ``mid`` of sections that earlier answers of this call accepted; they cannot be refused any more.
        refused: ``mid`` of sections that earlier answers refused; they stay refused, because aiortc counts sections.

    Raises:
        InvalidOffer: it is no offer that could be answered.
    """
    head, *groups = _split(sdp)
    if not groups or len(groups) > MAX_SECTIONS:
        raise InvalidOffer(f"An SDP offer has 1 to {MAX_SECTIONS} media sections; this has {len(groups)}.", param="sdp")
    sections = tuple(_section(lines) for lines in groups)
    mids = [section.mid for section in sections]
    if len(set(mids)) < len(mids) or not all(mids):
        raise InvalidOffer("Every media section of the offer must have a mid of its own.", param="sdp")
    keep, drop = frozenset(taken), frozenset(refused)
    if not keep <= set(mids):
        raise InvalidOffer("A later offer must have all media sections of the earlier ones.", param="sdp")
    outcast = frozenset(
        section.mid
        for section in sections
        if section.mid not in keep and (section.mid in drop or section.is_stopped or not _payload_types(section))
    )
    accepted = [section for section in sections if section.mid not in outcast]
    if not accepted:
        raise InvalidOffer("The offer has neither audio with Opus or G.711 nor a data channel.", param="sdp")
    lines = [line for line in head if not line.startswith("a=group:BUNDLE")]
    lines += _bundle(head, [section.mid for section in accepted])
    for section in accepted:
        lines += _cleaned(section)
    kinds = {section.kind for section in accepted if not section.is_stopped}
    return Offer(
        sdp="\r\n".join(lines) + "\r\n",
        sections=sections,
        refused=outcast,
        ice=_credentials(head, accepted[0]),
        has_audio="audio" in kinds,
        has_channel="application" in kinds,
    )


def finish_answer(sdp: str, offer: Offer) -> str:
    """Put into aiortc's answer what it lacks: refused sections in their places, what Opus should do, message sizes, and
    how much a camera may send.

    An offer to send lost packets of sound again (NACK, RFC 4585 §4.2) is accepted.
    """
    head, *groups = _split(sdp)
    answers = {_section(lines).mid: lines for lines in groups}
    lines = list(head)
    gone = {section.mid for section in offer.sections if section.is_stopped} | offer.refused
    lines = [_without_mids(line, gone) for line in lines]
    for section in offer.sections:
        lines += _refusal(section) if section.mid in gone else _completed(answers[section.mid], section)
    return "\r\n".join(lines) + "\r\n"


def finish_offer(sdp: str) -> str:
    """Put into aiortc's offer that packets of Opus are sent again when they are asked for (NACK, RFC 4585 §4.2)."""
    return re.sub(r"^(a=rtpmap:(\d+) opus/48000.*\r\n)", r"\1a=rtcp-fb:\2 nack\r\n", sdp, flags=re.MULTILINE)


def _split(sdp: str) -> list[list[str]]:
    """Split into the session's lines and those of each section."""
    groups: list[list[str]] = [[]]
    for line in sdp.splitlines():  # as aiortc does, which takes more than line feeds for the end of a line
        if line.startswith("m="):
            groups.append([])
        if line:
            groups[-1].append(line)
    return groups


def _section(lines: list[str]) -> Section:
    words = lines[0][2:].split(" ")
    if len(words) < 4:
        raise InvalidOffer(f"This line of the SDP has too few words: {lines[0][:80]!r}", param="sdp")
    mids = {match[1] for match in _matches(r"a=mid:(\S+)$", lines)}
    n_mids = sum(line.startswith("a=mid") for line in lines)
    return Section(tuple(lines), mids.pop() if n_mids == 1 and mids else "", words[0], words[1])


def _payload_types(section: Section) -> list[str]:
    """Return the formats of a section that are known here; none if it has to be refused.

    Of sound it is the one that the peer prefers (RFC 3264 §6.1), so that both ends agree on what is sent.
    """
    if section.kind == "application":
        return section.lines[0].split(" ")[3:] if "webrtc-datachannel" in section.lines[0] else []
    known = _CODECS.get(section.kind, ())
    names = {match[1]: match[2].lower() for match in _matches(r"a=rtpmap:(\d+) ([^/]+/\d+)", section.lines)}
    offered = [name for name in section.lines[0].split(" ")[3:] if names.get(name, "").startswith(known)]
    if section.kind == "audio":
        return offered[:1]
    return offered if any(not names[name].startswith("rtx/") for name in offered) else []


def _cleaned(section: Section) -> list[str]:
    """Return a section's lines without what aiortc should not see."""
    formats = _payload_types(section)
    lines = [section.lines[0]]
    if section.kind in _CODECS and formats:
        lines = [" ".join([*section.lines[0].split(" ")[:3], *formats])]
    n_candidates = 0
    for line in section.lines[1:]:
        if line.startswith("a=candidate:"):
            words = line.split(" ")
            if n_candidates >= MAX_CANDIDATES or len(words) < 8 or words[4].endswith(".local"):
                continue
            n_candidates += 1
        elif line.startswith("a=end-of-candidates"):
            continue
        elif section.kind in _CODECS and formats:
            about = re.match(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+)[ ]", line)
            if about and about[1] not in formats:
                continue
        lines.append(line)
    return lines


def _credentials(head: list[str], section: Section) -> tuple[str, str]:
    found: dict[str, str] = {}
    for match in _matches(r"a=(ice-ufrag|ice-pwd):(\S+)", [*head, *section.lines]):
        found[match[1]] = match[2]
    if len(found) < 2:
        raise InvalidOffer("The offer has no ICE credentials (a=ice-ufrag, a=ice-pwd).", param="sdp")
    return found["ice-ufrag"], found["ice-pwd"]


def _bundle(head: list[str], mids: list[str]) -> list[str]:
    """Return the line that bundles sections, if there was one, without those that are not there."""
    for line in head:
        if line.startswith("a=group:BUNDLE "):
            bundled = [mid for mid in dict.fromkeys(line.split(" ")[1:]) if mid in mids]
            return [" ".join(["a=group:BUNDLE", *bundled])] if bundled else []
    return []


def _without_mids(line: str, mids: Iterable[str]) -> str:
    if not line.startswith("a=group:BUNDLE"):
        return line
    return " ".join(word for word in line.split(" ") if word not in mids)


def _refusal(section: Section) -> list[str]:
    """Refuse a section (RFC 9429 §5.3.1): port 0, and otherwise as offered."""
    words = section.lines[0].split(" ")
    words[1] = "0"
    formats = [line for line in section.lines if line.startswith("a=rtpmap:")]
    return [" ".join(words), "c=IN IP4 0.0.0.0", "a=inactive", f"a=mid:{section.mid}", *formats]


def _completed(lines: list[str], offered: Section) -> list[str]:
    opus = next((match[1] for match in _matches(r"a=rtpmap:(\d+) opus/48000", lines)), None)
    done = []
    for line in lines:
        if line.startswith("a=max-message-size:"):
            line = f"a=max-message-size:{MAX_MESSAGE_BYTES}"
        if offered.kind == "video" and line.startswith("c="):
            line = f"{line}\r\nb=AS:{CAMERA_KBIT_PER_S}"  # application specific maximum: RFC 8866 §5.8
        if opus is None or not line.startswith(f"a=fmtp:{opus} "):
            done.append(line)
        if opus is not None and line.startswith(f"a=rtpmap:{opus} "):
            done.append(f"a=fmtp:{opus} {_OPUS_WISHES}")
            done += [
                feedback for feedback in (f"a=rtcp-fb:{opus} nack", "a=rtcp-fb:* nack") if feedback in offered.lines
            ]
    return done


def _matches(pattern: str, lines: Iterable[str]) -> list[re.Match[str]]:
    return [match for line in lines if (match := re.match(pattern, line))]


def check_readable(sdp: str) -> None:
    """Refuse what aiortc cannot read.

    Raises:
        InvalidOffer: it is not SDP, or a section cannot be encrypted.
    """
    try:
        description = SessionDescription.parse(sdp)
        str(description)  # which aiortc does later, when nobody expects an error any more
    except _UNREADABLE as error:
        raise InvalidOffer("The offer is not valid SDP.", param="sdp") from error
    for media in description.media:
        if media.dtls is None or not media.dtls.fingerprints:
            raise InvalidOffer("A media section has no DTLS fingerprint or no a=setup line.", param="sdp")
