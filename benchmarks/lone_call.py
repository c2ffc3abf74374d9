"""One WebRTC call inside this process: the server's transport at one end, aiortc as it is at the other.

There is no HTTP, no session and no model: what the transport hears is counted, and a tone is sent through it. Knows
what holds the sockets of the two ends, so that datagrams can be looked at and put in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from duplex_server.media.rtp import is_rtcp
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.observer import SilentTransportObserver
from duplex_server.transports.rtc_camera import CameraView
from duplex_server.transports.rtc_internals import dtls_transport
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_path import MediaPath
from duplex_server.transports.webrtc import CHANNEL, WebRtcTransport
from duplex_server.types import OUTPUT_RATE_HZ, TICK_MS
from duplex_server.wire.dialect import RealtimeDialect
from duplex_server.wire.events import SessionHeartbeat, SessionHeartbeatAck

__all__ = ["LoneCall", "lone_call"]

_MOST_SAMPLES = 200
_HZ = 440.0
_RATE_HZ = 48_000


class _Tone(MediaStreamTrack):
    """The caller's microphone, at real-time pace."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.n_sent = 0
        self._began_s = asyncio.get_running_loop().time()

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(self._began_s + self.n_sent / _RATE_HZ - asyncio.get_running_loop().time())
        phase = 2 * np.pi * _HZ * (self.n_sent + np.arange(960)) / _RATE_HZ
        frame = av.AudioFrame.from_ndarray((10_000 * np.sin(phase)).astype(np.int16)[None], layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE_HZ, self.n_sent, fractions.Fraction(1, _RATE_HZ)
        self.n_sent += 960
        return frame


class LoneCall:
    """Made by :func:`lone_call`.

    Attributes:
        transport: the server's end.
        caller: the other.
        samples: good datagrams that the server received, by kind, the first of each.
        n_heard: samples that the server heard, 16 kHz.
        heard: place and length of each piece of it.
        n_heard_back: samples that the caller heard, 48 kHz.
        n_answers: heartbeats that came back to the caller.
    """

    def __init__(self, transport: WebRtcTransport) -> None:
        self.transport = transport
        self.caller = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.samples: dict[str, list[bytes]] = defaultdict(list)
        self.n_heard = 0
        self.heard: list[tuple[int, int]] = []
        self.n_heard_back = 0
        self.n_answers = 0
        self._channel = self.caller.createDataChannel(CHANNEL)
        self._channel.on("message", self._take_message)
        self._tone = _Tone()
        self._track: MediaStreamTrack | None = None
        self.caller.on("track", self._take_track)

    async def connect(self, on_offer: Callable[[str], str], on_answer: Callable[[str], str]) -> None:
        self.caller.addTrack(self._tone)
        await self.caller.setLocalDescription(await self.caller.createOffer())
        answer = await self.transport.answer(on_offer(self.caller.localDescription.sdp))
        for protocol in self._protocols:
            vars(protocol)["datagram_received"] = self._recording(protocol.datagram_received)
        await self.caller.setRemoteDescription(RTCSessionDescription(sdp=on_answer(answer), type="answer"))
        assert await self.transport.connected(), "the two ends did not find each other"

    @property
    def address(self) -> tuple[str, int]:
        """The caller's, as the server sees it."""
        pair = self._path._nominated[1]
        host, port = pair.remote_addr
        return host, port

    @property
    def n_spoken(self) -> int:
        """Samples that the caller has sent, 48 kHz; on a busy machine fewer than time would allow."""
        return self._tone.n_sent

    @property
    def n_rejected(self) -> int:
        """Datagrams that the server has turned away."""
        assert self._media._tap is not None
        return self._media._tap.n_rejected

    @property
    def n_held(self) -> int:
        """Packets of the caller's sound that wait for one before them; 0 means that nothing is delayed."""
        return sum(ear.microphone.buffer.n_held for ear in self._media._ears.values())

    @property
    def _media(self) -> MediaPath:
        media = self.transport._media
        assert isinstance(media, MediaPath)
        return media

    @property
    def n_waiting(self) -> int:
        """Datagrams that the server has not looked at yet."""
        n_waiting: int = self._path._queue.qsize()
        return n_waiting

    def receive(self, datagram: bytes, address: tuple[str, int]) -> None:
        """Have the server's socket receive a datagram; what that raises goes where asyncio would bring it."""
        try:
            self._path._nominated[1].protocol.datagram_received(datagram, address)
        except Exception as error:  # noqa: BLE001 - as the event loop does
            context = {"message": f"a datagram of {_kind_of(datagram)}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def sealed(self, packet: bytes) -> bytes:
        """Return a packet as the caller encrypts it.

        Raises:
            pylibsrtp.Error: it is so wrong that it cannot be encrypted.
        """
        dtls = dtls_transport(self.caller)
        assert dtls is not None
        session = dtls._tx_srtp
        sealed: bytes = session.protect_rtcp(packet) if is_rtcp(packet) else session.protect(packet)
        return sealed

    async def heartbeat(self) -> None:
        """Send an event and wait for the answer: the data channel works both ways."""
        seen = self.n_answers
        self._channel.send(json.dumps({"type": "session.heartbeat"}))
        while self.n_answers == seen:  # noqa: ASYNC110 - the deadline is the caller's
            await asyncio.sleep(0.005)

    async def serve(self) -> None:
        """The server's side: count what is heard and answer heartbeats, until the call ends."""
        async for received in self.transport.events():
            if isinstance(received, MediaAudio):
                self.n_heard += len(received.pcm)
                self.heard.append((received.position_samples, len(received.pcm)))
            elif isinstance(received, SessionHeartbeat):
                self.transport.send(SessionHeartbeatAck())

    async def speak(self) -> None:
        """Send a tone for ever."""
        loop = asyncio.get_running_loop()
        n_samples = OUTPUT_RATE_HZ * TICK_MS // 1000
        tone = (0.3 * np.sin(2 * np.pi * 500 * np.arange(n_samples) / OUTPUT_RATE_HZ)).astype(np.float32)
        due_s = loop.time()
        while True:
            self.transport.send_audio(tone)
            due_s += TICK_MS / 1000
            await asyncio.sleep(due_s - loop.time())

    async def listen(self) -> None:
        """The caller's side: count what is heard, until the track ends."""
        while self._track is None:  # noqa: ASYNC110 - it comes with the answer
            await asyncio.sleep(0.01)
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await self._track.recv()
                assert isinstance(frame, av.AudioFrame)
                self.n_heard_back += frame.samples

    def _take_message(self, message: str) -> None:
        self.n_answers += json.loads(message)["type"] == "session.heartbeat_ack"

    def _take_track(self, track: MediaStreamTrack) -> None:
        self._track = track

    @property
    def _path(self) -> Any:
        dtls = dtls_transport(self.transport._connection)
        assert dtls is not None
        return dtls.transport._connection

    @property
    def _protocols(self) -> list[Any]:
        return list(self._path._protocols)

    def _recording(self, receive: Callable[[bytes, Any], None]) -> Callable[[bytes, Any], None]:
        def datagram_received(data: bytes, addr: Any) -> None:
            kind = _kind_of(data)
            if len(self.samples[kind]) < _MOST_SAMPLES:
                self.samples[kind].append(data)
            receive(data, addr)

        return datagram_received


def _kind_of(data: bytes) -> str:
    """Source: RFC 7983 §7."""
    first = data[0] if data else 255
    if 128 <= first < 192:
        return "rtcp" if is_rtcp(data) else "rtp"
    return "stun" if first < 4 else "dtls" if 20 <= first < 64 else "noise"


def _unchanged(sdp: str) -> str:
    return sdp


@asynccontextmanager
async def lone_call(
    on_offer: Callable[[str], str] = _unchanged, on_answer: Callable[[str], str] = _unchanged
) -> AsyncIterator[LoneCall]:
    """Hold a call until the block is left; a tone goes both ways.

    Args:
        on_offer: changes the caller's description on its way, e.g. to lead through a relay.
        on_answer: changes the server's.
    """
    pacer = Pacer()
    async with WebRtcTransport.open(
        ice_servers=(),
        max_message_bytes=2**20,
        send_queue_bytes=2**24,
        observer=SilentTransportObserver(),
        dialect=RealtimeDialect(),
        pacer=pacer,
        view=CameraView(0.5, 448, 25_000_000),
    ) as transport:
        call = LoneCall(transport)
        try:
            await call.connect(on_offer, on_answer)
            async with asyncio.TaskGroup() as tasks:
                jobs = [tasks.create_task(job()) for job in (call.serve, call.speak, call.listen)]
                try:
                    yield call
                finally:
                    for job in jobs:
                        job.cancel()
        finally:
            await call.caller.close()
            pacer.close()
