"""A real Chromium as WebRTC peer: what it makes of our answers, which aiortc's own client would forgive."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page, async_playwright

from duplex_server.media.video_picker import SHORT_CHAIN
from duplex_server.session.transport import Transport
from duplex_server.transports.rtc_path import MediaPath
from duplex_server.transports.webrtc import WebRtcTransport
from tests.transports.serving import FakeManager, Served, answer_heartbeats, run, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]

SCRIPT = """
const events = [], streams = [];
let peer, channel, call;

async function post(path, description) {
  const headers = {"Content-Type": "application/sdp"};
  const response = await fetch(path, {method: "POST", headers, body: description.sdp});
  if (!response.ok) throw new Error(await response.text());
  call ??= response.headers.get("Location");
  await peer.setRemoteDescription({type: "answer", sdp: await response.text()});
}

async function negotiate(options) {
  const {type, sdp} = await peer.createOffer(options);
  const repair = (map, number) => window.repairs ? `${map}a=rtcp-fb:${number} nack\\r\\n` : map;
  await peer.setLocalDescription({type, sdp: sdp.replace(/a=rtpmap:(\\d+) opus\\/48000.*\\r\\n/, repair)});
  await post(call ?? "/v1/realtime/calls", peer.localDescription);  // at once: the offer has no candidates yet
}

window.connect = async (camera) => {
  const media = await navigator.mediaDevices.getUserMedia({audio: true, video: camera !== ""});
  peer = new RTCPeerConnection();
  channel = peer.createDataChannel("oai-events");
  channel.onmessage = (message) => events.push(JSON.parse(message.data));
  peer.ontrack = (track) => {
    streams.push(track.streams.length);
    const player = new Audio();
    player.srcObject = track.streams[0];
    player.play();
  };
  for (const track of media.getTracks()) {
    const transceiver = peer.addTransceiver(track, {streams: [media]});
    if (track.kind === "video") {
      const {codecs} = RTCRtpReceiver.getCapabilities("video");
      transceiver.setCodecPreferences(codecs.filter((codec) => codec.mimeType === camera));
    }
  }
  await negotiate();
};
window.addCamera = async () => {
  const media = await navigator.mediaDevices.getUserMedia({video: true});
  peer.addTransceiver(media.getVideoTracks()[0], {streams: [media], direction: "sendonly"});
  await negotiate();
};
window.moveAway = () => negotiate({iceRestart: true});
window.stopCamera = async () => {
  peer.getTransceivers().find((transceiver) => transceiver.sender.track?.kind === "video").stop();
  await negotiate();
};
window.heartbeat = () => channel.send(JSON.stringify({type: "session.heartbeat"}));
window.leave = () => peer.close();
window.state = async () => {
  const reports = [...(await peer.getStats()).values()];
  const heard = reports.find((report) => report.type === "inbound-rtp" && report.kind === "audio");
  const shown = reports.find((report) => report.type === "outbound-rtp" && report.kind === "video");
  const transport = reports.find((report) => report.type === "transport");
  return {
    connection: peer.connectionState, events: events.length, streams,
    energy: heard?.totalAudioEnergy ?? 0, seconds: heard?.totalSamplesDuration ?? 0, lost: heard?.packetsLost ?? 0,
    concealed: heard ? heard.concealedSamples - heard.silentConcealedSamples : 0,
    pictures: shown?.framesEncoded ?? 0, keys: shown?.keyFramesEncoded ?? 0, asked: shown?.pliCount ?? 0,
    pair: transport?.selectedCandidatePairId ?? "", maxMessage: peer.sctp?.maxMessageSize ?? 0,
    directions: peer.getTransceivers().map((transceiver) => transceiver.currentDirection),
    codecs: reports.filter((one) => one.type === "codec").map((codec) => `${codec.mimeType} ${codec.sdpFmtpLine}`),
  };
};
"""


@asynccontextmanager
async def browsing(served: Served) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=FLAGS)
        try:
            page = await browser.new_page()
            await page.goto(served.url)
            yield page
        finally:
            await browser.close()


async def state_of(page: Page) -> dict[str, Any]:
    state: dict[str, Any] = await page.evaluate("state()")
    return state


async def until(page: Page, expression: str) -> None:
    """Wait until an expression is true in the page, whose policy forbids Playwright's own way of waiting."""
    while not await page.evaluate(expression):  # noqa: ASYNC110 - the page is another process
        await asyncio.sleep(0.05)


async def sing(transport: Transport, manager: FakeManager) -> None:
    async def send() -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for n in range(1500):
            phase = 2 * np.pi * 1000 * (480 * n + np.arange(480)) / 24_000
            transport.send_audio((0.5 * np.sin(phase)).astype(np.float32))
            due_s += 0.02
            await asyncio.sleep(due_s - loop.time())

    async with asyncio.TaskGroup() as tasks:
        singing = tasks.create_task(send())
        await answer_heartbeats(transport, manager)
        singing.cancel()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<!doctype html><title>peer</title><script src=peer.js></script>")
    (tmp_path / "peer.js").write_text(SCRIPT)
    return tmp_path


def test_a_browser_that_posts_its_offer_before_it_knows_its_addresses(folder: Path) -> None:
    async def main() -> None:
        manager = FakeManager(conversation=sing)
        async with serving(manager, page_folder=folder) as served, browsing(served) as page:
            await page.evaluate("connect('video/VP8')")
            await until(page, "events.length === 1")
            await page.evaluate("heartbeat()")
            await until(page, "events.length === 2")
            await until(page, "state().then((s) => s.energy > 0.05)")
            await manager.until(lambda: len(manager.audio) > 50 and len(manager.pictures) > 1)
            state = await state_of(page)
            assert state["connection"] == "connected"
            assert state["streams"][0] == 1
            assert state["maxMessage"] == 262_144
            assert any("opus" in codec and "useinbandfec=1" in codec for codec in state["codecs"])
            assert max(float(np.abs(piece.pcm).max()) for piece in manager.audio) > 0.01
            assert manager.pictures[0].rgb.std() > 1
            await page.evaluate("leave()")
            await served.ended("webrtc", "peer")

    run(main())


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_a_browsers_camera_gives_a_key_picture_for_each_look(folder: Path, codec: str) -> None:
    async def main() -> None:
        manager = FakeManager()
        async with serving(manager, page_folder=folder) as served, browsing(served) as page:
            await page.evaluate(f"connect('video/{codec}')")
            await manager.until(lambda: len(manager.pictures) >= 6)
            state = await state_of(page)
            (transport,) = manager.transports
            assert isinstance(transport, WebRtcTransport)
            assert isinstance(transport._media, MediaPath)
            (camera,) = transport._media._cameras.values()
            assert state["pictures"] > 2 * camera.n_decoded, "most pictures are dropped as they came"
            assert camera.n_decoded <= camera.n_seen + SHORT_CHAIN
            assert state["asked"] >= 3
            assert state["keys"] >= 3
            assert camera.n_corrupt == 0
            assert manager.pictures[-1].rgb.std() > 1

    run(main())


def test_a_browser_with_a_camera_that_nobody_here_can_decode_is_heard_all_the_same(folder: Path) -> None:
    async def main() -> None:
        manager = FakeManager()
        async with serving(manager, page_folder=folder) as served, browsing(served) as page:
            await page.evaluate("connect('video/AV1')")
            await until(page, "events.length === 1")
            await manager.until(lambda: len(manager.audio) > 20)
            state = await state_of(page)
            assert state["directions"] == ["sendrecv"]

    run(main())


def test_a_browser_changes_its_call_while_it_stands(folder: Path) -> None:
    """Adds a camera, moves to another path, and gives the camera up."""

    async def main() -> None:
        manager = FakeManager(conversation=sing)
        async with serving(manager, page_folder=folder) as served, browsing(served) as page:
            await page.evaluate("connect('')")
            await until(page, "events.length === 1")
            await page.evaluate("addCamera()")
            await manager.until(lambda: len(manager.pictures) > 1)

            before = (await state_of(page))["pair"]
            await page.evaluate("moveAway()")
            await until(page, f"state().then((s) => s.pair !== '{before}' && s.connection === 'connected')")
            heard = (await state_of(page))["energy"]
            n_audio, n_pictures = len(manager.audio), len(manager.pictures)
            await page.evaluate("heartbeat()")
            await until(page, "events.length === 2")
            await until(page, f"state().then((s) => s.energy > {heard} + 0.05)")
            await manager.until(lambda: len(manager.audio) > n_audio + 25 and len(manager.pictures) > n_pictures + 1)

            await page.evaluate("stopCamera()")
            await page.evaluate("heartbeat()")
            await until(page, "events.length === 3")
            n_audio = len(manager.audio)
            await manager.until(lambda: len(manager.audio) > n_audio + 25)

    run(main())


def test_a_browser_that_offers_it_sends_lost_sound_again(folder: Path) -> None:
    """As our page does."""

    async def main() -> None:
        async with serving(FakeManager(), page_folder=folder) as served, browsing(served) as page:
            await page.evaluate("window.repairs = true")
            await page.evaluate("connect('')")
            await until(page, "channel.readyState === 'open'")
            manager = served.manager
            await manager.until(lambda: len(manager.audio) > 5)
            (transport,) = manager.transports
            assert isinstance(transport, WebRtcTransport)
            assert isinstance(transport._media, MediaPath)
            tap = transport._media._tap
            assert tap is not None
            take, seen = tap._take, set[bytes]()

            def lose_every_tenth(data: bytes) -> None:
                is_sound = not 192 <= data[1] <= 223
                first_time = data[2:4] not in seen
                seen.add(data[2:4])
                if not (is_sound and first_time and data[3] % 10 == 0):
                    take(data)

            vars(tap)["_take"] = lose_every_tenth
            n_heard = len(manager.audio)
            await manager.until(lambda: len(manager.audio) > n_heard + 150)
            stats = transport.stats()
            assert stats["requested_packets"] >= 10
            assert stats["lost_packets"] <= 0.3 * stats["requested_packets"]

    run(main())
