"""Who may enter: API keys and client secrets, and the web pages whose scripts may use a browser's way to this server.

Knows nothing about HTTP beyond the few texts that a request shows. Keys are kept as SHA-256 digests only.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from duplex_server.config import Settings, accepted_keys, is_loopback, shown_digest
from duplex_server.errors import AuthError
from duplex_server.security.ephemeral import Grant
from duplex_server.security.refusals import ForeignOrigin, NotPermitted
from duplex_server.security.tally import OwnTally, Tally

__all__ = ["KEY_PROTOCOL", "Entry", "Gate", "Visitor"]

KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the WebSocket subprotocol by which browsers, which can set no header, show a key. Source: OpenAI Realtime."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a request shows of who made it."""

    authorization: str = ""
    """The ``Authorization`` header."""
    subprotocols: Sequence[str] = ()
    """Offered in a WebSocket handshake."""
    query_key: str = ""
    """``?api_key=``."""
    origin: str = ""
    """The ``Origin`` header, which browsers set and scripts in them cannot change."""
    host: str = ""
    """The ``Host`` header."""
    address: str = ""
    """Where it came from, for the count of wrong keys."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Who was let in."""

    key_id: str = ""
    """Tells keys apart, and tells nothing of them; empty where no key is needed."""
    grant: Grant | None = None
    """The client secret that was shown; None for a key."""

    @property
    def max_session_s(self) -> float | None:
        """Longest session; None: as long as any."""
        return self.grant.max_session_s if self.grant else None

    @property
    def session(self) -> Any:
        """What a session begins with, as it was given when the secret was made; None for the server's defaults."""
        return self.grant.session if self.grant else None


class Gate:
    """Decides who may enter, and how often."""

    def __init__(
        self,
        keys: Iterable[bytes],
        allowed_origins: Iterable[str],
        *,
        loopback: bool,
        clock_s: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        """
        Args:
            keys: digests of the API keys that open it; without any it is open to everybody who reaches it.
            allowed_origins: origins besides our own whose pages may connect; ``*`` for all.
            loopback: whether only this machine can reach the server.
            clock_s: Unix time, by which client secrets expire.
            tally: counts those who enter; None: one of our own, without bounds.
        """
        self._digests = tuple(keys)
        self._origins = frozenset(origin.lower() for origin in allowed_origins)
        self._loopback = loopback
        self._clock_s = clock_s
        self._tally = tally or OwnTally()

    @classmethod
    def of(cls, settings: Settings, clock_s: Callable[[], float], tally: Tally | None = None) -> Gate:
        """Build the gate that the settings ask for, with a tally of its own unless it is given one.

        Raises:
            ConfigError: the key file cannot be read.
        """
        return cls(
            accepted_keys(settings),
            settings.allowed_origins,
            loopback=is_loopback(settings.host),
            clock_s=clock_s,
            tally=tally
            or OwnTally(
                key_max_sessions=settings.key_max_sessions,
                key_sessions_per_minute=settings.key_sessions_per_minute,
            ),
        )

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins besides our own whose pages may connect."""
        return self._origins

    @property
    def failed_attempts(self) -> int:
        """Wrong keys that were shown since the start, visits that were turned away unheard included."""
        return self._tally.failed_attempts

    def admit(self, visitor: Visitor, *, to_go_on: bool = False) -> Entry:
        """Let a visitor pass, or raise.

        Args:
            visitor: what the request shows.
            to_go_on: about a session that runs, for which a client secret is good even after it has expired.

        Raises:
            ForeignOrigin: a page of another site made the request in its visitor's browser, or, where no key protects
                the server, the request calls it by a name that an attacker may have pointed at this machine.
            AuthError: the key is missing or wrong, or the client secret has expired.
            Throttled: too many wrong ones came from the same address.
        """
        self._check_origin(visitor)
        shown, now_s = _shown_key(visitor), self._clock_s()
        if not self._digests:  # open to all; a client secret still brings its session and its leash
            return Entry("", self._tally.find(shown, now_s))
        self._tally.check(visitor.address, now_s)
        digest = self._match(shown)
        if digest is not None:
            return Entry(digest.hex()[:12])
        grant = self._tally.find(shown, now_s, expired=to_go_on)
        if grant is not None:
            return Entry(grant.owner, grant)
        if shown:  # showing none is no guess
            self._tally.note_failure(visitor.address, now_s)
        raise AuthError(
            "The API key is missing or wrong, or the client secret has expired. Send it as 'Authorization: Bearer "
            f"KEY', as the WebSocket subprotocol '{KEY_PROTOCOL}KEY', or as '?api_key=KEY'."
        )

    def admit_owner(self, visitor: Visitor) -> Entry:
        """Let a visitor pass who shows a key, and not a client secret.

        Raises:
            NotPermitted: it is a client secret.
            ForeignOrigin, AuthError, Throttled: as :meth:`admit`.
        """
        entry = self.admit(visitor)
        if entry.grant is not None:
            raise NotPermitted("A client secret opens conversations and nothing else. Use an API key.")
        return entry

    async def begin_session(self, entry: Entry) -> Callable[[], None]:
        """Count a session against its key and its client secret; return what counts it out again.

        Raises:
            AuthError: the client secret has begun as many as it may.
            Throttled: the key has its share of sessions.

        A cancelled call counts nothing.
        """
        return await self._tally.begin(entry.key_id, entry.grant, self._clock_s())

    async def mint(
        self, owner: Entry, *, ttl_s: int, session: Any, max_session_s: float | None, max_sessions: int | None
    ) -> tuple[str, int]:
        """Make a client secret.

        Args:
            owner: from :meth:`admit_owner`.
            ttl_s: how long it may begin sessions.
            session: what they begin with.
            max_session_s: longest session; None: as long as any.
            max_sessions: how many it may begin; None: any number.

        Returns:
            The secret, and when it expires, Unix seconds.

        Raises:
            Throttled: its owner has too many.
        """
        now_s = self._clock_s()
        grant = Grant(owner.key_id, int(now_s) + ttl_s, session, max_session_s, max_sessions)
        return await self._tally.mint(grant, now_s), grant.expires_at

    def _check_origin(self, visitor: Visitor) -> None:
        origin = visitor.origin.lower()
        if "*" in self._origins or origin in self._origins:
            return
        if origin and not _same_origin(origin, visitor.host):
            raise ForeignOrigin(
                f"Pages from {visitor.origin[:200]} may not connect. Add the origin to allowed_origins if they should."
            )
        if self._loopback and not self._digests and not self._is_our_name(visitor.host):
            raise ForeignOrigin(
                f"Without an API key this server answers to localhost only, not to {visitor.host[:200]}. Set api_keys, "
                "or add the page's origin to allowed_origins."
            )

    def _is_our_name(self, host: str) -> bool:
        name = _host_name(host)
        if name == "localhost" or name.endswith(".localhost") or any(_host_of(o) == name for o in self._origins):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _match(self, shown: str) -> bytes | None:
        digest = shown_digest(shown)
        found: bytes | None = None
        for mine in self._digests:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(mine, digest):
                found = mine
        return found


def _shown_key(visitor: Visitor) -> str:
    scheme, _, key = visitor.authorization.partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    for protocol in visitor.subprotocols:
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
    return visitor.query_key


def _same_origin(origin: str, host: str) -> bool:
    """Whether a page came from us: a proxy in front may have ended TLS, so that the scheme does not count."""
    try:
        page, ours = urlsplit(origin), urlsplit(f"//{host.lower()}")
        default = _DEFAULT_PORTS.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or default) == (ours.hostname, ours.port or default)
    except ValueError:
        return False


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host.lower()}").hostname or ""
    except ValueError:
        return ""


def _host_of(origin: str) -> str:
    return urlsplit(origin).hostname or ""
