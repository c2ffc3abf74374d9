"""The one place where this project's errors become what a peer sees of them.

A peer sees a code and a sentence of ours; never the words of an unknown exception.
"""

from __future__ import annotations

from duplex_server.errors import (
    CapacityError,
    ClientError,
    DuplexError,
    EngineLost,
    ModelTimeout,
    SessionExpired,
)
from duplex_server.wire.objects import ErrorObject

__all__ = ["error_object"]

_SPEAKS_FOR_ITSELF = (CapacityError, EngineLost, ModelTimeout, SessionExpired)
"""Errors whose message is made for the peer, out of fields that may be told."""
_RATE_CODES = frozenset({"input_backpressure"})
_MAX_CHARS = 500


def error_object(error: DuplexError) -> ErrorObject:
    """Map an error to the ``error`` object of the protocol; all five keys are set."""
    if isinstance(error, ClientError):
        return ErrorObject(
            type="rate_limit_error" if error.error_code in _RATE_CODES else "invalid_request_error",
            code=error.error_code,
            message=error.message[:_MAX_CHARS],
            param=error.param,
            event_id=error.event_id,
        )
    message = "The server had an internal error. Please start a new session."
    if isinstance(error, _SPEAKS_FOR_ITSELF):
        message = str(error)[:_MAX_CHARS]
    kind = "invalid_request_error" if isinstance(error, SessionExpired) else "server_error"
    return ErrorObject(type=kind, code=error.code, message=message)
