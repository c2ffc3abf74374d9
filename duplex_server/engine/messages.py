"""What the event loop tells a worker, what a worker tells the event loop, and both as bytes.

A conversation is known by a number that its worker never uses twice, so a message that arrives late can only concern
its own conversation, never the next one in the same row. Knows nothing about sockets, threads or processes.

The byte form is MessagePack, made and read by msgspec: a list of messages behind its length. It travels over a socket
pair between this server and its own child processes, both from the same source tree, and is never read from a peer.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from duplex_server.errors import CapacityError, ClientError, DuplexError, ModelError
from duplex_server.frames import framed
from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit

__all__ = [
    "Boot",
    "CancelTurn",
    "CloseRow",
    "Command",
    "Died",
    "LoadFailed",
    "Loaded",
    "Logged",
    "OpenRow",
    "Report",
    "RowClosed",
    "RowFailed",
    "RowOpened",
    "Said",
    "Stepped",
    "TakeUnit",
    "decode_boot",
    "decode_cancels",
    "decode_commands",
    "decode_reports",
    "encode",
]


class OpenRow(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Start a conversation in a free row."""

    row: int
    conversation: int
    setup: SessionSetup


class TakeUnit(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The conversation's next unit; ``setup`` is applied just before it where it is not None."""

    conversation: int
    unit: Unit
    setup: SessionSetup | None = None


class CloseRow(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """End a conversation."""

    conversation: int


class CancelTurn(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Give a turn up, see :meth:`duplex_server.models.base.Model.cancel`. Overtakes all other messages."""

    conversation: int
    turn: int
    played_samples: int


class Boot(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """What a new process needs before it can load its model."""

    worker: str
    factory: str
    rows: int
    options: dict[str, Any]
    log_level: int


class Loaded(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """The model is there."""

    spec: ModelSpec


class LoadFailed(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """The model could not be loaded; the worker ends."""

    message: str


class RowOpened(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """The model has taken the conversation in."""

    conversation: int


class RowClosed(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """The model has forgotten the conversation; nothing more comes from it."""

    conversation: int


class Said(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """The model yielded something for a conversation."""

    conversation: int
    output: ModelOutput


class Stepped(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """One unit of each of these conversations has been taken in."""

    conversations: tuple[int, ...]
    duration_s: float
    waited_s: tuple[float, ...] = ()
    """How long each one's unit had waited in the worker before."""


class Died(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """The model raised; the worker ends and all its conversations are lost."""

    message: str


class Logged(msgspec.Struct, array_like=True, frozen=True, tag=18):
    """A record for the server's log, traceback included."""

    logger: str
    level: int
    message: str


class RowFailed(msgspec.Struct, array_like=True, frozen=True, tag=19):
    """The conversation was refused, or cannot go on; the model has its others still."""

    conversation: int
    message: str
    retry_after_s: float | None = None
    """Of an error that says there was no room."""
    param: str | None = None
    """Of an error that says what the client asked for in vain."""

    @classmethod
    def of(cls, conversation: int, error: DuplexError) -> RowFailed:
        """Return what to report of an error."""
        return cls(
            conversation,
            str(error),
            error.retry_after_s if isinstance(error, CapacityError) else None,
            (error.param or "session") if isinstance(error, ClientError) else None,
        )

    @property
    def error(self) -> DuplexError:
        """What the session ends with."""
        if self.retry_after_s is not None:
            return CapacityError(self.retry_after_s)
        if self.param is not None:
            return ClientError(self.message, param=self.param, fatal=True)
        return ModelError(self.message)


Command = OpenRow | TakeUnit | CloseRow
Report = Loaded | LoadFailed | RowOpened | RowFailed | RowClosed | Said | Stepped | Died | Logged


def _lower(array: object) -> object:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{type(array).__name__} cannot be sent to or from a worker")
    if array.ndim == 1 and array.dtype == np.float32:
        return array.tobytes()
    if array.ndim == 3 and array.dtype == np.uint8:
        return array.shape, array.tobytes()
    raise TypeError(f"audio is float32 [n], a picture uint8 [height, width, 3]; this is {array.dtype} {array.shape}")


def _raise_up(_: type, lowered: Any) -> object:
    # A copy into a bytearray makes the array writable, as those are that never left their process.
    if isinstance(lowered, bytes):
        return np.frombuffer(bytearray(lowered), np.float32)
    shape, pixels = lowered
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(shape)


_encoder = msgspec.msgpack.Encoder(enc_hook=_lower)

decode_commands = msgspec.msgpack.Decoder(list[Command], dec_hook=_raise_up).decode
decode_reports = msgspec.msgpack.Decoder(list[Report], dec_hook=_raise_up).decode
decode_cancels = msgspec.msgpack.Decoder(list[CancelTurn]).decode
decode_boot = msgspec.msgpack.Decoder(list[Boot]).decode


def encode(messages: list[Any]) -> bytearray:
    """Return one frame of messages; see :mod:`duplex_server.frames`.

    Raises:
        TypeError: an array has another type or number of dimensions than :mod:`duplex_server.types` says, or an
            option of :class:`Boot` is not a plain value.
    """
    return framed(_encoder.encode_into, messages)
