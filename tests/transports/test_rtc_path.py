"""Our own media path against aiortc as it is: what is on the wire, byte for byte."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiortc import RTCDtlsTransport
from aiortc.rtp import RTCP_RTPFB_NACK, RtcpRtpfbPacket

from duplex_server.media.rtcp import (
    Goodbye,
    Nack,
    ReceiverReport,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    parse_rtcp,
)
from duplex_server.media.rtp import RtpPacket, parse_rtp, signed32
from duplex_server.session.transport import Transport
from duplex_server.transports.rtc_internals import dtls_transport
from duplex_server.transports.rtc_speaker import SILENCE_PACKETS
from duplex_server.transports.webrtc import WebRtcTransport
from duplex_server.wire.events import SessionHeartbeatAck
from tests.transports import serving
from tests.transports.calling import Client, calling
from tests.transports.serving import FakeManager, Served

pytestmark = pytest.mark.e2e

SPOKEN_TICKS = 25


def run(scenario: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), serving.serving(**options) as served:
            await scenario(served)

    serving.run(main())


async def speak_when_asked(transport: Transport, manager: FakeManager) -> None:
    """Speak half a second for each event of the peer's; note everything."""
    transport.send(SessionHeartbeatAck())
    phase = 2 * np.pi * 1000 * np.arange(480) / 24_000
    async for received in transport.events():
        manager.note(received)
        if type(received).__name__ != "SessionHeartbeat":
            continue
        due_s = asyncio.get_running_loop().time()
        for _ in range(SPOKEN_TICKS):
            transport.send_audio((0.3 * np.sin(phase)).astype(np.float32))
            due_s += 0.02
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())


class Wiretap:
    """Sees every packet that an aiortc client receives, decrypted; and may lose some that it sends or receives."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.rtp: list[RtpPacket] = []
        self.compounds: list[list[RtcpPacket]] = []
        self.change = asyncio.Event()
        dtls = dtls_transport(client.connection)
        assert dtls is not None
        self.dtls: RTCDtlsTransport = dtls
        handle_rtp, handle_rtcp, send_rtp = dtls._handle_rtp_data, dtls._handle_rtcp_data, dtls._send_rtp
        self.lose: Callable[[RtpPacket], bool] = lambda packet: False
        self.miss: Callable[[RtpPacket], bool] = lambda packet: False  # its payload is encrypted

        async def see_rtp(data: bytes, arrival_time_ms: int) -> None:
            self.rtp.append(parse_rtp(data))
            self.change.set()
            await handle_rtp(data, arrival_time_ms)

        async def see_rtcp(data: bytes) -> None:
            self.compounds.append(parse_rtcp(data))
            self.change.set()
            await handle_rtcp(data)

        async def send(data: bytes) -> None:
            if 192 <= data[1] <= 223 or not self.lose(parse_rtp(data)):
                await send_rtp(data)

        path = dtls.transport._connection
        receive = path.data_received

        def arrive(data: bytes, component: int) -> None:
            if not 127 < data[0] < 192 or 192 <= data[1] <= 223 or not self.miss(parse_rtp(data)):
                receive(data, component)

        vars(path)["data_received"] = arrive
        vars(dtls).update(_handle_rtp_data=see_rtp, _handle_rtcp_data=see_rtcp, _send_rtp=send)

    @property
    def rtcp(self) -> list[RtcpPacket]:
        return [packet for compound in self.compounds for packet in compound]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.change.clear()
            await self.change.wait()


def test_speech_is_one_marked_spurt_and_nothing_is_sent_between_spurts() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            tap = Wiretap(client)
            await asyncio.sleep(0.5)
            assert not tap.rtp, "the model is silent"
            for spurt in (1, 2):
                client.send({"type": "session.heartbeat"})
                whole = SPOKEN_TICKS + SILENCE_PACKETS
                await tap.until(lambda: len(tap.rtp) >= spurt * whole)  # noqa: B023
                await asyncio.sleep(0.3)
                assert len(tap.rtp) == spurt * whole
            first = tap.rtp[0]
            assert [n for n, packet in enumerate(tap.rtp) if packet.marker] == [0, whole]
            assert [packet.sequence_number for packet in tap.rtp] == [
                (first.sequence_number + n) % 65536 for n in range(2 * whole)
            ]
            stamps = [signed32(packet.timestamp - first.timestamp) for packet in tap.rtp]
            assert stamps[:whole] == [960 * n for n in range(whole)]
            assert stamps[whole] > stamps[whole - 1] + 960, "the clock went on"
            described = re.search(r"^a=ssrc:(\d+) cname:", client.response.text, re.MULTILINE)
            assert described is not None
            assert {packet.ssrc for packet in tap.rtp} == {int(described[1])}

    run(scenario, manager=FakeManager(conversation=speak_when_asked))


def test_reports_name_the_streams_and_what_arrived_and_the_end_is_told() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            tap = Wiretap(client)
            await tap.until(lambda: len(tap.compounds) >= 1)
            assert isinstance(tap.compounds[0][0], ReceiverReport), "nothing was sent yet"
            client.send({"type": "session.heartbeat"})
            await tap.until(lambda: sum(isinstance(packet, SenderReport) for packet in tap.rtcp) >= 2)
            described = re.search(r"^a=ssrc:(\d+) cname:(\S+)", client.response.text, re.MULTILINE)
            assert described is not None
            report = [packet for packet in tap.rtcp if isinstance(packet, SenderReport)][-1]
            assert report.ssrc == int(described[1])
            assert report.n_packets == len(tap.rtp)
            assert report.n_payload_bytes == sum(len(packet.payload) for packet in tap.rtp)
            named = next(packet for packet in tap.rtcp if isinstance(packet, SourceDescription))
            assert named.cnames == ((int(described[1]), described[2]),)
            (sender,) = client.connection.getSenders()
            (block,) = report.blocks
            assert block.ssrc == sender._ssrc
            assert block.cumulative_lost == 0
            assert block.last_sender_report
            assert (await client.post(client.response.headers["Location"] + "/hangup")).status_code == 200
            await tap.until(lambda: any(isinstance(packet, Goodbye) for packet in tap.rtcp))

    run(scenario, manager=FakeManager(conversation=speak_when_asked))


def test_the_time_in_reports_is_that_of_the_timestamps() -> None:
    """Browsers lay sound and pictures side by side by it."""

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            tap = Wiretap(client)
            client.send({"type": "session.heartbeat"})
            await tap.until(lambda: sum(isinstance(packet, SenderReport) for packet in tap.rtcp) >= 3)
            first, *_, last = [packet for packet in tap.rtcp if isinstance(packet, SenderReport)]
            elapsed_s = (last.ntp - first.ntp) / 2**32
            assert signed32(last.rtp_timestamp - first.rtp_timestamp) / 48_000 == pytest.approx(elapsed_s, abs=0.001)

    run(scenario, manager=FakeManager(conversation=speak_when_asked))


def test_a_packet_that_the_peer_misses_is_sent_again() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            tap = Wiretap(client)
            missed: list[RtpPacket] = []

            def miss(packet: RtpPacket) -> bool:
                if len(tap.rtp) == 5 and not missed:
                    missed.append(packet)
                    return True
                return False

            tap.miss = miss
            client.send({"type": "session.heartbeat"})
            await tap.until(lambda: len(tap.rtp) >= 10)
            number = missed[0].sequence_number
            assert number not in [packet.sequence_number for packet in tap.rtp]
            request = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=missed[0].ssrc, lost=[number])
            await tap.dtls._send_rtp(bytes(request))
            await tap.until(lambda: number in [packet.sequence_number for packet in tap.rtp])
            (transport,) = served.manager.transports
            assert transport.stats()["resent_packets"] == 1

    run(scenario, manager=FakeManager(conversation=speak_when_asked))


def with_nack(sdp: str) -> str:
    """As a browser that is told to send lost packets of sound again."""
    return re.sub(r"(a=rtpmap:(\d+) opus/48000/2\r\n)", r"\1a=rtcp-fb:\2 nack\r\n", sdp)


def test_what_the_peer_loses_is_asked_for_if_it_would_answer_and_then_nothing_is_missing() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect(with_nack)
            assert re.search(r"^a=rtcp-fb:\d+ nack\r$", client.response.text, re.MULTILINE)
            tap = Wiretap(client)
            await manager.until(lambda: len(manager.audio) > 5)
            seen: set[int] = set()

            def lose(packet: RtpPacket) -> bool:
                """Lose every eighth packet, when it is sent for the first time."""
                first_time = packet.sequence_number not in seen
                seen.add(packet.sequence_number)
                return first_time and packet.sequence_number % 8 == 0

            tap.lose = lose
            n_heard = len(manager.audio)
            await manager.until(lambda: len(manager.audio) > n_heard + 60)
            (transport,) = manager.transports
            assert any(isinstance(packet, Nack) for packet in tap.rtcp)
            assert transport.stats()["requested_packets"] >= 7
            assert transport.stats()["lost_packets"] <= 1, "a frozen machine may be late with one"

    run(scenario)


def test_nothing_is_asked_of_a_peer_that_would_not_answer() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect()
            tap = Wiretap(client)
            tap.lose = lambda packet: packet.sequence_number % 8 == 0
            await manager.until(lambda: len(manager.audio) > 60)
            (transport,) = manager.transports
            stats = transport.stats()
            assert stats["lost_packets"] >= 5
            assert stats["concealed_ms"] >= 20 * stats["lost_packets"] - 1
            assert not any(isinstance(packet, Nack) for packet in tap.rtcp)
            ends = [piece.position_samples + len(piece.pcm) for piece in manager.audio]
            assert [piece.position_samples for piece in manager.audio[1:]] == ends[:-1], "no holes"

    run(scenario)


def test_aiortc_runs_no_thread_and_no_task_for_media_that_we_carry() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            await served.manager.until(lambda: len(served.manager.audio) > 5)
            decoders = [thread for thread in threading.enumerate() if thread.name == "audio-decoder"]
            assert len(decoders) == 1, "the client's"
            running = [str(task.get_coro()) for task in asyncio.all_tasks()]
            assert sum("RTCRtpSender._run_rtp" in name for name in running) == 1
            assert sum("RTCRtpSender._run_rtcp" in name for name in running) == 1
            assert sum("RTCRtpReceiver._run_rtcp" in name for name in running) == 1

    run(scenario)


@pytest.mark.parametrize("garbage", [b"", b"\x80" * 12, bytes([128]) * 3000, b"\x16" * 40, b"\x01" * 20], ids=len)
def test_garbage_on_its_port_leaves_a_call_as_it_is(garbage: bytes) -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            (transport,) = served.manager.transports
            assert isinstance(transport, WebRtcTransport)
            dtls = dtls_transport(transport._connection)
            assert dtls is not None
            loop = asyncio.get_running_loop()
            for candidate in dtls.transport.iceGatherer.getLocalCandidates():
                if ":" in candidate.ip:
                    continue
                stranger, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=(candidate.ip, candidate.port)
                )
                for _ in range(5):
                    stranger.sendto(garbage)
                stranger.close()
            await asyncio.sleep(0.1)
            await client.heartbeat()
            n_heard = len(served.manager.audio)
            await served.manager.until(lambda: len(served.manager.audio) > n_heard + 5)

    run(scenario)
