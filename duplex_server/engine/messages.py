"""What the event loop tells a worker, what a worker tells the event loop, and both as bytes.

A conversation is known by a number that its worker never uses twice, so a message that arrives late can only concern
its own conversation, never the next one in the same row. Knows nothing about sockets, threads or processes.

The byte form is MessagePack, made and read by msgspec: a list of messages behind its length. It travels over a socket
pair between this server and its own child processes, both from the same source tree, and is never read from a peer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from duplex_server.errors import CapacityError, ClientError, DuplexError, ModelError
from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit

__all__ = [
    "Boot",
    "CancelTurn",
    "CloseRow",
    "Command",
    "Died",
    "FrameBuffer",
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

MAX_FRAME_BYTES = 512 * 1024 * 1024
"""A longer frame is a broken stream. 16 rows with 4 units of one 448 × 448 picture each are 40 MB."""

_LENGTH = struct.Struct("<I")


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
    """Return one frame: the length of what follows, 4 bytes, little endian, and the messages.

    Raises:
        TypeError: an array has another type or number of dimensions than :mod:`duplex_server.types` says, or an
            option of :class:`Boot` is not a plain value.
    """
    frame = bytearray(_LENGTH.size)
    _encoder.encode_into(messages, frame, _LENGTH.size)
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


T = TypeVar("T")


class FrameBuffer(Generic[T]):
    """Turns what a stream socket received into messages, without copying what arrives whole.

    Args:
        decode: makes the messages of one frame.
    """

    def __init__(self, decode: Callable[[memoryview], list[T]]) -> None:
        self._decode = decode
        self._buffer = bytearray(64 * 1024)
        self._end = 0

    def space(self) -> memoryview:
        """Return where the next bytes go; never empty. Let go of it before :meth:`filled` is called."""
        return memoryview(self._buffer)[self._end :]

    def filled(self, n_bytes: int) -> list[T]:
        """Return the messages that are complete now that ``n_bytes`` were written to :meth:`space`.

        Raises:
            ValueError: the bytes are not messages; the stream is of no further use.
        """
        self._end += n_bytes
        messages: list[T] = []
        start = 0
        needed = _LENGTH.size
        view = memoryview(self._buffer)
        while self._end - start >= _LENGTH.size:
            (n_payload,) = _LENGTH.unpack_from(view, start)
            if n_payload > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {n_payload} bytes")
            needed = _LENGTH.size + n_payload
            if self._end - start < needed:
                break
            messages += self._decode(view[start + _LENGTH.size : start + needed])
            start += needed
            needed = _LENGTH.size
        self._make_room(start, needed)
        return messages

    def _make_room(self, start: int, needed: int) -> None:
        rest = self._end - start
        if needed > len(self._buffer):
            grown = bytearray(needed)
            grown[:rest] = memoryview(self._buffer)[start : self._end]
            self._buffer = grown
        elif start and rest:
            self._buffer[:rest] = self._buffer[start : self._end]
        self._end = rest
