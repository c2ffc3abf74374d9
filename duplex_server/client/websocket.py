"""A conversation's connection over a WebSocket: every event and all audio in JSON.

Knows nothing about what a listener hears.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode
from websockets.http11 import Response
from websockets.typing import Subprotocol

from duplex_server.client.link import RETRY_AFTER_S, Link, Received, ReceivedAudio, address, refusal
from duplex_server.errors import CapacityError, DuplexError, SessionExpired, TransportError
from duplex_server.media.resample import StreamResampler
from duplex_server.types import OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.audio_format import PCM_FORMAT, AudioFormat, AudioIntake, AudioOutlet
from duplex_server.wire.codec import MAX_MESSAGE_BYTES, decode_server, encode
from duplex_server.wire.events import (
    ClientEvent,
    InputAudioBufferAppend,
    ResponseOutputAudioDelta,
    SessionCreated,
    SessionResume,
    SessionResumed,
    SessionUpdated,
)

__all__ = ["open_link"]

_SUBPROTOCOL = Subprotocol("realtime")
_CLOSE_TIMEOUT_S = 3.0


class _WebSocketLink:
    def __init__(self, connection: ClientConnection, on_sent: Callable[[ClientEvent], None]) -> None:
        self._connection = connection
        self.on_sent = on_sent
        self._outlet = AudioOutlet(PCM_FORMAT)
        self._microphone: StreamResampler | None = None
        self._intake = AudioIntake(PCM_FORMAT)
        self._loudspeaker = StreamResampler(OUTPUT_RATE_HZ, OUTPUT_RATE_HZ)

    @property
    def media_track(self) -> bool:
        return False

    async def send(self, event: ClientEvent) -> bool:
        self.on_sent(event)
        try:
            await self._connection.send(encode(event), text=True)
        except ConnectionClosed as error:
            _raise_unless_good(error)
            return False
        return True

    async def send_audio(self, pcm: Pcm, rate_hz: int) -> bool:
        if self._microphone is None or self._microphone.in_hz != rate_hz:
            self._microphone = StreamResampler(rate_hz, OUTPUT_RATE_HZ)
        encoded = self._outlet.encode(self._microphone.push(pcm))
        return not encoded or await self.send(InputAudioBufferAppend(audio=encoded))

    async def receive(self) -> Received | None:
        try:
            message = await self._connection.recv()
        except ConnectionClosed as error:
            _raise_unless_good(error)
            return None
        event = decode_server(message)
        if isinstance(event, SessionCreated | SessionUpdated | SessionResumed):
            audio = event.session.audio
            self._use_formats(audio.input.format or PCM_FORMAT, audio.output.format or PCM_FORMAT)
        return self._decode(event) if isinstance(event, ResponseOutputAudioDelta) else event

    def _use_formats(self, microphone: AudioFormat, loudspeaker: AudioFormat) -> None:
        if microphone != self._outlet.format:
            self._outlet = AudioOutlet(microphone)
        if loudspeaker != self._intake.format:
            self._intake = AudioIntake(loudspeaker)
            self._loudspeaker = StreamResampler(loudspeaker.rate_hz, OUTPUT_RATE_HZ)

    def _decode(self, event: ResponseOutputAudioDelta) -> ReceivedAudio:
        return ReceivedAudio(
            pcm=self._loudspeaker.push(self._intake.decode(event.delta)),
            received_s=asyncio.get_running_loop().time(),
            response_id=event.response_id,
            item_id=event.item_id,
            server_event_seq=event.server_event_seq if isinstance(event.server_event_seq, int) else None,
        )


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
        timeout_s: for the connection to open.
        resume: the session to go on with; None to begin one.
        on_sent: called with every event that is about to be sent.

    Raises:
        AuthError: the server refused the key.
        CapacityError: it is full.
        TransportError: it cannot be reached, or is no server of this kind.
    """
    query = query if resume is None else {**query, "autostart": "0"}
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connecting = open_websocket(
        address(server, path="/v1/realtime", scheme="ws", query=query),
        additional_headers=headers,
        subprotocols=[_SUBPROTOCOL],
        compression=None,  # base64 of audio hardly shrinks, and deflating it doubles the cost of a message
        open_timeout=timeout_s,
        close_timeout=_CLOSE_TIMEOUT_S,
        max_size=MAX_MESSAGE_BYTES,
    )
    try:
        connection = await connecting
    except InvalidStatus as error:
        raise _refused(error.response) from error
    except (OSError, TimeoutError, WebSocketException) as error:
        raise TransportError(f"cannot connect to {server}: {str(error) or 'no answer'}") from error
    async with connection:
        link = _WebSocketLink(connection, on_sent)
        if resume is not None:
            try:
                await connection.send(encode(resume), text=True)
            except ConnectionClosed as error:
                raise TransportError("the connection broke off") from error
        yield link


def _refused(response: Response) -> DuplexError:
    try:
        message = str(json.loads(response.body or b"{}")["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.reason_phrase
    return refusal(response.status_code, message, response.headers.get("Retry-After"))


def _raise_unless_good(error: ConnectionClosed) -> None:
    """Raise why a connection ended, from its close code (realtime protocol: 1001 limit, 1013 full, 1011 failure)."""
    if error.rcvd is None:
        raise TransportError("the connection broke off") from error
    reason = error.rcvd.reason or "no reason given"
    match error.rcvd.code:
        case CloseCode.NORMAL_CLOSURE:
            return
        case CloseCode.GOING_AWAY:
            raise SessionExpired("closed", reason) from error
        case CloseCode.TRY_AGAIN_LATER:
            raise CapacityError(RETRY_AFTER_S) from error
        case code:
            raise TransportError(f"the server closed the connection with code {code}: {reason}") from error
