"""The client over WebRTC, against a plain aiortc peer behind a one-request HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from duplex_server.client import ReceivedAudio, connect
from duplex_server.errors import AuthError, CapacityError, DuplexError, SessionExpired, TransportError
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_fallback import AiortcMedia
from duplex_server.types import Pcm
from duplex_server.wire.codec import encode
from duplex_server.wire.events import ErrorEvent, InputAudioBufferClear, ServerEvent, SessionCreated, SessionUpdated
from duplex_server.wire.objects import ErrorObject
from duplex_server.wire.session_object import Session

pytestmark = pytest.mark.e2e


class Peer:
    """A server for one call: answers the offer, greets on the data channel, keeps what it hears."""

    def __init__(self, answer_with: tuple[int, dict[str, str], bytes] | None = None) -> None:
        self.connection = RTCPeerConnection()
        self.request = b""
        self.messages: list[dict[str, Any]] = []
        self.heard: list[MediaAudio] = []
        self.channel: RTCDataChannel | None = None
        self._answer_with = answer_with
        self._jobs: list[asyncio.Task[None]] = []
        self.media = AiortcMedia(
            self.connection, self.heard.append, None, lambda job: self._jobs.append(asyncio.create_task(job))
        )

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = await reader.readuntil(b"\r\n\r\n")
        length = int(self.request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        offer = await reader.readexactly(length)
        status, headers, body = self._answer_with or (201, {"Location": "/x"}, await self._negotiate(offer.decode()))
        head = "".join(f"{name}: {text}\r\n" for name, text in {"Content-Length": str(len(body)), **headers}.items())
        writer.write(f"HTTP/1.1 {status} Status\r\n{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _negotiate(self, offer: str) -> bytes:
        self.connection.on("datachannel", self._greet)
        await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        self.media.attach()
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return self.connection.localDescription.sdp.encode()

    def _greet(self, channel: RTCDataChannel) -> None:
        self.channel = channel
        channel.on("message", self._hear)
        self.say(SessionCreated(session=Session(id="sess_1")))

    def say(self, event: ServerEvent) -> None:
        assert self.channel is not None
        self.channel.send(encode(event).decode())

    def _hear(self, message: str) -> None:
        self.messages.append(json.loads(message))
        if self.messages[-1]["type"] == "session.update":
            self.say(SessionUpdated(session=Session(id="sess_1", instructions="new")))


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[str]:
    listener = await asyncio.start_server(peer.answer, "127.0.0.1", 0)
    try:
        async with listener:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        await peer.connection.close()


def real_time(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited())


def tone(n_samples: int, start: int = 0) -> Pcm:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(start, start + n_samples) / 24_000)).astype(np.float32)


def test_a_call_carries_settings_events_and_audio_both_ways() -> None:
    async def main() -> None:
        peer = Peer()
        async with (
            serving(peer) as url,
            connect(url, transport="webrtc", api_key="k1", session={"instructions": "new"}) as conversation,
        ):
            assert conversation.media_track
            assert conversation.session.instructions == "new"
            assert b"Authorization: Bearer k1" in peer.request
            assert b"POST /v1/realtime/calls?resume=1 HTTP" in peer.request
            received: list[ReceivedAudio] = []
            events = conversation.events()
            for n in range(200):
                peer.media.send(tone(480, 480 * n))
                await conversation.send_audio(tone(480, 480 * n), 24_000)
                await asyncio.sleep(0.005)
                if len(peer.heard) >= 20:
                    break
            while len(received) < 20:
                item = await anext(events)
                if isinstance(item, ReceivedAudio):
                    received.append(item)
            heard = np.concatenate([audio.pcm for audio in peer.heard])
            assert np.sqrt(np.mean(heard[1600:] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)
            played = np.concatenate([audio.pcm for audio in received])
            assert np.sqrt(np.mean(played[2400:] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)
            assert [audio.position_samples for audio in received] == [480 * n for n in range(20)]

    real_time(main)


def test_the_server_hanging_up_is_the_end_of_the_events() -> None:
    async def main() -> None:
        peer = Peer()
        async with serving(peer) as url, connect(url, transport="webrtc") as conversation:
            await peer.connection.close()
            assert [type(event) async for event in conversation.events()] == [SessionCreated]
            assert not await conversation.send_audio(tone(480), 24_000)
            assert not await conversation.send(InputAudioBufferClear())

    real_time(main)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ErrorObject(code="session_expired", message="60 minutes are over."), SessionExpired),
        (ErrorObject(type="server_error", code="engine_lost", message="The worker stopped."), TransportError),
    ],
)
def test_the_error_before_a_hang_up_is_its_reason(error: ErrorObject, kind: type[DuplexError]) -> None:
    async def main() -> None:
        peer = Peer()
        async with serving(peer) as url, connect(url, transport="webrtc") as conversation:
            peer.say(ErrorEvent(error=error))
            events = conversation.events()
            assert [type(await anext(events)) for _ in range(2)] == [SessionCreated, ErrorEvent]
            await peer.connection.close()
            with pytest.raises(kind, match=error.message):
                await anext(events)

    real_time(main)


@pytest.mark.parametrize(
    ("answer_with", "kind", "match"),
    [
        ((401, {}, b'{"error": {"message": "Wrong key."}}'), AuthError, r"Wrong key\."),
        ((503, {"Retry-After": "17"}, b"{}"), CapacityError, "17 s"),
        ((404, {}, b"<html>"), TransportError, "HTTP 404"),
    ],
)
def test_a_refused_call_says_why(answer_with: tuple[int, dict[str, str], bytes], kind: Any, match: str) -> None:
    async def main() -> None:
        async with serving(Peer(answer_with)) as url:
            with pytest.raises(kind, match=match):
                async with connect(url, transport="webrtc"):
                    pass

    real_time(main)


def test_nobody_there() -> None:
    async def main() -> None:
        with pytest.raises(TransportError, match="cannot connect"):
            async with connect("http://127.0.0.1:9", transport="webrtc"):
                pass

    real_time(main)
