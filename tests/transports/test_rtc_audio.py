from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_audio import MAX_QUEUED_PACKETS, SILENCE_PACKETS, Microphone, Speaker
from duplex_server.types import Pcm
from tests.helpers.virtual_time import run

TICK_S = 0.02


@dataclass
class Packet:
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes


def tone(n_ticks: int) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(n_ticks * 480) / 24_000)).astype(np.float32)


def packets(n: int, *, first: int = 100, stamp: int = 5000, ssrc: int = 1) -> list[Packet]:
    encoder = OpusEncoder()
    ticks = tone(n).reshape(n, 480)
    return [Packet((first + k) % 65536, (stamp + 960 * k) % 2**32, ssrc, encoder.encode(ticks[k])) for k in range(n)]


def heard(arriving: Iterable[Packet], wait_s: float = 0.0) -> tuple[list[MediaAudio], Microphone]:
    """Play packets to a microphone at the pace of 20 ms each, then wait."""

    async def scenario() -> tuple[list[MediaAudio], Microphone]:
        audio: list[MediaAudio] = []
        microphone = Microphone(audio.append)
        for packet in arriving:
            assert microphone.add(packet) == (False, None)
            await asyncio.sleep(TICK_S)
        await asyncio.sleep(wait_s)
        microphone.close()
        return audio, microphone

    return run(scenario())


def spans(audio: list[MediaAudio]) -> list[tuple[int, int]]:
    return [(piece.position_samples, piece.position_samples + len(piece.pcm)) for piece in audio]


def assert_seamless(audio: list[MediaAudio], n_packets: int) -> None:
    assert spans(audio)[0][0] == 0
    assert spans(audio)[-1][1] == n_packets * 320
    assert all(one[1] == two[0] for one, two in itertools.pairwise(spans(audio)))


def test_a_packet_is_delivered_when_it_arrives() -> None:
    async def scenario() -> None:
        audio: list[MediaAudio] = []
        microphone = Microphone(audio.append)
        for count, packet in enumerate(packets(10), 1):
            microphone.add(packet)
            assert len(audio) == count

    run(scenario())


def test_positions_count_from_the_first_packet_and_survive_wraps() -> None:
    audio, microphone = heard(packets(20, first=65530, stamp=2**32 - 4000))
    assert_seamless(audio, 20)
    assert microphone.n_lost == 0


def test_the_sound_is_what_was_spoken() -> None:
    audio, _ = heard(packets(50))
    pcm = np.concatenate([piece.pcm for piece in audio])
    assert np.sqrt(np.mean(pcm[3200:] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_lost_packet_is_concealed_and_delays_nothing_that_follows() -> None:
    sent = packets(30)
    audio, microphone = heard(sent[:10] + sent[11:])
    assert_seamless(audio, 30)
    assert microphone.n_lost == 1


def test_reordered_packets_are_heard_in_order() -> None:
    sent = packets(12)
    audio, microphone = heard([*sent[:4], sent[5], sent[4], sent[6], sent[8], sent[9], sent[7], *sent[10:]])
    assert_seamless(audio, 12)
    assert microphone.n_lost == 0


def test_a_long_loss_leaves_a_hole_in_its_place() -> None:
    sent = packets(40)
    audio, microphone = heard(sent[:10] + sent[20:])
    assert (10 * 320, 20 * 320) in [(one[1], two[0]) for one, two in itertools.pairwise(spans(audio))]
    assert microphone.n_lost == 10


def test_what_waits_for_a_lost_packet_is_heard_even_if_nothing_follows() -> None:
    sent = packets(12)
    audio, _ = heard([*sent[:10], sent[11]], wait_s=0.1)
    assert_seamless(audio, 12)


def test_a_pause_of_the_sender_keeps_its_length() -> None:
    before, after = packets(5), packets(5, first=105, stamp=5000 + 48_000)
    audio, microphone = heard(before + after)
    assert spans(audio)[5][0] == 16_000
    assert microphone.n_lost == 0


def test_a_new_stream_goes_on_by_the_time_of_its_arrival() -> None:
    audio, _ = heard(packets(5) + packets(5, first=9000, stamp=77, ssrc=2))
    assert_seamless(audio, 10)


def test_a_timestamp_that_makes_no_sense_is_replaced_by_the_time_of_arrival() -> None:
    strange = packets(5, first=105, stamp=2**31)
    audio, _ = heard(packets(5) + strange)
    assert_seamless(audio, 10)


def test_rubbish_between_packets_is_counted_and_skipped() -> None:
    sent = packets(10)
    sent[4].payload = b"\xff"
    audio, microphone = heard(sent)
    assert len(audio) == 9
    assert microphone.n_corrupt == 1
    assert spans(audio)[4][0] == 5 * 320


async def collect(speaker: Speaker, into: list[tuple[float, int, bytes]]) -> None:
    """Do as aiortc's sender does: take packets as they come; note the loop time, the timestamp and the payload."""
    began_s = asyncio.get_running_loop().time()
    while True:
        packet = await speaker.recv()
        assert packet.pts is not None
        into.append((asyncio.get_running_loop().time() - began_s, packet.pts, bytes(packet)))


async def speak(speaker: Speaker, n_ticks: int) -> None:
    for tick in tone(n_ticks).reshape(n_ticks, 480):
        speaker.push(tick)
        await asyncio.sleep(TICK_S)


def test_speech_is_followed_by_200_ms_of_silence_and_then_by_nothing() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 25)
            await asyncio.sleep(5)
            collecting.cancel()
        return sent

    sent = run(scenario())
    assert len(sent) == 25 + SILENCE_PACKETS
    assert [stamp for _, stamp, _ in sent] == [960 * k for k in range(35)]
    decoder = OpusDecoder()
    levels = [float(np.sqrt(np.mean(decoder.decode(payload) ** 2))) for _, _, payload in sent]
    assert min(levels[2:25]) > 0.15
    assert max(levels[27:]) < 0.001


def test_timestamps_follow_the_clock_through_silence() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            for _ in range(3):
                await speak(speaker, 5)
                await asyncio.sleep(7.3)
            collecting.cancel()
        return sent

    for at_s, stamp, _ in run(scenario()):
        assert abs(at_s - stamp / 48_000) <= 0.06


def test_ticks_that_come_in_a_burst_after_a_stall_keep_their_places() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 5)
            for tick in tone(5).reshape(5, 480):
                speaker.push(tick)
            await asyncio.sleep(TICK_S)
            collecting.cancel()
        return sent

    assert [stamp for _, stamp, _ in run(scenario())] == [960 * k for k in range(10)]


def test_a_cut_sends_silence_at_once() -> None:
    async def scenario() -> list[tuple[float, int, bytes]]:
        sent: list[tuple[float, int, bytes]] = []
        speaker = Speaker()
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(speaker, sent))
            await speak(speaker, 5)
            speaker.clear()
            await asyncio.sleep(1)
            collecting.cancel()
        return sent

    sent = run(scenario())
    assert len(sent) == 5 + SILENCE_PACKETS
    assert sent[5][0] == pytest.approx(5 * TICK_S)


def test_a_cut_drops_what_has_not_left() -> None:
    async def scenario() -> list[int | None]:
        speaker = Speaker()
        for tick in tone(5).reshape(5, 480):
            speaker.push(tick)
        speaker.clear()
        return [(await speaker.recv()).pts for _ in range(SILENCE_PACKETS)]

    assert run(scenario()) == [960 * k for k in range(SILENCE_PACKETS)]


def test_a_sender_that_takes_nothing_costs_bounded_memory() -> None:
    async def scenario() -> int:
        speaker = Speaker()
        for tick in tone(200).reshape(200, 480):
            speaker.push(tick)
        return len(speaker._queue)

    assert run(scenario()) == MAX_QUEUED_PACKETS
