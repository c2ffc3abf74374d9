from __future__ import annotations

from duplex_server.transports.rtc_streams import Stream, read_streams

SDP = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "a=group:BUNDLE 0 1 2",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 0 126",
        "a=mid:0",
        "a=sendrecv",
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:111 transport-cc",
        "a=rtcp-fb:111 nack",
        "a=rtpmap:0 PCMU/8000",
        "a=ssrc:4000000000 cname:somebody",
        "a=ssrc:4000000000 msid:s t",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "a=mid:1",
        "a=recvonly",
        "a=rtpmap:96 VP8/90000",
        "a=rtcp-fb:96 nack pli",
        "a=rtpmap:97 rtx/90000",
        "a=ssrc:5 cname:somebody",
        "a=ssrc:6 cname:somebody",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "a=mid:2",
        "",
    ]
)


def test_sections_say_what_their_streams_are() -> None:
    assert read_streams(SDP) == [
        Stream("0", "audio", {111: "opus", 0: "pcmu"}, True, (4_000_000_000,), "somebody", frozenset({111})),
        Stream("1", "video", {96: "vp8", 97: "rtx"}, False, (5, 6), "somebody", frozenset()),
        Stream("2", "application", {}, True, (), "", frozenset()),
    ]


def test_the_order_of_codecs_is_that_of_preference() -> None:
    turned = SDP.replace("SAVPF 111 0 126", "SAVPF 0 111 126")
    assert list(read_streams(turned)[0].codecs) == [0, 111]


def test_nack_for_all_codecs() -> None:
    assert read_streams(SDP.replace("a=rtcp-fb:111 nack", "a=rtcp-fb:* nack"))[0].repairs == {111, 0}


def test_a_description_without_media() -> None:
    assert read_streams("v=0\r\n") == []
