from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.media.rtp import RtpPacket
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_audio import Microphone
from duplex_server.types import Pcm

TICK_S = 0.02
OPUS = 111


def tone(n_ticks: int) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(n_ticks * 480) / 24_000)).astype(np.float32)


def packets(n: int, *, first: int = 100, stamp: int = 5000, ssrc: int = 1) -> list[RtpPacket]:
    encoder = OpusEncoder()
    payloads = map(encoder.encode, tone(n).reshape(n, 480))
    return [
        RtpPacket(OPUS, False, (first + k) % 65536, (stamp + 960 * k) % 2**32, ssrc, payload)
        for k, payload in enumerate(payloads)
    ]


def heard(arriving: Iterable[RtpPacket], wait_s: float = 0.0) -> tuple[list[MediaAudio], Microphone]:
    """Play packets to a microphone at the pace of 20 ms each, then wait."""
    audio: list[MediaAudio] = []
    microphone = Microphone(audio.append, OpusDecoder, OPUS)
    now_s = 100.0
    for packet in arriving:
        microphone.add(packet, now_s)
        now_s += TICK_S
        if microphone.due_s is not None and microphone.due_s <= now_s:
            microphone.advance(now_s)
    microphone.advance(now_s + wait_s)
    return audio, microphone


def spans(audio: list[MediaAudio]) -> list[tuple[int, int]]:
    return [(piece.position_samples, piece.position_samples + len(piece.pcm)) for piece in audio]


def assert_seamless(audio: list[MediaAudio], n_packets: int) -> None:
    assert spans(audio)[0][0] == 0
    assert spans(audio)[-1][1] == n_packets * 320
    assert all(one[1] == two[0] for one, two in itertools.pairwise(spans(audio)))


def test_a_packet_is_delivered_when_it_arrives() -> None:
    audio: list[MediaAudio] = []
    microphone = Microphone(audio.append, OpusDecoder, OPUS)
    for count, packet in enumerate(packets(10), 1):
        microphone.add(packet, 100.0 + TICK_S * count)
        assert len(audio) == count


def test_positions_count_from_the_first_packet_and_survive_wraps() -> None:
    audio, microphone = heard(packets(20, first=65530, stamp=2**32 - 4000))
    assert_seamless(audio, 20)
    assert microphone.buffer.n_lost == 0


def test_the_sound_is_what_was_spoken() -> None:
    audio, _ = heard(packets(50))
    pcm = np.concatenate([piece.pcm for piece in audio])
    assert np.sqrt(np.mean(pcm[3200:] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_lost_packet_is_concealed_and_delays_nothing_that_follows() -> None:
    sent = packets(30)
    audio, microphone = heard(sent[:10] + sent[11:])
    assert_seamless(audio, 30)
    assert microphone.buffer.n_lost == 1


def test_reordered_packets_are_heard_in_order() -> None:
    sent = packets(12)
    audio, microphone = heard([*sent[:4], sent[5], sent[4], sent[6], sent[8], sent[9], sent[7], *sent[10:]])
    assert_seamless(audio, 12)
    assert microphone.buffer.n_lost == 0


def test_a_long_loss_leaves_a_hole_in_its_place() -> None:
    sent = packets(40)
    audio, microphone = heard(sent[:10] + sent[20:])
    assert (10 * 320, 20 * 320) in [(one[1], two[0]) for one, two in itertools.pairwise(spans(audio))]
    assert microphone.buffer.n_lost == 10


def test_what_waits_for_a_lost_packet_is_heard_even_if_nothing_follows() -> None:
    sent = packets(12)
    audio, _ = heard([*sent[:10], sent[11]], wait_s=0.1)
    assert_seamless(audio, 12)


def test_a_pause_of_the_sender_keeps_its_length() -> None:
    before, after = packets(5), packets(5, first=105, stamp=5000 + 48_000)
    audio, microphone = heard(before + after)
    assert spans(audio)[5][0] == 16_000
    assert microphone.buffer.n_lost == 0


def test_a_new_stream_goes_on_by_the_time_of_its_arrival() -> None:
    audio, _ = heard(packets(5) + packets(5, first=9000, stamp=77, ssrc=2))
    assert_seamless(audio, 10)


def test_a_timestamp_that_makes_no_sense_is_replaced_by_the_time_of_arrival() -> None:
    strange = packets(5, first=105, stamp=2**31)
    audio, _ = heard(packets(5) + strange)
    assert_seamless(audio, 10)


def test_rubbish_between_packets_is_counted_and_skipped() -> None:
    sent = packets(10)
    sent[4] = sent[4]._replace(payload=b"\xff")
    audio, microphone = heard(sent)
    assert len(audio) == 9
    assert microphone.n_corrupt == 1
    assert spans(audio)[4][0] == 5 * 320
