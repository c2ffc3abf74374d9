"""Reads the constants of an ONNX file: weights without a runtime, which would take tens of megabytes to run them.

Knows of ONNX's protocol buffers what is needed for that. Knows nothing about what the constants are for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["NotOnnx", "read_constants"]

Message = memoryview
"""An encoded message."""

# Numbers of fields and types. Source: onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE = 2, 4, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 5, 6
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW = 1, 2, 9
_FLOAT = 1

_VARINT, _BYTES = 0, 2
_LENGTHS = {_VARINT: 0, _BYTES: 0, 1: 8, 5: 4}
"""Bytes of a value by its type; varints and bytes tell themselves."""


class NotOnnx(ValueError):
    """A file that is no ONNX, or holds its constants in another way than is known here."""


def read_constants(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the float32 constants of all nodes, also of those within branches, by the name of their output.

    Raises:
        NotOnnx: the file cannot be read so.
        OSError: it is not there.
    """
    try:
        return dict(_constants(_Fields(memoryview(file.read_bytes())).of_bytes[_MODEL_GRAPH][0]))
    except (IndexError, ValueError) as error:
        raise NotOnnx(f"{file} cannot be read as ONNX: {error}") from error


def _constants(graph: Message) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for node in map(_Fields, _Fields(graph).of_bytes[_GRAPH_NODE]):
        for attribute in map(_Fields, node.of_bytes[_NODE_ATTRIBUTE]):
            for branch in attribute.of_bytes[_ATTRIBUTE_GRAPH]:
                yield from _constants(branch)
            if bytes(node.of_bytes[_NODE_TYPE][0]) == b"Constant":
                for tensor in map(_Fields, attribute.of_bytes[_ATTRIBUTE_TENSOR]):
                    if tensor.integers[_TENSOR_TYPE] == [_FLOAT] and tensor.of_bytes[_TENSOR_RAW]:
                        yield bytes(node.of_bytes[_NODE_OUTPUT][0]).decode(), _numbers(tensor)


def _numbers(tensor: _Fields) -> npt.NDArray[np.float32]:
    shape = tensor.integers[_TENSOR_DIMS] + [n for packed in tensor.of_bytes[_TENSOR_DIMS] for n in _varints(packed)]
    return np.frombuffer(tensor.of_bytes[_TENSOR_RAW][0], "<f4").reshape(shape).astype(np.float32)


class _Fields:
    """The fields of a message that are integers or hold bytes, by their numbers.

    What the lower three bits of a key say of the value: https://protobuf.dev/programming-guides/encoding/.
    """

    def __init__(self, message: Message) -> None:
        self.integers: dict[int, list[int]] = defaultdict(list)
        self.of_bytes: dict[int, list[Message]] = defaultdict(list)
        place = 0
        while place < len(message):
            key, place = _varint(message, place)
            number, kind = key >> 3, key & 7
            if not number or kind not in _LENGTHS:
                raise ValueError(f"a field {number} of type {kind}")
            if kind == _VARINT:
                value, place = _varint(message, place)
                self.integers[number].append(value)
                continue
            length = _LENGTHS[kind]
            if kind == _BYTES:
                length, place = _varint(message, place)
                self.of_bytes[number].append(message[place : place + length])
            place += length
        if place > len(message):
            raise IndexError("it ends too early")


def _varints(packed: Message) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value


def _varint(message: Message, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
