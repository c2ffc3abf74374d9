from __future__ import annotations

import re

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.transports.rtc_sdp import (
    MAX_CANDIDATES,
    MAX_SECTIONS,
    InvalidOffer,
    check_readable,
    finish_answer,
    finish_offer,
    read_offer,
)

HEAD = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0"]
TRANSPORT = [
    "c=IN IP4 0.0.0.0",
    "a=ice-ufrag:abcd",
    "a=ice-pwd:" + "p" * 24,
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
    "a=setup:actpass",
]
AUDIO = [
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0 8 13",
    *TRANSPORT,
    "a=mid:0",
    "a=sendrecv",
    "a=rtcp-mux",
    "a=rtpmap:111 opus/48000/2",
    "a=rtcp-fb:111 transport-cc",
    "a=fmtp:111 minptime=10;useinbandfec=1",
    "a=rtpmap:63 red/48000/2",
    "a=fmtp:63 111/111",
    "a=rtpmap:0 PCMU/8000",
    "a=rtpmap:8 PCMA/8000",
    "a=rtpmap:13 CN/8000",
]
VIDEO = [
    "m=video 9 UDP/TLS/RTP/SAVPF 96 97 45",
    *TRANSPORT,
    "a=mid:1",
    "a=sendonly",
    "a=rtcp-mux",
    "a=rtpmap:96 VP8/90000",
    "a=rtpmap:97 rtx/90000",
    "a=fmtp:97 apt=96",
    "a=rtpmap:45 AV1/90000",
]
CHANNEL = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", *TRANSPORT, "a=mid:2", "a=sctp-port:5000"]
FOREIGN_VIDEO = [line.replace("VP8", "VP9").replace("rtx", "red") for line in VIDEO]


def offer(*sections: list[str], bundle: str = "0 1 2") -> str:
    lines = [*HEAD, f"a=group:BUNDLE {bundle}", *(line for section in sections for line in section)]
    return "\r\n".join(lines) + "\r\n"


def answer_to(sdp: str) -> str:
    """What aiortc would answer, as far as it matters here: the same sections, reduced."""
    lines = [line for line in sdp.splitlines() if not line.startswith("a=fmtp:111")]
    return "\r\n".join([*lines, "a=max-message-size:65536"]) + "\r\n"


def section_lines(sdp: str) -> list[str]:
    return re.findall(r"^m=.*$", sdp.replace("\r", ""), re.MULTILINE)


def test_only_codecs_that_are_known_here_are_left() -> None:
    read = read_offer(offer(AUDIO, VIDEO, CHANNEL))
    assert section_lines(read.sdp) == [
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    ]
    for gone in ("PCMU", "red/", "AV1", "CN/", "a=fmtp:63"):
        assert gone not in read.sdp
    assert (read.has_audio, read.has_channel, read.refused) == (True, True, frozenset())
    assert read.ice == ("abcd", "p" * 24)
    assert len(SessionDescription.parse(read.sdp).media) == 3


def test_addresses_that_lead_nowhere_are_left_out_with_the_mark_of_their_end() -> None:
    candidate = "a=candidate:1 1 udp 2122260223 {} 50000 typ host"
    audio = [
        *AUDIO,
        candidate.format("10.0.0.7"),
        candidate.format("x-y.local"),
        "a=candidate:1 1",
        "a=end-of-candidates",
    ]
    read = read_offer(offer(audio, CHANNEL))
    assert re.findall(r"a=candidate:.*", read.sdp.replace("\r", "")) == [candidate.format("10.0.0.7")]
    assert "end-of-candidates" not in read.sdp


def test_a_flood_of_addresses_is_cut_off() -> None:
    flood = [f"a=candidate:{n} 1 udp 2122260223 10.0.{n // 250}.{n % 250} 50000 typ host" for n in range(5000)]
    assert read_offer(offer([*AUDIO, *flood])).sdp.count("a=candidate:") == MAX_CANDIDATES


def test_a_section_without_a_known_codec_is_refused_in_its_place() -> None:
    read = read_offer(offer(AUDIO, FOREIGN_VIDEO, CHANNEL))
    assert read.refused == {"1"}
    assert len(section_lines(read.sdp)) == 2
    assert "a=group:BUNDLE 0 2" in read.sdp
    answer = finish_answer(answer_to(read.sdp), read)
    assert [line.split()[0:2] for line in section_lines(answer)] == [
        ["m=audio", "9"],
        ["m=video", "0"],
        ["m=application", "9"],
    ]
    assert "a=group:BUNDLE 0 2" in answer


def test_a_refused_section_stays_refused_although_its_codec_is_known_now() -> None:
    assert read_offer(offer(AUDIO, VIDEO, CHANNEL), taken={"0", "2"}, refused={"1"}).refused == {"1"}


def test_a_later_offer_may_not_drop_a_section() -> None:
    with pytest.raises(InvalidOffer, match="all media sections"):
        read_offer(offer(AUDIO, CHANNEL), taken={"0", "1", "2"})


def test_a_section_that_the_peer_gives_up_is_answered_as_given_up() -> None:
    stopped = [VIDEO[0].replace(" 9 ", " 0 "), *VIDEO[1:]]
    read = read_offer(offer(AUDIO, stopped, CHANNEL), taken={"0", "1", "2"})
    assert read.refused == frozenset()
    assert len(section_lines(read.sdp)) == 3
    answer = finish_answer(answer_to(read.sdp), read)
    assert section_lines(answer)[1].startswith("m=video 0 ")
    assert "a=group:BUNDLE 0 2" in answer


def test_port_0_means_bundled_where_the_offer_says_so() -> None:
    bundled = [VIDEO[0].replace(" 9 ", " 0 "), *VIDEO[1:], "a=bundle-only"]
    assert read_offer(offer(AUDIO, bundled)).refused == frozenset()


def test_the_answer_says_how_much_a_camera_may_send_where_rfc_8866_has_it() -> None:
    read = read_offer(offer(AUDIO, VIDEO, CHANNEL))
    answer = finish_answer(answer_to(read.sdp), read)
    assert answer.count("b=AS:") == 1
    video = answer[answer.index("m=video") :].split("\r\n")
    assert [line[:2] for line in video[:4]] == ["m=", "c=", "b=", "a="]
    check_readable(answer)


def test_the_answer_asks_for_redundancy_and_says_how_long_messages_may_be() -> None:
    read = read_offer(offer(AUDIO, CHANNEL))
    answer = finish_answer(answer_to(read.sdp), read)
    assert answer.count("a=fmtp:111 minptime=10;useinbandfec=1\r\n") == 1
    assert answer.index("a=rtpmap:111") < answer.index("a=fmtp:111")
    assert "a=max-message-size:262144\r\n" in answer
    assert "65536" not in answer


def test_an_offer_of_sound_alone_has_no_channel() -> None:
    read = read_offer(offer(AUDIO, bundle="0"))
    assert (read.has_audio, read.has_channel) == (True, False)


def test_credentials_may_stand_above_the_sections() -> None:
    bare = [line for line in AUDIO if "ice-" not in line]
    sdp = "\r\n".join([*HEAD, "a=ice-ufrag:head", "a=ice-pwd:" + "q" * 24, *bare]) + "\r\n"
    assert read_offer(sdp).ice == ("head", "q" * 24)


@pytest.mark.parametrize(
    "sdp",
    [
        "",
        "v=0\r\n",
        "m=audio\r\na=mid:0\r\n",
        offer(*[AUDIO] * 2),
        offer([line for line in AUDIO if "a=mid" not in line]),
        offer([*AUDIO, "a=mid:1"]),
        offer([line.replace("mid:0", "mid:0 1") for line in AUDIO]),
        offer([line for line in AUDIO if "ice-pwd" not in line]),
        offer(FOREIGN_VIDEO),
        offer(["m=message 2855 TCP/MSRP *", *TRANSPORT, "a=mid:0"]),
        offer(*[[*AUDIO[:1], *TRANSPORT, f"a=mid:{n}", *AUDIO[7:]] for n in range(MAX_SECTIONS + 1)]),
    ],
    ids=[
        "empty",
        "no media",
        "short line",
        "same mid",
        "no mid",
        "two mids",
        "a mid of two words",
        "no password",
        "no codec",
        "unknown kind",
        "too many",
    ],
)
def test_an_offer_that_cannot_be_answered_is_refused(sdp: str) -> None:
    with pytest.raises(InvalidOffer):
        read_offer(sdp)


@pytest.mark.parametrize(
    "line", ["a=extmap", "a=rtcp", "a=rtcp:9 IN IP4 0.0", "a=fingerprint", "a=setup:perhaps", "a=fmtp", "c=IN IP4"]
)
def test_what_aiortc_cannot_read_or_write_is_refused(line: str) -> None:
    check_readable(read_offer(offer(AUDIO)).sdp)
    with pytest.raises(InvalidOffer):
        check_readable(read_offer(offer([*AUDIO, line])).sdp)


@pytest.mark.parametrize(
    ("offered", "given"), [("7 0 8", "0"), ("0 0 2 1", "0 2"), ("2 0", "2 0"), ("1", None), ("", None)]
)
def test_only_sections_that_are_there_are_bundled(offered: str, given: str | None) -> None:
    lines = read_offer(offer(AUDIO, CHANNEL, bundle=offered)).sdp.splitlines()
    bundles = [line for line in lines if line.startswith("a=group:BUNDLE")]
    assert bundles == ([f"a=group:BUNDLE {given}"] if given else [])


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028"])
def test_lines_end_where_aiortc_ends_them(end: str) -> None:
    read = read_offer(offer(AUDIO, CHANNEL).replace("\r\n", end))
    assert len(read.sections) == len(SessionDescription.parse(read.sdp).media) == 2


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*HEAD, *AUDIO, *VIDEO, *CHANNEL, "a=end-of-candidates", "a=bundle-only"]),
            st.text(max_size=40),
            st.text(max_size=30).map(lambda text: "m=" + text),
            st.text(max_size=30).map(lambda text: "a=" + text),
        ),
        max_size=60,
    )
)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        read = read_offer("\r\n".join(lines))
    except InvalidOffer:
        return
    assert read.sections
    assert read.sdp.endswith("\r\n")


def test_an_offer_to_send_lost_sound_again_is_made_and_accepted() -> None:
    ours = finish_offer(offer(AUDIO, CHANNEL))
    number = re.search(r"a=rtpmap:(\d+) opus/48000", ours)
    assert number is not None
    assert f"a=rtcp-fb:{number[1]} nack" in ours.splitlines()
    for sdp, accepted in ((ours, True), (offer(AUDIO, CHANNEL), False)):
        read = read_offer(sdp)
        aiortc_answers = re.sub(r"a=rtcp-fb:.*\r\n", "", read.sdp)
        answer = finish_answer(aiortc_answers, read)
        assert (f"a=rtcp-fb:{number[1]} nack" in answer.splitlines()) is accepted


@pytest.mark.parametrize(
    ("formats", "kept"), [("111 0 8", "111"), ("8 111", "8"), ("9 0", "0"), ("13 126 8 0", "8"), ("9 126", None)]
)
def test_of_the_codecs_for_sound_that_are_known_the_peers_first_is_taken(formats: str, kept: str | None) -> None:
    names = {"111": "opus/48000/2", "0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000", "13": "CN/8000"}
    lines = [line for line in AUDIO if not line.startswith(("m=", "a=rtpmap", "a=fmtp", "a=rtcp-fb"))]
    maps = [f"a=rtpmap:{word} {names.get(word, 'telephone-event/8000')}" for word in formats.split()]
    read = read_offer(offer([f"m=audio 9 UDP/TLS/RTP/SAVPF {formats}", *lines, *maps], CHANNEL))
    assert read.has_audio is (kept is not None)
    if kept:
        assert f"m=audio 9 UDP/TLS/RTP/SAVPF {kept}" in read.sdp.splitlines()
        assert re.findall(r"a=rtpmap:(\d+)", read.sdp) == [kept]
