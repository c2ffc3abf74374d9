from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from aiortc import RTCIceTransport

from duplex_server.config import Settings
from duplex_server.session.transport import MediaAudio, Transport
from duplex_server.transports import rtc_internals, webrtc
from duplex_server.transports.rtc_internals import IceRestart, dtls_transport
from duplex_server.transports.rtc_media import why_not_ours
from duplex_server.transports.rtc_path import MediaPath
from duplex_server.transports.webrtc import WebRtcTransport
from duplex_server.wire.events import SessionHeartbeatAck, SessionUpdate
from tests.transports import serving
from tests.transports.calling import Camera, Client, Tone, calling
from tests.transports.serving import FakeManager, Served, answer_heartbeats

pytestmark = pytest.mark.e2e


def run(scenario: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(90), serving.serving(**options) as served:
            await scenario(served)

    serving.run(main())


def level_at(pcm: np.ndarray[Any, Any], hz: float, rate_hz: int) -> float:
    """Return the greatest amplitude of one frequency within 100 ms: a busy machine may break the tone now and then."""
    windows = pcm[: len(pcm) // (rate_hz // 10) * (rate_hz // 10)].reshape(-1, rate_hz // 10)
    turn = np.exp(-2j * np.pi * hz * np.arange(rate_hz // 10) / rate_hz)
    return float(2 * np.abs((windows * turn).mean(axis=1)).max())


async def sing(transport: Transport, manager: FakeManager) -> None:
    """Send a tone of 1 kHz for two seconds while listening."""

    async def send() -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for n in range(100):
            phase = 2 * np.pi * 1000 * (480 * n + np.arange(480)) / 24_000
            transport.send_audio((0.5 * np.sin(phase)).astype(np.float32))
            due_s += 0.02
            await asyncio.sleep(due_s - loop.time())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        tasks.create_task(answer_heartbeats(transport, manager))


def without_candidates(sdp: str) -> str:
    """As a browser's offer that is posted before candidates are gathered."""
    return re.sub(r"a=(candidate:[^\r\n]*|end-of-candidates)\r\n", "", sdp)


def with_names(sdp: str) -> str:
    """As the offer of a browser that hides its addresses behind mDNS names."""
    return re.sub(r"(a=candidate:\S+ \d \w+ \d+) \S+", r"\1 5e1c0c5a-0000-4000-8000-9d7b2a3c4d5e.local", sdp)


def test_sound_goes_both_ways() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect()
            heard = await client.hear(1.5)
            await manager.until(lambda: len(manager.audio) >= 50)
        assert level_at(heard, 1000, 48_000) == pytest.approx(0.5, rel=0.1)
        microphone = np.concatenate([piece.pcm for piece in manager.audio])
        assert level_at(microphone, 440, 16_000) == pytest.approx(10_000 / 32768, rel=0.1)

    run(scenario, manager=FakeManager(conversation=sing))


def test_the_microphone_is_placed_on_its_own_clock_without_holes() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect()
            await manager.until(lambda: len(manager.audio) >= 60)
        audio: list[MediaAudio] = manager.audio
        assert audio[0].position_samples == 0
        assert [piece.position_samples for piece in audio] == [320 * n for n in range(len(audio))]

    run(scenario)


def test_events_travel_on_the_data_channel() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            await client.heartbeat()
            client.channel.send("not JSON")
            await client.until(lambda: len(client.events) == 3)
            assert client.events[2]["error"]["code"] == "invalid_json"
            client.channel.send(b"\x00")
            await client.until(lambda: len(client.events) == 4)
            assert client.events[3]["error"]["code"] == "invalid_json"
            await client.heartbeat()

    run(scenario)


def test_a_message_as_long_as_a_camera_still_arrives() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            client.send({"type": "input_image_buffer.append", "image": "A" * 200_000})
            await served.manager.until(
                lambda: any(getattr(item, "image", None) == "A" * 200_000 for item in served.manager.received)
            )

    run(scenario)


@pytest.mark.parametrize("change", [without_candidates, with_names], ids=["no candidates", "mDNS names"])
def test_an_offer_without_addresses_connects(change: Callable[[str], str]) -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect(change)
            await client.heartbeat()

    run(scenario)


def test_a_host_with_nothing_but_loopback_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifaddr.get_adapters", list)

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            assert "127.0.0.1" in client.response.text
            await client.heartbeat()

    run(scenario)


def test_the_answer_holds_what_browsers_need() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served, Tone(), Camera((0, 0, 255))) as client:
            await client.connect()
            response = client.response
            assert response.headers["Content-Type"].startswith("application/sdp")
            assert re.fullmatch(r"/v1/realtime/calls/rtc_[0-9a-f]{32}", response.headers["Location"])
            answer = response.text
            assert re.search(r"^a=candidate:", answer, re.MULTILINE)
            assert re.search(r"^a=msid:[0-9a-f-]{36} [0-9a-f-]{36}\r$", answer, re.MULTILINE)
            assert "useinbandfec=1" in answer
            assert "usedtx" not in answer
            assert "PCMU" not in answer
            assert "a=max-message-size:262144" in answer

    run(scenario)


def test_a_camera_is_seen_in_its_colours() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served, Tone(), Camera((200, 30, 30))) as client:
            await client.connect()
            await manager.until(lambda: len(manager.pictures) >= 2)
        picture = manager.pictures[0].rgb
        assert picture.shape == (240, 320, 3)
        assert np.abs(picture.mean(axis=(0, 1)) - [200, 30, 30]).max() < 12

    run(scenario)


def test_of_a_camera_only_the_key_pictures_that_were_asked_for_are_decoded() -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served, Tone(), Camera((200, 30, 30), 640, 480, per_s=30)) as client:
            await client.connect()
            await manager.until(lambda: len(manager.pictures) >= 4)
            (transport,) = manager.transports
            assert isinstance(transport, WebRtcTransport)
            media = transport._media
            assert isinstance(media, MediaPath)
            (camera,) = media._cameras.values()
            assert camera.n_decoded == camera.n_seen == len(manager.pictures)
            assert camera.n_asked >= 3
            stats = transport.stats()
            assert stats["seen_pictures"] == camera.n_seen and stats["requested_pictures"] == camera.n_asked
            assert stats["corrupt_pictures"] == 0
            assert not any(thread.name == "video-decoder" for thread in threading.enumerate()), "aiortc decodes nothing"

    run(scenario)


def test_a_large_camera_picture_is_scaled_down() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served, Tone(), Camera((0, 0, 0), 1920, 1080)) as client:
            await client.connect()
            await served.manager.until(lambda: bool(served.manager.pictures))
        assert served.manager.pictures[0].rgb.shape == (252, 448, 3)

    run(scenario)


def test_a_camera_that_nobody_here_can_decode_is_refused_and_the_call_goes_on() -> None:
    def only_vp9(sdp: str) -> str:
        return re.sub(r"(a=rtpmap:\d+) (VP8|H264|rtx)/90000", r"\1 VP9/90000", sdp)

    async def scenario(served: Served) -> None:
        async with calling(served, Tone(), Camera((0, 0, 0))) as client:
            sdp = only_vp9(await client.offer())
            response = await client.post("/v1/realtime/calls", content=sdp, headers={"Content-Type": "application/sdp"})
            assert response.status_code == 201
            assert re.search(r"^m=video 0 ", response.text, re.MULTILINE)
            kinds = re.findall(r"^m=(\w+)", response.text, re.MULTILINE)
            assert kinds == re.findall(r"^m=(\w+)", sdp, re.MULTILINE)
            bundled = re.search(r"a=group:BUNDLE (.*)\r", response.text)
            assert bundled is not None
            assert len(bundled[1].split()) == 2

    run(scenario)


def test_a_camera_can_be_added_to_a_call_that_stands() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            client.connection.addTrack(Camera((30, 200, 30)))
            response = await client.renegotiate()
            assert response.status_code == 200
            await client.accept(response.text)
            await served.manager.until(lambda: bool(served.manager.pictures))
            await client.heartbeat()

    run(scenario)


def test_a_call_moves_to_another_network_path_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gives up the sockets that carried the call; DTLS and everything above it stay."""
    monkeypatch.setattr(rtc_internals, "OLD_PATH_LINGERS_S", 0.3)

    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect()
            dtls = dtls_transport(client.connection)
            assert dtls is not None
            path = dtls.transport
            before = ports_of(path)
            restart = IceRestart(path, None)
            await restart.prepare()
            response = await client.renegotiate()
            assert response.status_code == 200
            await client.accept(response.text)
            remote = dict(re.findall(r"a=(ice-ufrag|ice-pwd):(\S+)", response.text))
            async with asyncio.TaskGroup() as tasks:
                await restart.complete(remote["ice-ufrag"], remote["ice-pwd"], tasks.create_task)
                assert not before & ports_of(path)
                n_heard = len(manager.audio)
                await client.heartbeat()
                await manager.until(lambda: len(manager.audio) > n_heard + 25)
                client.send({"type": "session.heartbeat"})
                await client.connection.close()  # the new monitor lives in this group, and ends with it
        audio = manager.audio
        assert all(
            one.position_samples + len(one.pcm) == two.position_samples for one, two in itertools.pairwise(audio)
        )

    run(scenario)


def ports_of(path: RTCIceTransport) -> set[int]:
    return {candidate.port for candidate in path.iceGatherer.getLocalCandidates()}


def test_a_new_path_that_leads_nowhere_leaves_the_call_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc_internals, "RESTART_TIMEOUT_S", 0.5)

    def with_other_credentials(sdp: str) -> str:
        return re.sub(r"a=ice-(ufrag|pwd):\S+", lambda m: f"a=ice-{m[1]}:" + "nobody" * 4, sdp)

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            (transport,) = served.manager.transports
            assert isinstance(transport, webrtc.WebRtcTransport)
            dtls = dtls_transport(transport._connection)
            assert dtls is not None
            path = dtls.transport
            before = ports_of(path)
            assert (await client.renegotiate(with_other_credentials)).status_code == 200
            assert ports_of(path) != before
            while ports_of(path) != before:  # noqa: ASYNC110 - nothing tells when it is given up
                await asyncio.sleep(0.05)
            await client.heartbeat()

    run(scenario)


def test_a_bad_offer_for_a_call_that_stands_leaves_it_as_it_was() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            response = await client.renegotiate(lambda sdp: sdp.replace("a=setup:", "a=nonsense:"))
            assert response.status_code == 400
            await client.heartbeat()

    run(scenario)


def test_the_session_that_came_with_the_offer_is_the_first_event() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            sdp = await client.offer()
            response = await client.post(
                "/v1/realtime/calls",
                files={
                    "sdp": (None, sdp, "application/sdp"),
                    "session": (None, '{"type": "realtime", "instructions": "Be kind."}', "application/json"),
                },
            )
            assert response.status_code == 201
            await client.accept(response.text)
            await client.until(lambda: bool(client.events))
            await served.manager.until(lambda: bool(served.manager.received))
        first = served.manager.received[0]
        assert isinstance(first, SessionUpdate)
        assert first.session.instructions == "Be kind."

    run(scenario)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_call_can_be_hung_up_by_request(method: str) -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            location = client.response.headers["Location"]
            if method == "POST":
                assert (await client.post(location + "/hangup")).status_code == 200
            else:
                async with httpx2.AsyncClient() as http:
                    assert (await http.delete(served.url + location)).status_code == 204
            await client.until(lambda: client.connection.connectionState == "closed")
            await served.ended("webrtc", "peer")
            assert (await client.post(location + "/hangup")).status_code == 404

    run(scenario)


def test_a_peer_that_leaves_frees_its_place() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
        await served.ended("webrtc", "peer")
        await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


def test_a_peer_that_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "PEER_SILENCE_S", 1.5)

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            vanish(client)
            await served.ended("webrtc", "vanished")
            await served.manager.until(lambda: served.manager.sessions == 0)

    run(scenario)


def vanish(client: Client) -> None:
    """Cut the client's network: nothing it sends leaves, nothing that comes is seen."""
    sctp = client.connection.sctp
    assert sctp is not None

    async def send_nothing(data: bytes, addr: tuple[str, int]) -> None:
        pass

    for protocol in sctp.transport.transport._connection._protocols:
        protocol.send_data = send_nothing  # type: ignore[method-assign]
        protocol.send_stun = lambda *_: None  # type: ignore[method-assign]
        protocol.datagram_received = lambda *_: None  # type: ignore[method-assign]


def test_a_peer_that_only_listens_is_not_taken_for_gone() -> None:
    """It sends no sound; the reports on what it hears and its ICE checks show that it is there."""

    async def scenario(served: Served) -> None:
        client = Client(served)
        client.connection.addTransceiver("audio", direction="recvonly")
        try:
            await client.connect()
            (transport,) = served.manager.transports
            assert isinstance(transport, webrtc.WebRtcTransport)
            before_s = transport.heard_s
            while transport.heard_s == before_s:  # noqa: ASYNC110 - nothing tells of an arrival
                await asyncio.sleep(0.05)
            await client.heartbeat()
        finally:
            await client.connection.close()

    run(scenario)


def test_a_peer_that_never_connects_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "CONNECT_TIMEOUT_S", 0.3)

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            response = await client.post(
                "/v1/realtime/calls", content=await client.offer(), headers={"Content-Type": "application/sdp"}
            )
            assert response.status_code == 201
            assert served.manager.sessions == 1
            await served.manager.until(lambda: served.manager.sessions == 0)
            assert not served.manager.hellos

    run(scenario)


def test_a_peer_that_reads_no_events_is_given_up() -> None:
    async def talk_for_ever(transport: Transport, manager: FakeManager) -> None:
        events = transport.events()
        transport.send(SessionHeartbeatAck())
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_count(events))
            while not reading.done():
                transport.send(SessionHeartbeatAck(event_id="x" * 20_000))
                await asyncio.sleep(0)

    async def _count(events: Any) -> int:
        return len([None async for _ in events])

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            vanish(client)
            await served.ended("webrtc", "slow")

    run(scenario, manager=FakeManager(conversation=talk_for_ever), settings=Settings(send_queue_bytes=2**20))


def test_what_was_said_last_arrives_before_the_end() -> None:
    async def say_goodbye(transport: Transport, manager: FakeManager) -> None:
        for n in range(30):
            transport.send(SessionHeartbeatAck(event_id=f"{n}" + "x" * 5000))
        await transport.close()
        await transport.close()

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            await client.until(lambda: client.connection.connectionState == "closed")
            assert len(client.events) == 30

    run(scenario, manager=FakeManager(conversation=say_goodbye))


def test_the_quality_of_the_connection_is_measured() -> None:
    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
            (transport,) = served.manager.transports
            wanted = {"jitter_ms", "rtt_ms", "received_packets"}
            while not wanted <= transport.stats().keys():  # noqa: ASYNC110 - nothing tells of new figures
                await asyncio.sleep(0.1)
            assert transport.stats()["lost_packets"] == 0
            assert 0 <= transport.stats()["rtt_ms"] < 1000
        await served.ended("webrtc", "peer")
        assert 'direction="received",transport="webrtc"' in served.metrics.render().decode()

    run(scenario, manager=FakeManager(conversation=sing))


def test_no_stun_server_is_asked_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("aioice.ice.server_reflexive_candidate", lambda *a: asked.append(a))

    async def scenario(served: Served) -> None:
        async with calling(served) as client:
            await client.connect()
        assert not asked

    run(scenario)


def preferring(codec: str) -> Callable[[str], str]:
    """As the offer of a peer that prefers a codec: a telephone gateway."""

    def change(sdp: str) -> str:
        (number,) = re.findall(rf"a=rtpmap:(\d+) {codec}/8000", sdp)
        found = re.search(r"m=audio \d+ \S+ ([\d ]+)", sdp)
        assert found is not None
        others = [word for word in found[1].split() if word != number]
        return sdp.replace(found[1], " ".join([number, *others]))

    return change


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_a_peer_that_prefers_g711_is_heard_and_answered_in_it(codec: str) -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served) as client:
            await client.connect(preferring(codec))
            assert f"{codec}/8000" in client.response.text
            assert "opus" not in client.response.text
            heard = await client.hear(1.5)
            await manager.until(lambda: len(manager.audio) >= 50)
        assert level_at(heard, 1000, 8_000) == pytest.approx(0.5, rel=0.1)
        microphone = np.concatenate([piece.pcm for piece in manager.audio])
        assert level_at(microphone, 440, 16_000) == pytest.approx(10_000 / 32768, rel=0.1)
        assert [piece.position_samples for piece in manager.audio] == [320 * n for n in range(len(manager.audio))]

    run(scenario, manager=FakeManager(conversation=sing))


@pytest.fixture
def another_aiortc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The installed aiortc is one whose insides nobody knows."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0" if name == "aiortc" else version(name))
    why_not_ours.cache_clear()
    yield
    why_not_ours.cache_clear()


@pytest.mark.usefixtures("another_aiortc")
@pytest.mark.parametrize("change", [str, preferring("PCMU")], ids=["Opus", "G.711"])
def test_an_aiortc_that_nobody_knows_carries_calls_by_itself_after_a_warning(
    change: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(served: Served) -> None:
        manager = served.manager
        async with calling(served, Tone(), Camera((200, 30, 30))) as client:
            await client.connect(change)
            heard = await client.hear(1.5)
            await manager.until(lambda: len(manager.audio) >= 50 and len(manager.pictures) > 0)
            await client.heartbeat()
            restart = await client.renegotiate(lambda sdp: re.sub(r"(a=ice-(?:ufrag|pwd):)", r"\1x", sdp))
            assert restart.status_code == 400
            (transport,) = manager.transports
            while "received_packets" not in transport.stats():  # noqa: ASYNC110 - nothing tells of new figures
                await asyncio.sleep(0.1)
        await served.ended("webrtc", "peer")
        assert 'direction="received",transport="webrtc"' in served.metrics.render().decode()
        assert level_at(heard, 1000, 48_000 if change is str else 8_000) == pytest.approx(0.5, rel=0.1)
        microphone = np.concatenate([piece.pcm for piece in manager.audio])
        assert level_at(microphone, 440, 16_000) == pytest.approx(10_000 / 32768, rel=0.1)

    run(scenario, manager=FakeManager(conversation=sing))
    assert any("aiortc 2.0.0 is installed" in record.message for record in caplog.records)
