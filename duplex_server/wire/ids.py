"""Identifiers: of sessions and calls, which name the gateway that has them, and of one session's events and items.

The latter are made from the session's own id and a counter: unique over sessions because that id is, and the same in
every replay. Knows nothing about what gateways are.
"""

from __future__ import annotations

import secrets

__all__ = ["MAX_GATEWAYS", "Ids", "gateway_of", "new_call_id", "new_session_id"]

MAX_GATEWAYS = 256
"""Two hexadecimal digits of an id."""

_SEED_CHARS = 16
"""Of the session's id: with the counter an id stays within the 32 characters that OpenAI's items had at first."""


def new_session_id(gateway: int) -> str:
    """Return the id of a new session: ``sess_``, two digits for the gateway that has it, and 22 that nobody guesses."""
    return f"sess_{gateway:02x}{secrets.token_hex(11)}"


def new_call_id(gateway: int) -> str:
    """Return the id of a new call: ``rtc_``, two digits for the gateway that has it, and 30 that nobody guesses."""
    return f"rtc_{gateway:02x}{secrets.token_hex(15)}"


def gateway_of(id_: str) -> int | None:
    """Return which gateway an id names; None if it is no id of a session or a call.

    An id is a peer's word: that gateway need not exist, nor have what the id names.
    """
    kind, _, rest = id_.partition("_")
    digits = rest[:2]
    if kind not in ("sess", "rtc") or len(digits) < 2 or not set(digits) <= set("0123456789abcdef"):
        return None
    return int(digits, 16)


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
