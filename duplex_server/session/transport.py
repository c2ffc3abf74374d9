"""The border to the network: what a session needs of a connection. The transports room implements it.

Knows nothing about turns, models or who may enter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplex_server.errors import ClientError, DuplexError
from duplex_server.types import Pcm
from duplex_server.wire.events import ClientEvent, ServerEvent

__all__ = ["EventStream", "MediaAudio", "MediaFrame", "Received", "Transport", "TransportTraits"]


@dataclass(frozen=True, slots=True)
class MediaAudio:
    """Decoded audio from a media track."""

    pcm: Pcm
    """float32 mono 16 kHz."""
    position_samples: int
    """Where it belongs on the sender's media clock, samples at 16 kHz from the track's first packet."""


@dataclass(frozen=True, slots=True)
class MediaFrame:
    """A decoded picture from a media track."""

    rgb: npt.NDArray[np.uint8]
    """uint8 ``[height, width, 3]``."""


Received = ClientEvent | MediaAudio | MediaFrame | ClientError
"""What a transport's event stream yields. A :class:`ClientError` stands for a message that could not be decoded: the
session answers it with an ``error`` event and goes on."""


class EventStream(Protocol):
    """What one peer sends, for one reader. It ends, without an error, when the peer is gone or the transport closed."""

    def __aiter__(self) -> AsyncIterator[Received]: ...

    def __anext__(self) -> Awaitable[Received]: ...

    async def for_each(self, take: Callable[[Received], None]) -> None:
        """Call a function with each item in the moment in which it comes, without a task's turn; return at the end.

        What ``take`` raises is raised here, and ends it. Cancelled, it leaves what was not taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class TransportTraits:
    """How audio leaves this kind of connection."""

    name: str
    """``"webrtc"``, ``"websocket"`` or ``"loopback"``, for metrics."""
    media_track: bool
    """Audio leaves on a media track (:meth:`Transport.send_audio`); otherwise as ``response.output_audio.delta``."""
    chunk_ms: int
    """Audio is handed over in pieces of this length; a multiple of the tick."""
    lead_ms: int
    """How far audio is sent ahead of real time, so that the peer's player does not run dry.

    0 on a media track, where the receiver has a jitter buffer of its own.
    """


class Transport(Protocol):
    """One peer's connection. Owned by one session; all methods run on the event loop."""

    @property
    def traits(self) -> TransportTraits: ...

    @property
    def ended(self) -> bool:
        """Whether the peer is gone, or the connection closed; what it sent before may still wait."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the event stream ended without anybody's word: the network failed, or the peer did not read."""
        ...

    @property
    def heard_s(self) -> float:
        """When something last arrived from the peer, loop time; only with ``traits.media_track``."""
        ...

    def events(self) -> EventStream:
        """Return what the peer sends.

        The transport always keeps reading its socket, whether or not anybody takes; what it reads waits in a bounded
        queue.
        """
        ...

    def send(self, event: ServerEvent) -> None:
        """Queue an event for the peer. Never waits.

        If the peer does not read and its queue is full, the connection is given up: the event is dropped, the
        :meth:`events` iterator ends, and the reason (``SlowPeer``) is counted.
        """
        ...

    def send_audio(self, pcm: Pcm) -> None:
        """Put one tick of audio on the media track (float32, 24 kHz). Never waits; only with ``traits.media_track``.

        Not called while there is nothing to play: the track then sends nothing, and its clock goes on.
        """
        ...

    def clear_audio(self) -> None:
        """Drop audio handed to :meth:`send_audio` that has not left yet."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Return what is known of the connection's quality: ``rtt_ms``, ``jitter_ms``, ``lost_packets`` …"""
        ...

    async def close(self, error: DuplexError | None = None) -> None:
        """Send what is queued, say why, close. Safe to call twice; takes at most a few seconds.

        Args:
            error: decides the close code: None 1000, SessionExpired 1001, CapacityError 1013, AuthError 1008,
                any other 1011. The ``error`` event itself has been sent by the session.
        """
        ...
