"""Who else hears the events of a call: sockets attached to it beside its own data channel.

Knows nothing about calls or sockets.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from duplex_server.errors import CapacityError
from duplex_server.wire.dialect import Dialect
from duplex_server.wire.events import ServerEvent, SessionCreated, SessionUpdated
from duplex_server.wire.session_object import Session

__all__ = ["Listener", "Listeners"]

MAX_LISTENERS = 8
"""Sockets attached to one call."""
_RETRY_S = 10.0


class Listener(Protocol):
    """Somebody who hears a call's events."""

    def send_text(self, text: str) -> None:
        """Take a message as the call's own peer gets it. Never waits."""
        ...

    def hang_up(self) -> None:
        """Learn that the call is over."""
        ...


class Listeners:
    """The listeners of one call.

    Args:
        dialect: the call's.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._listeners: set[Listener] = set()  # bounded by MAX_LISTENERS
        self._session: Session | None = None  # as the peer was told last

    @contextmanager
    def joined(self, listener: Listener) -> Iterator[None]:
        """Let a listener have every event, beginning with ``session.created``, until the block is left.

        Raises:
            CapacityError: the call has as many listeners as it may.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise CapacityError(_RETRY_S)
        if self._session is not None:
            created = SessionCreated(event_id=f"event_{secrets.token_hex(12)}", session=self._session)
            for message in self._dialect.tell(created):
                listener.send_text(message.decode())
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def send(self, event: ServerEvent, messages: Sequence[str]) -> None:
        """Give all of them the messages that tell of an event."""
        if isinstance(event, (SessionCreated, SessionUpdated)):
            self._session = event.session
        for listener in tuple(self._listeners):
            for message in messages:
                listener.send_text(message)

    def hang_up(self) -> None:
        """Tell all of them that the call is over."""
        for listener in tuple(self._listeners):
            listener.hang_up()
