"""When a session is over, and why: limits, a server that stops, a peer that leaves or is lost, a model that is done.

Pure and synchronous; time is passed in, the event loop's. Knows nothing about what an ending does to a connection.
"""

from __future__ import annotations

from typing import Literal

from duplex_server.errors import SessionExpired
from duplex_server.types import TICK_MS

__all__ = ["Ending", "Reason"]

_NOTICE_S = 30.0 + TICK_MS / 1000
"""A planned end is announced at least 30 s ahead, if it is known so early; asked once per tick. Source: realtime
protocol notes §5.7."""

Reason = Literal["timeout", "shutdown", "paused", "client", "lost", "model"]
_ANNOUNCED: tuple[Reason, ...] = ("timeout", "shutdown", "paused")


class Ending:
    """Hold the ends that are planned, tell of the earliest in time, and say when it has come."""

    def __init__(self, began_s: float, session_max_s: float) -> None:
        self._session_max_s = session_max_s
        self._plans: dict[Reason, float] = {"timeout": began_s + session_max_s}  # one per reason
        self._told: set[Reason] = set()
        self._last_words = False

    def plan(self, reason: Reason, at_s: float) -> None:
        """The session ends at ``at_s`` unless something else ends it before, or the plan is given up."""
        self._plans[reason] = at_s

    def give_up(self, reason: Reason) -> None:
        """The session does not end for this reason."""
        self._plans.pop(reason, None)
        self._told.discard(reason)

    def model_leaves(self) -> None:
        """The model said goodbye: the session is over once that has been heard."""
        self._last_words = True

    def announcement(self, now_s: float) -> tuple[Reason, int] | None:
        """Return the reason and the milliseconds left, once, when the earliest end comes near; else None."""
        reason, left_s = self._next(now_s)
        if reason in self._told or reason not in _ANNOUNCED or not 0 < left_s <= _NOTICE_S:
            return None
        self._told.add(reason)
        return reason, int(left_s * 1000)

    def is_over(self, now_s: float, *, model_audible: bool) -> bool:
        """Whether the session ends now."""
        if self._last_words and not model_audible:
            self._plans["model"] = min(now_s, self._plans.get("model", now_s))
        return self._next(now_s)[1] <= 0

    def remaining_ms(self, now_s: float) -> int:
        """How long the session may go on at most."""
        return max(0, int((self._plans["timeout"] - now_s) * 1000))

    def left_s(self, reason: Reason, now_s: float) -> float:
        """Seconds until a planned end, whether or not another comes before."""
        return self._plans[reason] - now_s

    @property
    def reason(self) -> Reason:
        """Why it ends, or will."""
        return self._next(0.0)[0]

    @property
    def error(self) -> SessionExpired | None:
        """What the peer is told; None when somebody said goodbye, or nobody is there."""
        match self.reason:
            case "timeout":
                minutes = self._session_max_s / 60
                return SessionExpired("timeout", f"Your session hit the maximum duration of {minutes:.0f} minutes.")
            case "shutdown":
                return SessionExpired("shutdown", "The server is being restarted. Please connect again.")
            case "paused":
                return SessionExpired("paused", "Your session was paused for too long.")
            case _:
                return None

    def _next(self, now_s: float) -> tuple[Reason, float]:
        """Return the earliest end, and the seconds until then."""
        reason = min(self._plans, key=self._plans.__getitem__)
        return reason, self._plans[reason] - now_s
