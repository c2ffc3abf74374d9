"""A WebRTC client made of aiortc as it is, for tests: it knows nothing of how the server works."""

from __future__ import annotations

import asyncio
import fractions
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import av
import httpx2
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)

from tests.helpers.wire_witness import Witness
from tests.transports.serving import Served

__all__ = ["Camera", "Client", "Tone", "calling"]


class Tone(MediaStreamTrack):
    """A microphone: a tone of 440 Hz at 48 kHz, at real-time pace."""

    kind = "audio"

    def __init__(self, hz: float = 440.0) -> None:
        super().__init__()
        self._hz = hz
        self._n = 0
        self._began_s = 0.0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        if not self._n:
            self._began_s = loop.time()
        await asyncio.sleep(self._began_s + self._n / 48_000 - loop.time())
        phase = 2 * np.pi * self._hz * (self._n + np.arange(960)) / 48_000
        both = np.repeat((10_000 * np.sin(phase)).astype(np.int16), 2)[None]
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._n, fractions.Fraction(1, 48_000)
        self._n += 960
        return frame


class Camera(MediaStreamTrack):
    """A camera that sees one colour."""

    kind = "video"

    def __init__(self, rgb: tuple[int, int, int], width: int = 320, height: int = 240, per_s: int = 10) -> None:
        super().__init__()
        self._per_s = per_s
        self._picture = np.full((height, width, 3), rgb, np.uint8)
        self._n = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(1 / self._per_s)
        frame = av.VideoFrame.from_ndarray(self._picture, format="rgb24")
        frame.pts, frame.time_base = self._n * 90_000 // self._per_s, fractions.Fraction(1, 90_000)
        self._n += 1
        return frame


class Client:
    """One peer: a connection, its data channel, and what it heard."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel("oai-events")
        self.events: list[dict[str, Any]] = []
        self.track: MediaStreamTrack | None = None
        self.change = asyncio.Event()
        self.response = httpx2.Response(0)
        self.headers: dict[str, str] = {}  # of every request
        self.witness = Witness(ordered=False)  # most conversations of these tests are made up
        self.channel.on("message", self._take)
        self.channel.on("close", self.change.set)
        self.connection.on("track", self._take_track)
        self.connection.on("connectionstatechange", self.change.set)

    def _take(self, message: str) -> None:
        self.witness.hear(message)
        self.events.append(json.loads(message))
        self.change.set()

    def _take_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self.track = track

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.change.clear()
            await self.change.wait()

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def post(self, path: str, **request: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.served.url, headers=self.headers) as http:
            return await http.post(path, **request)

    async def connect(self, change: Callable[[str], str] = lambda sdp: sdp) -> None:
        """Call the server with an offer that ``change`` has been at, and wait for its first event."""
        sdp = change(await self.offer())
        self.response = await self.post("/v1/realtime/calls", content=sdp, headers={"Content-Type": "application/sdp"})
        assert self.response.status_code == 201, self.response.text
        await self.accept(self.response.text)
        await self.until(lambda: bool(self.events))

    async def accept(self, answer: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    async def renegotiate(self, change: Callable[[str], str] = lambda sdp: sdp) -> httpx2.Response:
        sdp = change(await self.offer())
        return await self.post(
            self.response.headers["Location"], content=sdp, headers={"Content-Type": "application/sdp"}
        )

    def send(self, event: dict[str, Any]) -> None:
        self.channel.send(json.dumps(event))

    async def heartbeat(self) -> None:
        """Ask for a sign of life, and wait for it."""
        seen = len(self.events)
        self.send({"type": "session.heartbeat"})
        await self.until(lambda: len(self.events) > seen)

    async def hear(self, seconds: float) -> np.ndarray[Any, Any]:
        """Return the next sound from the track: float64 mono, of Opus at 48 kHz, of G.711 at 8."""
        assert self.track is not None
        pieces: list[np.ndarray[Any, Any]] = []
        heard_s = 0.0
        while heard_s < seconds:
            frame = await self.track.recv()
            assert isinstance(frame, av.AudioFrame)
            heard_s += frame.samples / frame.sample_rate
            pieces.append(frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0] / 32768)
        return np.concatenate(pieces)


@asynccontextmanager
async def calling(served: Served, *tracks: MediaStreamTrack, of_realtime: bool = True) -> AsyncIterator[Client]:
    """Make a client that sends the tracks (a tone if none are given); it is closed when the block is left.

    Then what it heard must have had the shape of the Realtime API, unless it was another one.
    """
    client = Client(served)
    for track in tracks or (Tone(),):
        client.connection.addTrack(track)
    try:
        yield client
        if of_realtime:
            client.witness.verdict()
    finally:
        await client.connection.close()
