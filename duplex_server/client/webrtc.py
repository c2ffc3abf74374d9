"""A conversation's connection over WebRTC: audio on a media track both ways, events on a data channel.

aiortc does SDP, ICE and DTLS; the media takes the path that the server's takes. Knows nothing about what a listener
hears.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from duplex_server.client.link import Link, Received, ReceivedAudio, address, refusal
from duplex_server.errors import DuplexError, SessionExpired, TransportError
from duplex_server.media.opus import OpusEncoder
from duplex_server.media.resample import StreamResampler
from duplex_server.transports.mailbox import Mailbox
from duplex_server.transports.rtc_internals import offer_loopback
from duplex_server.transports.rtc_media import make_media
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_sdp import finish_offer
from duplex_server.types import OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.codec import decode_server, encode
from duplex_server.wire.events import ClientEvent, ErrorEvent, SessionResume

__all__ = ["open_link"]

_CHANNEL = "oai-events"
_INCOMING_ITEMS = 6_000
"""A minute of audio and as many events again."""
_CLOSE_TIMEOUT_S = 3.0
_BOUNDARY = "4fd1c7b2e5a04c3f9a"
"""Of the form in which an offer is sent; in no SDP and no JSON."""


class _PlacedAudio(Protocol):
    """Audio with its place on the media clock, at the same rate."""

    @property
    def pcm(self) -> Pcm: ...
    @property
    def position_samples(self) -> int: ...


class _WebRtcLink:
    def __init__(
        self, connection: RTCPeerConnection, tasks: asyncio.TaskGroup, on_sent: Callable[[ClientEvent], None]
    ) -> None:
        self._connection = connection
        self._tasks = tasks
        self._jobs: set[asyncio.Task[None]] = set()
        self.on_sent = on_sent
        self._resampler: StreamResampler | None = None
        self._carry: Pcm = np.zeros(0, np.float32)  # less than a tick
        self._incoming: Mailbox[Received] = Mailbox(limit_items=_INCOMING_ITEMS, limit_bytes=0)
        self._end: DuplexError | None = None
        self._last_error: ErrorEvent | None = None
        self._opened = asyncio.Event()
        connection.addTransceiver("audio", direction="sendrecv")
        self._pacer = Pacer()
        self._media = make_media(
            connection, self._take_audio, None, self._spawn, self._pacer, offering=True, rate_hz=OUTPUT_RATE_HZ
        )
        self._channel: RTCDataChannel = connection.createDataChannel(_CHANNEL)
        self._channel.on("open", self._opened.set)
        self._channel.on("message", self._hear)
        self._channel.on("close", self._leave)
        connection.on("connectionstatechange", self._notice)
        self._media.attach()

    @property
    def media_track(self) -> bool:
        return True

    async def send(self, event: ClientEvent) -> bool:
        self.on_sent(event)
        if self._end is not None:
            raise self._end
        if self._channel.readyState != "open":
            return False
        self._channel.send(encode(event).decode())
        return True

    async def send_audio(self, pcm: Pcm, rate_hz: int) -> bool:
        if self._end is not None:
            raise self._end
        if self._resampler is None or self._resampler.in_hz != rate_hz:
            self._resampler = StreamResampler(rate_hz, OUTPUT_RATE_HZ)
        waiting = np.concatenate([self._carry, self._resampler.push(pcm)])
        whole = len(waiting) - len(waiting) % OpusEncoder.frame_samples
        self._media.send(waiting[:whole])
        self._carry = waiting[whole:]
        return not self._incoming.closed

    async def receive(self) -> Received | None:
        try:
            return await anext(self._incoming)
        except StopAsyncIteration:
            if self._end is not None:
                raise self._end from None
            return None

    async def open(
        self, server: str, api_key: str | None, query: dict[str, str], timeout_s: float, resume: SessionResume | None
    ) -> None:
        """Negotiate, and wait for the data channel."""
        await self._connection.setLocalDescription(await self._connection.createOffer())
        sdp = finish_offer(self._connection.localDescription.sdp)
        kind, body = ("application/sdp", sdp.encode()) if resume is None else _form(sdp, resume)
        request = urllib.request.Request(  # noqa: S310 - address() lets only http and https through
            address(server, path="/v1/realtime/calls", scheme="http", query=query),
            body,
            {"Content-Type": kind} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        )
        answer = await asyncio.to_thread(_post, request, server, timeout_s)
        await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        self._media.attach()
        self._media.settle()
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()
        except TimeoutError:
            raise TransportError(f"no way to {server} was found for media within {timeout_s:.0f} s") from None

    async def close(self) -> None:
        self._media.close()
        self._pacer.close()
        self._incoming.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._connection.close()
        finally:
            for job in self._jobs:
                job.cancel()

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _take_audio(self, audio: _PlacedAudio) -> None:
        received_s = asyncio.get_running_loop().time()
        self._put(ReceivedAudio(audio.pcm, received_s, position_samples=audio.position_samples))

    def _put(self, received: Received) -> None:
        if not self._incoming.put(received) and not self._incoming.closed:
            self._finish(TransportError("what came was not read: a minute of it is waiting"))

    def _hear(self, message: str | bytes) -> None:
        event = decode_server(message)
        if isinstance(event, ErrorEvent):
            self._last_error = event
        self._put(event)

    def _leave(self) -> None:
        """See the server close the data channel; the reason, if any, came as an ``error`` event just before."""
        error = self._last_error.error if self._last_error is not None else None
        if error is not None and error.code == SessionExpired.code:
            self._finish(SessionExpired("closed", error.message))
        elif error is not None and error.type == "server_error":
            self._finish(TransportError(f"the server failed: {error.message}"))
        else:
            self._finish(None)

    def _notice(self) -> None:
        if self._connection.connectionState == "failed":
            self._finish(TransportError("the connection broke off"))
        elif self._connection.connectionState == "closed":
            self._leave()

    def _finish(self, end: DuplexError | None) -> None:
        if not self._incoming.closed:
            self._end = end
            self._incoming.close()


@asynccontextmanager
async def open_link(
    server: str,
    *,
    api_key: str | None,
    query: dict[str, str],
    timeout_s: float,
    resume: SessionResume | None,
    on_sent: Callable[[ClientEvent], None],
) -> AsyncIterator[Link]:
    """Connect, and close at the end of the block.

    Args:
        server: see :func:`~duplex_server.client.link.address`.
        api_key: sent as a bearer token.
        query: parameters of the URL.
        timeout_s: for the answer, and for the media to find a way.
        resume: the session to go on with; None to begin one.
        on_sent: called with every event that is about to be sent.

    Raises:
        AuthError: the server refused the key.
        CapacityError: it is full.
        TransportError: it cannot be reached, or is no server of this kind.
    """
    offer_loopback()
    tasks = asyncio.TaskGroup()
    await tasks.__aenter__()
    link = _WebRtcLink(RTCPeerConnection(RTCConfiguration(iceServers=[])), tasks, on_sent)
    try:
        await link.open(server, api_key, query, timeout_s, resume)
        yield link
    finally:
        try:
            await link.close()
        finally:  # left without the error that there may be: the caller is to get it as it is, and not in a group
            await tasks.__aexit__(None, None, None)


def _form(sdp: str, resume: SessionResume) -> tuple[str, bytes]:
    """Return the type and the bytes of a form that holds an offer and the session to resume."""
    fields = (
        ("sdp", "application/sdp", sdp),
        ("session", "application/json", f'{{"resume": {encode(resume).decode()}}}'),
    )
    lines = []
    for name, kind, text in fields:
        lines += [f"--{_BOUNDARY}", f'Content-Disposition: form-data; name="{name}"', f"Content-Type: {kind}", "", text]
    return f"multipart/form-data; boundary={_BOUNDARY}", "\r\n".join([*lines, f"--{_BOUNDARY}--", ""]).encode()


def _post(request: urllib.request.Request, server: str, timeout_s: float) -> str:
    """Send an offer and return the answer; blocks."""
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - see its caller
            answer: str = response.read().decode()
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise refusal(error.code, _message(error), error.headers.get("Retry-After")) from error
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise TransportError(f"cannot connect to {server}: {reason}") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
