"""API keys: how a new one is made, and the form in which keys are kept.

Knows nothing about who shows a key.
"""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["HASHED_PREFIX", "KEY_PATTERN", "hashed_key", "key_digest", "new_key", "shown_digest"]

HASHED_PREFIX = "sha256:"
"""Begins a key of which only the SHA-256 digest is kept, in hexadecimal."""

KEY_PATTERN = rf"^({HASHED_PREFIX}[0-9a-f]{{64}}|(?!{HASHED_PREFIX})[!-~]{{8,}})\Z"
"""What a key may look like where it is configured: a digest, or at least 8 visible ASCII characters, since a key
travels in an HTTP header."""

_RANDOM_BYTES = 32


def new_key() -> str:
    """Make a key that nobody guesses: 256 random bits."""
    return f"dk_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def hashed_key(key: str) -> str:
    """Return the form in which a key may lie in a file without opening anything."""
    return HASHED_PREFIX + key_digest(key).hex()


def key_digest(key: str) -> bytes:
    """Return what is kept of a key, given as itself or in its hashed form.

    SHA-256 once, not a slow hash: it is computed for every request, and a key of 256 random bits cannot be found by
    trying however fast the hash is. A short key that somebody made up gains no strength from being hashed.
    """
    if key.startswith(HASHED_PREFIX):
        return bytes.fromhex(key.removeprefix(HASHED_PREFIX))
    return shown_digest(key)


def shown_digest(key: str) -> bytes:
    """Return the digest of a key that somebody shows; the hashed form is not a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
