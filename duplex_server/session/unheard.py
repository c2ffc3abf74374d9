"""Speech that left on a media track and may not have arrived, and speech that waits to be sent again.

Events can be numbered and asked for again; a track cannot, so what left lately is kept with its place. Pure and
synchronous; time is passed in. Knows nothing about connections.
"""

from __future__ import annotations

from collections import deque

from duplex_server.types import TICK_MS, Pcm

__all__ = ["Unheard"]

_KEPT_TICKS = 600
"""12 s: a vanished peer is noticed within 9 s, and the rest is its coming back before that."""
_TICK_S = TICK_MS / 1000


class Unheard:
    """The track's newest ticks. One tick leaves per tick of the session at most, so what is repeated keeps its pace."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, Pcm]] = deque(maxlen=_KEPT_TICKS)
        self._waiting: deque[Pcm] = deque()  # bounded by _KEPT_TICKS and what is said until the next silence
        self._began_s: float | None = None

    @property
    def behind(self) -> bool:
        """Whether speech waits for its turn."""
        return bool(self._waiting)

    def queue(self, pcm: Pcm) -> None:
        """Let a tick wait behind the others."""
        self._waiting.append(pcm)

    def take(self) -> Pcm | None:
        """Return the tick to send now, if one waits; whoever sends it calls :meth:`note`."""
        return self._waiting.popleft() if self._waiting else None

    def note(self, pcm: Pcm, now_s: float) -> None:
        """Remember a tick that leaves now."""
        if self._began_s is None:
            self._began_s = now_s
        self._sent.append((now_s, pcm))

    def clear(self) -> None:
        """Forget all: nothing of it is to be heard any more."""
        self._sent.clear()
        self._waiting.clear()

    def repeat(self, *, received_ms: float | None, heard_s: float) -> None:
        """Let what did not arrive wait to be sent over a new track.

        Args:
            received_ms: how far the old track's sound arrived, from its first tick on; None if the peer does not know.
            heard_s: when the peer was last heard; in its place, what left later is taken for lost.
        """
        began_s = self._began_s or 0.0
        arrived_s = heard_s if received_ms is None else began_s + received_ms / 1000
        lost = [pcm for sent_s, pcm in self._sent if sent_s > arrived_s - _TICK_S / 2]
        self._waiting.extendleft(reversed(lost))
        self._sent.clear()
        self._began_s = None
