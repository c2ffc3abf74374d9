"""What is counted of those who enter: wrong keys, client secrets and what they may still do, sessions of each key.

Knows nothing about keys or origins, which need no counting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from duplex_server.errors import AuthError
from duplex_server.security.ephemeral import ClientSecrets, Grant
from duplex_server.security.limits import Attempts, Quota

__all__ = ["OwnTally", "Tally", "count_in"]


class Tally(Protocol):
    """Counts for a gate: by itself, or for several processes together. Times are Unix seconds."""

    @property
    def failed_attempts(self) -> int:
        """Wrong keys that were shown here since the start."""
        ...

    def check(self, address: str, now_s: float) -> None:
        """Raise :class:`Throttled` if an address has used up its attempts."""
        ...

    def note_failure(self, address: str, now_s: float) -> None:
        """Count a wrong key."""
        ...

    def find(self, value: str, now_s: float, *, expired: bool = False) -> Grant | None:
        """Return what a client secret stands for; see :meth:`ClientSecrets.find`."""
        ...

    async def begin(self, key_id: str, grant: Grant | None, now_s: float) -> Callable[[], None]:
        """Count a session in, and return what counts it out again; calling that twice does no harm.

        Args:
            key_id: the key's; "" where none is needed.
            grant: of the client secret that was shown.
            now_s: Unix time.

        Raises:
            AuthError: the client secret has begun as many as it may.
            Throttled: the key has its share of sessions.

        A cancelled call counts nothing.
        """
        ...

    async def mint(self, grant: Grant, now_s: float) -> str:
        """Make a client secret, good everywhere when this returns.

        Raises:
            Throttled: its owner has too many.
        """
        ...


class OwnTally:
    """A :class:`Tally` of one process.

    Args:
        key_max_sessions: sessions at a time under one key; 0 for no bound.
        key_sessions_per_minute: sessions begun in a minute under one key; 0 for no bound.
    """

    def __init__(self, *, key_max_sessions: int = 0, key_sessions_per_minute: int = 0) -> None:
        self._attempts = Attempts()
        self._secrets = ClientSecrets()
        self._quota = Quota(max_sessions=key_max_sessions, per_minute=key_sessions_per_minute)

    @property
    def failed_attempts(self) -> int:
        """Wrong keys that were shown since the start, visits that were turned away unheard included."""
        return self._attempts.n_failed

    def check(self, address: str, now_s: float) -> None:
        """Raise :class:`Throttled` if an address has used up its attempts."""
        self._attempts.check(address, now_s)

    def note_failure(self, address: str, now_s: float) -> None:
        """Count a wrong key."""
        self._attempts.note_failure(address, now_s)

    def find(self, value: str, now_s: float, *, expired: bool = False) -> Grant | None:
        """Return what a client secret stands for; see :meth:`ClientSecrets.find`."""
        return self._secrets.find(value, now_s, expired=expired)

    async def begin(self, key_id: str, grant: Grant | None, now_s: float) -> Callable[[], None]:
        """Count a session in; see :class:`Tally`."""
        return count_in(self._quota, self._secrets, key_id, grant, now_s)

    async def mint(self, grant: Grant, now_s: float) -> str:
        """Make a client secret; see :class:`Tally`."""
        return self._secrets.mint(grant, now_s)


def count_in(
    quota: Quota, secrets: ClientSecrets, key_id: str, grant: Grant | None, now_s: float
) -> Callable[[], None]:
    """Count a session against its key and its client secret; see :meth:`Tally.begin`."""
    end = quota.begin(key_id, now_s) if key_id else _nothing
    if grant is not None:
        try:
            secrets.spend(grant)
        except AuthError:
            end()
            raise
    return end


def _nothing() -> None:
    """Count nobody out: who needs no key has no share."""
