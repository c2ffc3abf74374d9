"""Identifiers of one session's events, items and responses.

Made from the session's own id and a counter: unique over sessions because that id is, and the same in every replay.
"""

from __future__ import annotations

__all__ = ["Ids"]

_SEED_CHARS = 16
"""Of the session's id: with the counter an id stays within the 32 characters that OpenAI's items had at first."""


class Ids:
    """Gives out ids; each kind counts for itself."""

    def __init__(self, session_id: str) -> None:
        self._seed = session_id.removeprefix("sess_")[:_SEED_CHARS]
        self._n_events = self._n_items = self._n_responses = 0

    @property
    def conversation(self) -> str:
        """Id of the session's one conversation."""
        return f"conv_{self._seed}"

    def event(self) -> str:
        """Return a new ``event_id``."""
        self._n_events += 1
        return f"event_{self._seed}{self._n_events:06x}"

    def item(self) -> str:
        """Return a new item id."""
        self._n_items += 1
        return f"item_{self._seed}{self._n_items:06x}"

    def response(self) -> str:
        """Return a new response id."""
        self._n_responses += 1
        return f"resp_{self._seed}{self._n_responses:06x}"
