"""Whether nothing has happened for so long that the model is to say something of its own accord.

Pure and synchronous; time is passed in. Knows nothing about events.
"""

from __future__ import annotations

__all__ = ["Idleness"]


class Idleness:
    """Counts how long nobody has spoken."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s

    @property
    def since_s(self) -> float:
        """When somebody last spoke, or was asked to."""
        return self._since_s

    def is_over(self, now_s: float, timeout_ms: int | None, *, busy: bool) -> bool:
        """Whether the time is up; it then begins anew.

        Args:
            now_s: called with a later time each time.
            timeout_ms: how long nothing may happen; None for ever.
            busy: the user speaks, the model is heard, or it is being asked to speak.
        """
        if busy or timeout_ms is None:
            self._since_s = now_s
            return False
        if now_s - self._since_s < timeout_ms / 1000:
            return False
        self._since_s = now_s
        return True
