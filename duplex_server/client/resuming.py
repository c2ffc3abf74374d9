"""A connection that is made again when it breaks, so that the conversation goes on where it was.

Keeps what was sent until the server has it. Knows nothing about what kind of connection it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from duplex_server.client.link import Link, Received, ReceivedAudio
from duplex_server.errors import DuplexError, TransportError
from duplex_server.types import OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.events import (
    ClientEvent,
    SessionCreated,
    SessionEventAck,
    SessionExpired,
    SessionResume,
    SessionResumed,
    SessionUpdated,
    UnknownEvent,
)

__all__ = ["OpenLink", "open_resuming"]

_PATIENCE_S = 30.0
"""How long to try; a server waits as long, unless it is set otherwise."""
_RETRY_S = 0.5
_KEPT_EVENTS = 4096
"""Events that may wait for a connection; 80 s of a microphone's pieces of 20 ms. Beyond it the oldest are lost."""
_ACK_EVERY = 50


class OpenLink(Protocol):
    """Opens a connection: for a new session, or to resume one."""

    def __call__(
        self, asked: SessionResume | None, on_sent: Callable[[ClientEvent], None], /
    ) -> AbstractAsyncContextManager[Link]: ...


class _ResumingLink:
    def __init__(self, open_link: OpenLink, stack: AsyncExitStack) -> None:
        self._open = open_link
        self._stack = stack
        self._link: Link
        self._sent: deque[ClientEvent] = deque(maxlen=_KEPT_EVENTS)
        self._n_sent = 0
        self._session_id = self._token = ""
        self._last_seq = self._acked_seq = 0
        self._heard_samples: int | None = None  # where the track's newest sound ended

    @property
    def media_track(self) -> bool:
        return self._link.media_track

    async def begin(self) -> None:
        """Open the first connection."""
        self._link = await self._stack.enter_async_context(self._open(None, self._keep))

    async def send(self, event: ClientEvent) -> bool:
        try:
            return await self._link.send(event)
        except TransportError:
            if not self._token:
                raise
            return True  # kept; receive() makes the connection again

    async def send_audio(self, pcm: Pcm, rate_hz: int) -> bool:
        try:
            return await self._link.send_audio(pcm, rate_hz)
        except TransportError:
            if not self._token:
                raise
            return True

    async def receive(self) -> Received | None:
        while True:
            try:
                received = await self._link.receive()
            except TransportError as broken:
                if not self._token:
                    raise
                await self._come_back(broken)
                continue
            self._note(received)
            if self._last_seq - self._acked_seq >= _ACK_EVERY:
                self._acked_seq = self._last_seq
                await self.send(SessionEventAck(server_event_seq=self._last_seq))
            return received

    def _keep(self, event: ClientEvent) -> None:
        self._sent.append(event)
        self._n_sent += 1

    def _note(self, received: Received | None) -> None:
        if received is None or isinstance(received, UnknownEvent):
            return
        if isinstance(received.server_event_seq, int):
            self._last_seq = max(self._last_seq, received.server_event_seq)
        if isinstance(received, ReceivedAudio):
            if received.position_samples is not None:
                self._heard_samples = received.position_samples + len(received.pcm)
        elif isinstance(received, SessionCreated | SessionUpdated | SessionResumed):
            self._session_id = received.session.id
            if isinstance(received.resume_token, str):
                self._token = received.resume_token

    async def _come_back(self, broken: TransportError) -> None:
        """Resume the session over a new connection.

        Raises:
            TransportError: it did not work for as long as a server waits, or the session is over.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    stack = AsyncExitStack()
                    try:
                        await self._resume(stack)
                        return
                    except TransportError:
                        await stack.aclose()
                        await asyncio.sleep(_RETRY_S)
                    except DuplexError as refused:
                        await stack.aclose()
                        raise TransportError(f"the session is over: {refused}") from refused
        except TimeoutError:
            raise broken from None

    async def _resume(self, stack: AsyncExitStack) -> None:
        heard_ms = None if self._heard_samples is None else self._heard_samples * 1000 / OUTPUT_RATE_HZ
        asked = SessionResume(
            session_id=self._session_id,
            resume_token=self._token,
            last_received_server_event_seq=self._last_seq,
            audio_received_ms=heard_ms,
        )
        journal = _Journal(self._keep)
        link = await stack.enter_async_context(self._open(asked, journal))
        while not isinstance(answer := await link.receive(), SessionResumed):
            if answer is None or isinstance(answer, SessionExpired):
                raise DuplexError("the server has it no more")
        self._note(answer)
        self._heard_samples = None
        n_arrived = answer.client_events_received
        while n_arrived < self._n_sent:  # more may be kept while these are sent
            kept = list(self._sent)[n_arrived - self._n_sent :]
            for event in kept:
                await link.send(event)
            n_arrived += len(kept)
        journal.on = True
        old, self._stack = self._stack, stack
        self._link = link
        await old.aclose()


class _Journal:
    """Keeps what is sent over one connection, once all that was kept before has been sent."""

    def __init__(self, keep: Callable[[ClientEvent], None]) -> None:
        self._keep = keep
        self.on = False

    def __call__(self, event: ClientEvent) -> None:
        if self.on:
            self._keep(event)


@asynccontextmanager
async def open_resuming(open_link: OpenLink) -> AsyncIterator[Link]:
    """Open a connection that comes back, and close it at the end of the block."""
    link = _ResumingLink(open_link, AsyncExitStack())
    try:
        await link.begin()
        yield link
    finally:
        await link._stack.aclose()
