"""A connection inside one process, for tests: both ends, and a network between them that can be bad.

Everything runs on the event loop's clock, so that it works in virtual time. Knows nothing about sockets or encodings:
events and samples cross as objects.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from duplex_server.errors import ClientError, DuplexError
from duplex_server.session.transport import EventStream
from duplex_server.transports.base import MediaAudio, MediaFrame, Received, TransportTraits
from duplex_server.transports.mailbox import Mailbox
from duplex_server.types import Pcm
from duplex_server.wire.events import ClientEvent, ServerEvent

__all__ = ["MEDIA_TRACK_TRAITS", "MESSAGE_TRAITS", "LoopbackPeer", "LoopbackTransport", "Travel", "repeating", "steady"]

MEDIA_TRACK_TRAITS = TransportTraits(name="loopback", media_track=True, chunk_ms=20, lead_ms=0)
"""A connection that behaves as WebRTC does."""

MESSAGE_TRAITS = TransportTraits(name="loopback", media_track=False, chunk_ms=100, lead_ms=250)
"""A connection that behaves as a WebSocket does."""

RETRANSMISSION_S = 0.2
"""How much later a message arrives on a reliable channel when it was lost once: TCP's least retransmission timeout."""

INBOX_ITEMS = 100_000
"""Far more than a test sends; a full inbox loses what comes."""

Travel = Callable[[int], float | None]
"""Seconds that the n-th packet (from 0) is on its way, or None if it is lost. A packet that is faster than the one
before overtakes it."""

Event = TypeVar("Event")
Item = TypeVar("Item")


def steady(delay_s: float = 0.0) -> Travel:
    """Return a network that delivers everything after ``delay_s``."""
    return lambda _n: delay_s


def repeating(delays_s: Sequence[float | None]) -> Travel:
    """Return a network that goes through ``delays_s`` again and again; None loses a packet."""
    return lambda n: delays_s[n % len(delays_s)]


class _Lane(Generic[Item]):
    """One direction of one channel."""

    def __init__(self, travel: Travel, deliver: Callable[[Item], None], *, reliable: bool) -> None:
        self._travel = travel
        self._deliver = deliver
        self._reliable = reliable
        self._numbers = itertools.count()
        self._under_way: list[tuple[float, int, Item]] = []  # a heap; bounded by what the test sends
        self._latest_s = 0.0
        self.lost = 0

    def send(self, item: Item) -> None:
        """Put an item on its way; at once, within this call, if the way takes no time."""
        number = next(self._numbers)
        delay_s = self._travel(number)
        loop = asyncio.get_running_loop()
        if delay_s is None:
            self.lost += 1
            if not self._reliable:
                return
            delay_s = RETRANSMISSION_S
        arrival_s = loop.time() + delay_s
        if self._reliable:
            arrival_s = self._latest_s = max(arrival_s, self._latest_s)
        heapq.heappush(self._under_way, (arrival_s, number, item))
        if arrival_s <= loop.time():
            self._arrive()
        else:
            loop.call_at(arrival_s, self._arrive)

    def _arrive(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._under_way and self._under_way[0][0] <= now_s:
            self._deliver(heapq.heappop(self._under_way)[2])


class LoopbackPeer:
    """The far end: what a test does as the client, and what it saw.

    Attributes:
        received: every event with the loop time of its arrival.
        audio: every tick of audio from the media track with the loop time of its arrival.
        cleared_s: when the server dropped audio that had not left.
        closed_s: when the server closed the connection; None while it is open.
        closed_with: the error that the server closed with.
    """

    def __init__(self, inbox: Mailbox[Received], to_server: Travel, media_to_server: Travel) -> None:
        self.received: list[tuple[float, ServerEvent]] = []
        self.audio: list[tuple[float, Pcm]] = []
        self.cleared_s: list[float] = []
        self.closed_s: float | None = None
        self.closed_with: DuplexError | None = None
        self._inbox = inbox
        self._cut_off = False
        self._lost = False
        self._heard_s = _now_s()
        self._events: _Lane[Received] = _Lane(to_server, self._reach_server, reliable=True)
        self._media: _Lane[Received] = _Lane(media_to_server, self._reach_server, reliable=False)
        self._taken = 0
        self._change: asyncio.Event = asyncio.Event()

    def send(self, event: ClientEvent) -> None:
        """Send an event to the server."""
        self._events.send(event)

    def send_undecodable(self, error: ClientError) -> None:
        """Send a message that the server's transport fails to decode with ``error``."""
        self._events.send(error)

    def send_media(self, pcm: Pcm, position: int) -> None:
        """Send audio on the media track.

        Args:
            pcm: float32 mono 16 kHz.
            position: of its first sample on the media clock, samples at 16 kHz.
        """
        self._media.send(MediaAudio(pcm=pcm, position_samples=position))

    def send_picture(self, rgb: npt.NDArray[np.uint8]) -> None:
        """Send a camera picture, uint8 ``[height, width, 3]``, on the media track."""
        self._media.send(MediaFrame(rgb=rgb))

    def leave(self) -> None:
        """Disconnect. The server still sees what was sent before, if it has arrived."""
        self._inbox.close()

    def cut_off(self) -> None:
        """Lose the network: from now on nothing arrives on either side, and neither is told."""
        self._cut_off = True

    def notice(self) -> None:
        """Let the server notice that the network was lost."""
        self._cut_off = self._lost = True
        self._inbox.close()

    async def expect(self, kind: type[Event]) -> Event:
        """Wait for the next event of a type, counted from the event that the last call returned.

        Raises:
            EOFError: the server closed the connection first.
        """
        while True:
            while self._taken < len(self.received):
                event = self.received[self._taken][1]
                self._taken += 1
                if isinstance(event, kind):
                    return event
            if self.closed_s is not None:
                raise EOFError(f"the connection was closed before a {kind.__name__} came")
            self._change.clear()
            await self._change.wait()

    def events(self, kind: type[Event]) -> list[Event]:
        """Return every event of a type that has arrived."""
        return [event for _, event in self.received if isinstance(event, kind)]

    async def wait_closed(self) -> None:
        """Wait until the server closes the connection."""
        while self.closed_s is None:
            self._change.clear()
            await self._change.wait()

    def _reach_server(self, item: Received) -> None:
        if not self._cut_off:
            self._heard_s = _now_s()
            self._inbox.put(item)

    def _take_event(self, event: ServerEvent) -> None:
        if self._cut_off:
            return
        self.received.append((_now_s(), event))
        self._change.set()

    def _take_audio(self, pcm: Pcm) -> None:
        if self._cut_off:
            return
        self.audio.append((_now_s(), pcm))
        self._change.set()

    def _see_close(self, error: DuplexError | None) -> None:
        if self.closed_s is None and not self._cut_off:
            self.closed_s = _now_s()
            self.closed_with = error
            self._change.set()


class LoopbackTransport:
    """The server's end, a :class:`~duplex_server.transports.base.Transport`; its :attr:`peer` is the client's.

    Args:
        traits: how audio leaves; see :data:`MESSAGE_TRAITS` and :data:`MEDIA_TRACK_TRAITS`.
        to_server: how events travel to the server. They keep their order; a lost one comes late.
        to_peer: how events travel to the peer, likewise.
        media_to_server: how packets of the peer's media tracks travel; they may be lost and overtake each other.
        media_to_peer: how ticks of audio travel to the peer, likewise.
    """

    def __init__(
        self,
        *,
        traits: TransportTraits = MESSAGE_TRAITS,
        to_server: Travel | None = None,
        to_peer: Travel | None = None,
        media_to_server: Travel | None = None,
        media_to_peer: Travel | None = None,
    ) -> None:
        self._traits = traits
        self._inbox: Mailbox[Received] = Mailbox(limit_items=INBOX_ITEMS, limit_bytes=0)
        self.peer = LoopbackPeer(self._inbox, to_server or steady(), media_to_server or steady())
        self._events_out: _Lane[ServerEvent] = _Lane(to_peer or steady(), self.peer._take_event, reliable=True)
        self._audio_out: _Lane[Pcm] = _Lane(media_to_peer or steady(), self.peer._take_audio, reliable=False)

    @property
    def traits(self) -> TransportTraits:
        """How audio leaves this connection."""
        return self._traits

    @property
    def ended(self) -> bool:
        """Whether the peer is gone, or the connection closed."""
        return self._inbox.closed

    @property
    def lost(self) -> bool:
        """Whether the peer's network was lost, and that noticed."""
        return self.peer._lost

    @property
    def heard_s(self) -> float:
        """When something last arrived from the peer."""
        return self.peer._heard_s

    def events(self) -> EventStream:
        """Iterate over what the peer sent; ends when it has left or :meth:`close` was called."""
        return self._inbox

    def send(self, event: ServerEvent) -> None:
        """Send an event to the peer; nothing after :meth:`close`."""
        if self.peer.closed_s is None:
            self._events_out.send(event)

    def send_audio(self, pcm: Pcm) -> None:
        """Send one tick of audio on the media track (float32, 24 kHz)."""
        assert self._traits.media_track, "this connection has no media track"
        if self.peer.closed_s is None:
            self._audio_out.send(pcm)

    def clear_audio(self) -> None:
        """Note the time: nothing waits here, so there is nothing to drop."""
        self.peer.cleared_s.append(_now_s())

    def stats(self) -> Mapping[str, float]:
        """Return the packets lost so far, of both directions."""
        return {"lost_packets": float(self._audio_out.lost + self.peer._media.lost)}

    async def close(self, error: DuplexError | None = None) -> None:
        """End the connection. Safe to call twice; the first error counts."""
        self._inbox.close(discard=True)
        self.peer._see_close(error)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
