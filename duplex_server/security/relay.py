"""Credentials that a TURN server takes until they expire.

Knows nothing about who is given them.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass

__all__ = ["RelayCredentials", "relay_credentials"]


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
    digest = hmac.new(secret.encode(), username.encode(), "sha1").digest()
    return RelayCredentials(username, base64.b64encode(digest).decode(), expires_at)
