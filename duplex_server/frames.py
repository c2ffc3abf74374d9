"""Frames between processes of one server: the length of what follows, 4 bytes, little endian, and that.

They travel over socket pairs and Unix sockets between processes of the same source tree, and never come from a peer.
Knows nothing about what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LENGTH", "MAX_FRAME_BYTES", "FrameBuffer", "framed"]

LENGTH = struct.Struct("<I")
"""What stands before the payload."""

MAX_FRAME_BYTES = 512 * 1024 * 1024
"""A longer frame is a broken stream. 16 rows with 4 units of one 448 × 448 picture each are 40 MB."""


def framed(encode_into: Callable[[Any, bytearray, int], None], value: Any) -> bytearray:
    """Return one frame.

    Args:
        encode_into: writes a value to a buffer from an offset on, as msgspec's encoders do.
        value: what the frame is to hold.
    """
    frame = bytearray(LENGTH.size)
    encode_into(value, frame, LENGTH.size)
    LENGTH.pack_into(frame, 0, len(frame) - LENGTH.size)
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
        needed = LENGTH.size
        view = memoryview(self._buffer)
        while self._end - start >= LENGTH.size:
            (n_payload,) = LENGTH.unpack_from(view, start)
            if n_payload > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {n_payload} bytes")
            needed = LENGTH.size + n_payload
            if self._end - start < needed:
                break
            messages += self._decode(view[start + LENGTH.size : start + needed])
            start += needed
            needed = LENGTH.size
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
