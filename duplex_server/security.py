"""Who may enter: API keys, and the web pages whose scripts may use a browser's way to this server.

Knows nothing about HTTP beyond the few texts that a request shows. Keys are kept as SHA-256 digests only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from duplex_server.config import Settings, accepted_keys, is_loopback
from duplex_server.errors import AuthError

__all__ = ["KEY_PROTOCOL", "ForeignOrigin", "Gate", "RelayCredentials", "Visitor", "relay_credentials"]

KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the WebSocket subprotocol by which browsers, which can set no header, show a key. Source: OpenAI Realtime."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ForeignOrigin(AuthError):
    """A web page of another site, or a name that is not ours, asks to be let in; HTTP 403."""

    code = "origin_not_allowed"


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


class Gate:
    """Decides who may enter. Immutable.

    Args:
        keys: API keys that open it; without any it is open to everybody who reaches it.
        allowed_origins: origins besides our own whose pages may connect; ``*`` for all.
        loopback: whether only this machine can reach the server.
    """

    def __init__(self, keys: Iterable[str], allowed_origins: Iterable[str], *, loopback: bool) -> None:
        self._digests = tuple(_digest(key) for key in keys)
        self._origins = frozenset(origin.lower() for origin in allowed_origins)
        self._loopback = loopback

    @classmethod
    def of(cls, settings: Settings) -> Gate:
        """Build the gate that the settings ask for.

        Raises:
            ConfigError: the key file cannot be read.
        """
        return cls(accepted_keys(settings), settings.allowed_origins, loopback=is_loopback(settings.host))

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins besides our own whose pages may connect."""
        return self._origins

    def admit(self, visitor: Visitor) -> None:
        """Let a visitor pass, or raise.

        Raises:
            ForeignOrigin: a page of another site made the request in its visitor's browser, or, where no key protects
                the server, the request calls it by a name that an attacker may have pointed at this machine.
            AuthError: the key is missing or wrong.
        """
        self._check_origin(visitor)
        if self._digests and not self._knows(_shown_key(visitor)):
            raise AuthError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY', as the WebSocket "
                f"subprotocol '{KEY_PROTOCOL}KEY', or as '?api_key=KEY'."
            )

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

    def _knows(self, key: str) -> bool:
        digest = _digest(key)
        known = False
        for mine in self._digests:  # all of them, so that the time taken tells nothing
            known |= hmac.compare_digest(mine, digest)
        return known


@dataclass(frozen=True, slots=True)
class RelayCredentials:
    """A name and a password that a TURN server takes until they expire."""

    username: str
    password: str
    expires_at: int
    """Unix time, seconds."""


def relay_credentials(secret: str, *, ttl_s: int, now_s: float, name: str) -> RelayCredentials:
    """Make credentials for a TURN server that shares ``secret`` with us.

    Source: draft-uberti-behave-turn-rest-00 §2.2, which coturn implements as ``use-auth-secret``; it fixes SHA-1.

    Args:
        secret: coturn's ``static-auth-secret``.
        ttl_s: how long they are valid.
        now_s: Unix time.
        name: who they are for, as the relay's log shows it.
    """
    expires_at = int(now_s) + ttl_s
    username = f"{expires_at}:{name}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return RelayCredentials(username, base64.b64encode(digest).decode(), expires_at)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


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
