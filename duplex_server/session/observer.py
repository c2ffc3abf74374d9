"""What a session tells those who watch: metrics and logs. Callables handed in, so the import arrow never bends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from duplex_server.session.timeline import TimelineStatistics

__all__ = ["SessionObserver", "SessionSummary", "SilentObserver"]


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """What a session came to."""

    session_id: str
    transport: str
    duration_s: float
    ended_by: str
    """``"peer"``, or the ``code`` of the error that ended it."""
    n_turns: int
    n_interruptions: int
    n_stale_samples: int
    """Model output that came for turns already cut."""
    n_underruns: int
    n_frames_dropped: int
    input: TimelineStatistics


class SessionObserver(Protocol):
    """Called on the event loop; must return at once."""

    def response_began(self, delay_s: float | None) -> None:
        """First audio of a turn leaves, ``delay_s`` after the user's speech ended; None if nobody had spoken."""
        ...

    def overlap_judged(self, outcome: str, reason: str, delay_s: float) -> None:
        """Speech over the model's: outcome ``"hold"``, ``"ignore"`` or ``"interrupt"``, ``delay_s`` after onset."""
        ...

    def units_waiting(self, count: int) -> None:
        """``count`` units wait for an engine that is behind."""
        ...

    def input_refused(self, seconds: float) -> None:
        """The peer sent more than the input buffer holds; so much was dropped."""
        ...

    def session_ended(self, summary: SessionSummary) -> None:
        """The session is over."""
        ...


class SilentObserver:
    """Watches nothing."""

    def response_began(self, delay_s: float | None) -> None: ...

    def overlap_judged(self, outcome: str, reason: str, delay_s: float) -> None: ...

    def units_waiting(self, count: int) -> None: ...

    def input_refused(self, seconds: float) -> None: ...

    def session_ended(self, summary: SessionSummary) -> None: ...
