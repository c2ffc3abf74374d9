"""Why somebody is kept out, besides a wrong key.

Knows nothing about HTTP; the transports room maps each to a status.
"""

from __future__ import annotations

from duplex_server.errors import AuthError, ClientError

__all__ = ["ForeignOrigin", "NotPermitted", "Throttled"]


class ForeignOrigin(AuthError):
    """A web page of another site, or a name that is not ours, asks to be let in; HTTP 403."""

    code = "origin_not_allowed"


class NotPermitted(AuthError):
    """A client secret was shown for something that needs an API key; HTTP 403."""

    code = "insufficient_permissions"


class Throttled(ClientError):
    """Too many wrong keys from one address, or too many sessions under one key; HTTP 429.

    Args:
        message: one sentence for the peer.
        retry_after_s: when the same request may succeed, seconds.
    """

    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
