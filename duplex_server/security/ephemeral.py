"""Client secrets: short-lived keys that a server's owner hands to a browser, each on a leash.

Kept in memory, by digest: a restart of the server ends them. Pure and synchronous; time is passed in. Knows nothing
about what is in a session's configuration.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from duplex_server.config import shown_digest
from duplex_server.errors import AuthError
from duplex_server.security.refusals import Throttled

__all__ = ["SECRET_PREFIX", "ClientSecrets", "Grant", "new_secret"]

SECRET_PREFIX = "ek_"  # noqa: S105 - not a secret, but how one begins
"""Begins every client secret. Source: OpenAI's Realtime API; its JavaScript client refuses others in a browser."""

REMEMBERED_S = 86_400
"""How long an expired secret may still speak for the sessions that it began; no session is longer."""

MAX_SECRETS = 10_000
"""Secrets of one key that are remembered. With a session of some kilobytes each this is tens of megabytes."""


@dataclass(slots=True)
class Grant:
    """What a client secret stands for."""

    owner: str
    """``key_id`` of the key that made it; its sessions count as that key's."""
    expires_at: int
    """Unix time, seconds. Gates the begin of sessions, not their going on."""
    session: Any
    """What the sessions begin with; opaque here."""
    max_session_s: float | None = None
    """Longest session; None: as long as any."""
    sessions_left: int | None = None
    """How many more sessions it may begin; None: any number."""
    digest: bytes = b""
    """Of the secret, once it is kept."""


def new_secret() -> tuple[str, bytes]:
    """Return a new secret and its digest."""
    value = SECRET_PREFIX + secrets.token_hex(24)
    return value, shown_digest(value)


class ClientSecrets:
    """All secrets that may still begin a session."""

    def __init__(self) -> None:
        self._grants: dict[bytes, Grant] = {}  # by digest, oldest first; bounded by MAX_SECRETS for each key

    def __len__(self) -> int:
        return len(self._grants)

    @property
    def grants(self) -> Mapping[bytes, Grant]:
        """All grants by the digests of their secrets, those that have expired lately included."""
        return MappingProxyType(self._grants)

    def mint(self, grant: Grant, now_s: float) -> str:
        """Make a secret for a grant.

        Raises:
            Throttled: its owner has made too many within a day.
        """
        value, digest = new_secret()
        self.keep(digest, grant, now_s)
        return value

    def keep(self, digest: bytes, grant: Grant, now_s: float) -> None:
        """Take note of a grant, whose secret was made elsewhere.

        Raises:
            Throttled: its owner has made too many within a day.
        """
        self._forget_expired(now_s)
        if sum(other.owner == grant.owner for other in self._grants.values()) >= MAX_SECRETS:
            raise Throttled(f"This key has made {MAX_SECRETS} client secrets within a day.", 600.0)
        grant.digest = digest
        self._grants[digest] = grant

    def find(self, value: str, now_s: float, *, expired: bool = False) -> Grant | None:
        """Return what a secret stands for; None if it is none, or, unless ``expired`` are asked for too, has expired.

        Looked up by digest: how long that takes tells of the digest, from which nobody gets to a secret.
        """
        if not value.startswith(SECRET_PREFIX):
            return None
        grant = self._grants.get(shown_digest(value))
        return None if grant is None or (grant.expires_at <= now_s and not expired) else grant

    def spend(self, grant: Grant) -> None:
        """Count a session against a grant.

        Raises:
            AuthError: it has begun as many as it may.
        """
        if grant.sessions_left is None:
            return
        if not grant.sessions_left:
            raise AuthError("This client secret has begun as many sessions as it may.")
        grant.sessions_left -= 1

    def _forget_expired(self, now_s: float) -> None:
        for digest in [key for key, grant in self._grants.items() if grant.expires_at + REMEMBERED_S <= now_s]:
            del self._grants[digest]
