"""Events that a peer may have missed, numbered and kept until it says that they arrived, or the bound is reached.

Pure and synchronous. Knows nothing about connections.
"""

from __future__ import annotations

from collections import deque

import msgspec

from duplex_server.wire.codec import encode
from duplex_server.wire.events import ResponseOutputAudioDelta, ServerEvent, SessionCreated, SessionUpdated

__all__ = ["Journal", "with_token"]

_ENVELOPE_BYTES = 350
"""JSON around the samples of an audio delta, so that it need not be encoded to be weighed."""


class Journal:
    """The newest events of one session.

    Args:
        limit_bytes: most that is kept, as JSON; beyond it the oldest events go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: deque[tuple[ServerEvent, int]] = deque()  # bounded by _limit_bytes
        self._n_bytes = 0
        self.newest = 0
        """Number of the newest event, 0 before the first."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def oldest(self) -> int:
        """Number of the oldest event that is kept; where none is, of the next one."""
        return self.newest - len(self._kept) + 1

    def append(self, event: ServerEvent) -> ServerEvent:
        """Keep an event, and return it with its number."""
        self.newest += 1
        event = msgspec.structs.replace(event, server_event_seq=self.newest)
        weight = _weight(event)
        self._kept.append((event, weight))
        self._n_bytes += weight
        while self._n_bytes > self._limit_bytes and len(self._kept) > 1:
            self._drop_oldest()
        return event

    def forget(self, through: int) -> None:
        """Drop the events up to number ``through``; they arrived."""
        while self._kept and self.oldest <= through:
            self._drop_oldest()

    def after(self, number: int) -> list[ServerEvent]:
        """Return the events that are kept with a number above ``number``, oldest first."""
        skipped = max(0, number + 1 - self.oldest)
        return [event for event, _ in self._kept][skipped:]

    def _drop_oldest(self) -> None:
        self._n_bytes -= self._kept.popleft()[1]


def _weight(event: ServerEvent) -> int:
    if isinstance(event, ResponseOutputAudioDelta):
        return _ENVELOPE_BYTES + len(event.delta) * 4 // 3
    return len(encode(event))


def with_token(event: SessionCreated | SessionUpdated, token: str, generation: int) -> ServerEvent:
    """Return the event with what the client needs to resume the session."""
    if isinstance(event, SessionUpdated):
        return msgspec.structs.replace(event, resume_token=token)
    return msgspec.structs.replace(event, resume_token=token, attachment_generation=generation)
