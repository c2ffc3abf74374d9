"""How a connection spells the protocol's events: the border between a transport's text and the dialogue's events.

Every surface is a dialect over one :class:`~duplex_server.wire.dialogue.Dialogue`. Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.events import ClientEvent, ServerEvent

__all__ = ["Dialect", "RealtimeDialect"]


class Dialect(Protocol):
    """Translates one connection's messages. Made for it, and used by it alone."""

    @property
    def muted(self) -> bool:
        """Whether the peer asked that its sound be taken for silence; a media track's sound is then dropped."""
        ...

    def receive(self, text: str, *, max_bytes: int) -> Sequence[ClientEvent]:
        """Return what a message from the peer asks for, in order.

        Raises:
            InvalidEvent: it is not a message of this dialect, or longer than ``max_bytes``.
        """
        ...

    def tell(self, event: ServerEvent) -> Sequence[bytes]:
        """Return the messages, JSON as UTF-8, that tell the peer of an event; none if it need not know."""
        ...


class RealtimeDialect:
    """OpenAI's Realtime API, which is what the dialogue itself speaks."""

    muted = False

    def receive(self, text: str, *, max_bytes: int) -> Sequence[ClientEvent]:
        """Decode one event."""
        return (decode_client(text, max_bytes=max_bytes),)

    def tell(self, event: ServerEvent) -> Sequence[bytes]:
        """Encode one event."""
        return (encode(event),)
