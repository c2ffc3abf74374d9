"""The errors of this project: one class per fact, each with what the reader needs to act.

Knows nothing of sockets or HTTP; :mod:`duplex_server.wire` maps a :class:`DuplexError` to what the peer sees.

The tree::

    DuplexError                      code, retryable
    ├── ConfigError                  at start; exit status 2
    ├── ClientError                  an ``error`` event; the session goes on unless ``fatal``
    │   ├── InvalidEvent(param)      the event is not what the protocol says
    │   ├── MediaError(param)        audio or picture that cannot be decoded
    │   ├── LimitExceeded(limit)     a well-formed request for more than the server gives
    │   └── AuthError                HTTP 401, before any session exists
    ├── CapacityError(retry_after_s) HTTP 503, or WebSocket close 1013
    ├── SessionExpired               the session reached a limit announced ahead; close 1001
    ├── ModelError                   ``server_error``; the session ends
    │   ├── ModelLoadError           the model cannot be loaded; the server does not start
    │   │   └── CheckpointError(problems)  its weights are not what the model needs
    │   ├── ModelTimeout(unit_index) the engine is too far behind real time
    │   └── EngineLost(worker)       the worker that held the session died
    └── TransportError               there is nobody left to tell; logged at INFO
        └── SlowPeer(queued_bytes)   the peer does not read what it is sent
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "AuthError",
    "CapacityError",
    "CheckpointError",
    "ClientError",
    "ConfigError",
    "DuplexError",
    "EngineLost",
    "InvalidEvent",
    "LimitExceeded",
    "MediaError",
    "ModelError",
    "ModelLoadError",
    "ModelTimeout",
    "SessionExpired",
    "SlowPeer",
    "TransportError",
    "first_error",
]


class DuplexError(Exception):
    """Base of every error that this project raises on purpose.

    Attributes:
        code: stable identifier, sent to the peer as ``error.code``.
        retryable: whether the same request may succeed later.
    """

    code: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False


class ConfigError(DuplexError):
    """A setting is wrong; the message says which, why, and what to do."""

    code = "invalid_configuration"


class ClientError(DuplexError):
    """The peer asked for something wrong; told in an ``error`` event, after which the session goes on.

    Args:
        message: one sentence for the peer: what was wrong and what would be right.
        param: dotted path of the field at fault, as the peer spelt it.
        code: overrides the class's ``code`` where clients test for a specific one.
        event_id: ``event_id`` of the client event at fault, echoed to the peer.
        fatal: whether the connection is closed after the error is sent.
    """

    code = "invalid_value"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        event_id: str | None = None,
        fatal: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.event_id = event_id
        self.fatal = fatal
        self.error_code = code or type(self).code

    def __str__(self) -> str:
        return self.message


class InvalidEvent(ClientError):
    """A client event that the protocol does not allow: bad JSON, unknown type, wrong field."""


class MediaError(ClientError):
    """Audio or a picture that cannot be decoded, or that is not what it says it is."""

    code = "invalid_media"


class LimitExceeded(ClientError):
    """A well-formed request for more than this server gives.

    Args:
        limit: name of the limit, as ``duplex-server config`` prints it.
        value: what the limit is set to, with its unit.
        message: one sentence for the peer.
    """

    code = "limit_exceeded"

    def __init__(
        self, message: str, *, limit: str, value: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.limit = limit
        self.value = value


class AuthError(ClientError):
    """The peer may not enter. Never says whether the key exists."""

    code = "invalid_api_key"


class CapacityError(DuplexError):
    """Every place is taken.

    Args:
        retry_after_s: when a place is likely to be free, seconds.
    """

    code = "server_overloaded"
    retryable = True

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"The server is full. Try again in {self.retry_after_s:.0f} s."


class SessionExpired(DuplexError):
    """The session reached a limit that was announced ahead.

    Args:
        reason: ``"timeout"``, ``"shutdown"`` or ``"model"`` (the model said goodbye).
        message: one sentence for the peer.
    """

    code = "session_expired"
    retryable = True

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class ModelError(DuplexError):
    """The model failed; its session ends, no other is touched."""

    retryable = True


class ModelLoadError(ModelError):
    """The model cannot be loaded; the message says which file or package and what to do."""

    retryable = False


class CheckpointError(ModelLoadError):
    """A checkpoint's weights are not what the model needs: incomplete, damaged, or another model's.

    Args:
        where: file or folder, and part of the model.
        problems: one sentence for each thing that is wrong, naming the tensor or file.
    """

    _SHOWN = 12
    """Problems that are spelt out; a checkpoint of another model has thousands."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        super().__init__(where, problems)
        self.where = where
        self.problems = tuple(problems)

    def __str__(self) -> str:
        shown = "; ".join(self.problems[: self._SHOWN])
        more = len(self.problems) - self._SHOWN
        return f"{self.where}: {shown}" + (f"; and {more} more" if more > 0 else "")


class ModelTimeout(ModelError):
    """The engine fell so far behind real time that the conversation makes no sense any more.

    Args:
        unit_index: the unit that could not be taken in.
    """

    code = "model_timeout"

    def __init__(self, unit_index: int) -> None:
        super().__init__(unit_index)
        self.unit_index = unit_index

    def __str__(self) -> str:
        return f"The model is too far behind real time (unit {self.unit_index} was not taken)."


class EngineLost(ModelError):
    """The worker that held the session died. It is being restarted; open a new session.

    Args:
        worker: name of the worker, for the log.
    """

    code = "engine_lost"

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        return "The model worker stopped unexpectedly. It is being restarted; please connect again."


class TransportError(DuplexError):
    """The connection is unusable. Nobody is left to tell."""

    retryable = True


class SlowPeer(TransportError):
    """The peer does not read what it is sent, and its queue is full.

    Args:
        queued_bytes: how much was waiting for the peer.
    """

    def __init__(self, queued_bytes: int) -> None:
        super().__init__(queued_bytes)
        self.queued_bytes = queued_bytes

    def __str__(self) -> str:
        return f"the peer does not read: {self.queued_bytes} bytes are waiting for it"


def first_error(group: BaseExceptionGroup[DuplexError]) -> DuplexError:
    """Return the error to tell of those that ended a task group, which may hold groups itself."""
    first = group.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
