from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.media.rtcp import SenderReport, ntp_of
from duplex_server.media.rtp import RtpPacket
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_audio import Microphone
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_receiving import MAX_STREAMS, Ear, Receiving
from tests.helpers.virtual_time import run
from tests.transports.test_rtc_speaker import tone

OPUS, VP8 = 111, 96


class Sink:
    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    def add(self, packet: RtpPacket, now_s: float) -> None:
        self.packets.append(packet)


def packet(number: int, *, payload_type: int = OPUS, ssrc: int = 1, payload: bytes = b"x") -> RtpPacket:
    return RtpPacket(payload_type, False, number, number * 960, ssrc, payload)


def test_packets_go_by_what_the_peer_described_and_else_by_their_type() -> None:
    receiving = Receiving()
    microphone, other, camera = Sink(), Sink(), Sink()
    receiving.expect(microphone, 48_000, [OPUS], [])
    receiving.expect(other, 48_000, [OPUS], [2])
    receiving.expect(camera, 90_000, [VP8], [])
    for ssrc, payload_type in ((1, OPUS), (2, OPUS), (3, VP8), (4, 13)):
        receiving.take(packet(7, ssrc=ssrc, payload_type=payload_type), 0.0)
    assert [sink.packets[0].ssrc for sink in (microphone, other, camera)] == [1, 2, 3]
    assert [block.ssrc for block in receiving.blocks(1.0)] == [1, 2, 3]


def test_what_is_received_is_reported() -> None:
    receiving, sink = Receiving(), Sink()
    receiving.expect(sink, 48_000, [OPUS], [])
    for n in (0, 1, 2, 4):
        receiving.take(packet(n), n * 0.02)
    receiving.hear(SenderReport(1, ntp_of(5.0), 0, 0, 0), 1.0)
    (block,) = receiving.blocks(1.5)
    assert (block.cumulative_lost, block.extended_highest, block.jitter) == (1, 4, 0)
    assert block.since_sender_report == 65536 // 2
    assert [reception.n_received for reception in receiving.of(sink)] == [4]


def test_a_new_description_forgets_no_counts() -> None:
    receiving, sink = Receiving(), Sink()
    receiving.expect(sink, 48_000, [OPUS], [])
    receiving.take(packet(0), 0.0)
    receiving.forget()
    receiving.expect(sink, 48_000, [OPUS], [])
    receiving.take(packet(1), 0.02)
    assert [reception.n_received for reception in receiving.of(sink)] == [2]


def test_a_peer_that_names_many_streams_costs_bounded_memory() -> None:
    receiving, sink = Receiving(), Sink()
    receiving.expect(sink, 48_000, [OPUS], [])
    for ssrc in range(1000):
        receiving.take(packet(0, ssrc=ssrc), 0.0)
    assert len(receiving.blocks(0.0)) == MAX_STREAMS


def speech(n: int) -> list[RtpPacket]:
    encoder = OpusEncoder()
    return [packet(k, payload=encoder.encode(tick)) for k, tick in enumerate(tone(n).reshape(n, 480))]


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "not asked"])
def test_a_missing_packet_is_asked_for_and_its_loss_holds_nothing_up_for_long(answers: bool) -> None:
    asked: list[tuple[int, Sequence[int]]] = []
    audio: list[tuple[float, MediaAudio]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        microphone = Microphone(lambda piece: audio.append((loop.time(), piece)), OpusDecoder, OPUS)
        ask = (lambda ssrc, numbers: asked.append((ssrc, numbers))) if answers else None
        ear = Ear(microphone, Pacer(), ask, lambda: 0.01)
        sent = speech(20)
        for piece in [*sent[:10], *sent[11:15]]:
            ear.add(piece, loop.time())
            if piece.sequence_number == 11 and answers:
                await asyncio.sleep(0.01)
                ear.add(sent[10], loop.time())
                await asyncio.sleep(0.01)
            else:
                await asyncio.sleep(0.02)
        ear.add(sent[16], loop.time())  # and nothing after it
        await asyncio.sleep(1)
        ear.close()

    run(scenario())
    assert ((1, [10]) in asked) is answers
    assert audio[-1][1].position_samples == 16 * 320
    ends = [piece.position_samples + len(piece.pcm) for _, piece in audio]
    assert [piece.position_samples for _, piece in audio[1:]] == ends[:-1], "no holes"
    assert audio[-1][0] - audio[-3][0] < 0.2, "patience ends"
