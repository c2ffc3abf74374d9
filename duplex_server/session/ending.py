"""When a session is over, and why: the time limit, a server that stops, a peer or a model that says goodbye.

Pure and synchronous; time is passed in. Knows nothing about what an ending does to a connection.
"""

from __future__ import annotations

from duplex_server.errors import SessionExpired

__all__ = ["Ending"]

_NOTICE_S = 30.0
"""A planned end is announced this far ahead. Source: realtime protocol notes §5.7."""


class Ending:
    """Hold the earliest end that is planned, and tell of it once in time."""

    def __init__(self, began_s: float, session_max_s: float) -> None:
        self._session_max_s = session_max_s
        self._ends_at_s = began_s + session_max_s
        self._reason = "timeout"
        self._announced = False
        self._last_words = False

    def shut_down(self, at_s: float) -> None:
        """The server stops: the session may go on until ``at_s``."""
        if at_s < self._ends_at_s:
            self._ends_at_s, self._reason, self._announced = at_s, "shutdown", False

    def client_leaves(self, now_s: float) -> None:
        """The peer said goodbye: the session is over now."""
        self._ends_at_s, self._reason, self._announced = now_s, "client", True

    def model_leaves(self) -> None:
        """The model said goodbye: the session is over once that has been heard."""
        self._last_words = True

    def announcement(self, now_s: float) -> tuple[str, int] | None:
        """Return the reason and the milliseconds left, once, when the end comes near; else None."""
        left_s = self._ends_at_s - now_s
        if self._announced or not 0 < left_s <= _NOTICE_S:
            return None
        self._announced = True
        return self._reason, int(left_s * 1000)

    def is_over(self, now_s: float, *, model_audible: bool) -> bool:
        """Whether the session ends now."""
        if self._last_words and not model_audible:
            self._ends_at_s, self._reason = now_s, "model"
        return now_s >= self._ends_at_s

    @property
    def by_model(self) -> bool:
        """Whether the model said goodbye. Nobody knew ahead, so nobody was told."""
        return self._reason == "model"

    @property
    def error(self) -> SessionExpired | None:
        """What the peer is told; None when somebody said goodbye."""
        if self._reason == "timeout":
            minutes = self._session_max_s / 60
            return SessionExpired("timeout", f"Your session hit the maximum duration of {minutes:.0f} minutes.")
        if self._reason == "shutdown":
            return SessionExpired("shutdown", "The server is being restarted. Please connect again.")
        return None
