"""What transports tell those who watch: callables handed in, so that the import arrow never bends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["SilentTransportObserver", "TransportObserver"]


class TransportObserver(Protocol):
    """Called on the event loop; must return at once. ``transport`` is a :attr:`TransportTraits.name`."""

    def connection_refused(self, transport: str, reason: str) -> None:
        """A connection was not let in: ``reason`` is the ``code`` of the error that the peer was told."""
        ...

    def connection_opened(self, transport: str) -> None:
        """A connection came to stand."""
        ...

    def connection_closed(self, transport: str, reason: str) -> None:
        """It ended: ``"peer"``, ``"server"``, ``"vanished"``, ``"slow"``, ``"refused"`` or ``"failed"``."""
        ...

    def bytes_moved(self, transport: str, received: int, sent: int) -> None:
        """So many bytes were received and sent since the last call."""
        ...

    def media_measured(self, stats: Mapping[str, float], grown: Mapping[str, float]) -> None:
        """How media gets through on one connection; called about once a second for each.

        Args:
            stats: as :meth:`~duplex_server.session.transport.Transport.stats` returns them.
            grown: how much each of them has grown since the last call.
        """
        ...


class SilentTransportObserver:
    """Watches nothing."""

    def connection_refused(self, transport: str, reason: str) -> None: ...

    def connection_opened(self, transport: str) -> None: ...

    def connection_closed(self, transport: str, reason: str) -> None: ...

    def bytes_moved(self, transport: str, received: int, sent: int) -> None: ...

    def media_measured(self, stats: Mapping[str, float], grown: Mapping[str, float]) -> None: ...
