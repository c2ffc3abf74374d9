"""What tensors a checkpoint folder holds, from the headers of its files alone.

Knows nothing about what the tensors mean, and loads none: no torch, no safetensors package.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplex_server.errors import CheckpointError, ModelLoadError

__all__ = ["Checkpoint", "TensorInfo", "read_checkpoint", "read_header"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}
_LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit, so that a damaged length is not taken for a header of gigabytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its file describes it.

    Attributes:
        dtype: the format's name, as ``BF16``.
        file: path of the file that holds it.
        begin: offset of its first byte in the file; -1 where the format does not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    file: Path
    begin: int

    @property
    def n_parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a checkpoint folder by name, in the order of the files."""

    folder: Path
    tensors: Mapping[str, TensorInfo]

    @property
    def n_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def below(self, prefix: str) -> dict[str, TensorInfo]:
        """Return the tensors whose names begin with ``prefix``, by what follows it."""
        return {name.removeprefix(prefix): info for name, info in self.tensors.items() if name.startswith(prefix)}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of every shard that the index names, or of the only file.

    Raises:
        ModelLoadError: there is no checkpoint, or the index is broken.
        CheckpointError: shards are missing, damaged, incomplete, or hold other tensors than the index says.
    """
    files, weight_map = _files(folder)
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for file in files:
        try:
            header = read_header(file)
        except CheckpointError as error:
            problems.extend(f"{file.name}: {problem}" for problem in error.problems)
            continue
        if weight_map is not None:
            problems.extend(
                f"{name} is in {file.name}, but the index says {weight_map.get(name, 'nothing about it')}"
                for name in header
                if weight_map.get(name) != file.name
            )
        tensors.update(header)
    if weight_map is not None and not problems:
        problems.extend(f"{name} is missing in {file}" for name, file in weight_map.items() if name not in tensors)
    if problems:
        raise CheckpointError(str(folder), problems)
    return Checkpoint(folder, tensors)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read a safetensors file's header: 8 bytes of length, JSON, then the tensors' bytes without gaps.

    Raises:
        CheckpointError: the file is missing, shorter than its header says, or no safetensors file.
    """
    try:
        with file.open("rb") as opened:
            size_bytes = opened.seek(0, 2)
            opened.seek(0)
            first = opened.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
            if not 2 <= length <= min(_LONGEST_HEADER_BYTES, size_bytes - 8):
                raise CheckpointError(str(file), ["no safetensors file, or cut off within its header"])
            described = json.loads(opened.read(length))
    except OSError as error:
        raise CheckpointError(str(file), [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise CheckpointError(str(file), [f"its header is not JSON: {error}"]) from error
    if not isinstance(described, dict):
        raise CheckpointError(str(file), ["its header is no JSON object"])
    described.pop("__metadata__", None)
    return _tensors(file, described, 8 + length, size_bytes)


def _tensors(file: Path, described: dict[str, Any], first_byte: int, size_bytes: int) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    problems: list[str] = []
    end = first_byte
    for (begin, stop, dtype, shape), name in sorted((_fields(fields), name) for name, fields in described.items()):
        needed = math.prod(shape) * _BITS.get(dtype, 0) // 8
        if dtype not in _BITS:
            problems.append(f"{name} is of the unknown type {dtype}")
        elif first_byte + begin != end or stop - begin != needed or min(shape, default=0) < 0:
            problems.append(f"{name} does not lie where its shape and its neighbours say")
        found[name] = TensorInfo(name, dtype, shape, stop - begin, file, first_byte + begin)
        end = first_byte + stop
    if not problems and end != size_bytes:
        problems.append(f"is {size_bytes} bytes long, where its header asks for {end}")
    if problems:
        raise CheckpointError(str(file), problems)
    return found


def _fields(described: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """Return first byte, byte after the last, type and shape; what cannot be read lies nowhere, at -1."""
    match described:
        case {"data_offsets": [int(begin), int(stop)], "dtype": str(dtype), "shape": [*shape]} if all(
            isinstance(size, int) for size in shape
        ):
            return begin, stop, dtype, tuple(shape)
        case _:
            return -1, -1, "?", ()


def _files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files to read, and what the index says of each tensor; None where there is no index."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE], None
        raise ModelLoadError(f"{folder} holds neither {INDEX} nor {SINGLE}")
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{index} is not an index of safetensors files: {error!r}") from error
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise ModelLoadError(f"{index} names a file outside its folder: {outside[0]}")
    return [folder / file for file in files], weight_map
