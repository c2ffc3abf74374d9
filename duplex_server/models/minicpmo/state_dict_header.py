"""What tensors a torch ``.pt`` file holds, from its directory alone: no torch, and nothing in the file is run.

Such a file is a zip archive of a pickled dictionary and one entry of raw bytes for each storage. The pickle is read by
an unpickler that knows the few names that a dictionary of tensors needs, and refuses all others.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplex_server.errors import CheckpointError
from duplex_server.models.minicpmo.checkpoint import TensorInfo

__all__ = ["read_state_dict_header"]

_STORAGES = {
    "FloatStorage": ("F32", 4),
    "DoubleStorage": ("F64", 8),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    item_bytes: int
    n_items: int


@dataclass(frozen=True, slots=True)
class _Shaped:
    storage: _Storage
    shape: tuple[int, ...]


def read_state_dict_header(file: Path) -> dict[str, TensorInfo]:
    """Read names, types and shapes.

    Raises:
        CheckpointError: the file is missing, cut off, of the format before torch 1.6, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            pickled = next((name for name in sizes if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise CheckpointError(str(file), ["an archive, but not of tensors"])
            with archive.open(pickled) as opened:
                found = _TensorsOnly(opened).load()
    except OSError as error:
        raise CheckpointError(str(file), [f"cannot be read: {error.strerror}"]) from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(str(file), ["not an archive of tensors, or cut off"]) from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(str(file), [f"holds more than tensors by name: {error}"]) from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, _Shaped) for tensor in found.values()):
        raise CheckpointError(str(file), ["holds more than tensors by name"])
    return _infos(file, found, sizes, pickled.removesuffix("data.pkl") + "data/")


def _infos(file: Path, found: Mapping[str, _Shaped], sizes: Mapping[str, int], below: str) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    problems = []
    for name, tensor in found.items():
        storage = tensor.storage
        if sizes.get(below + storage.key, -1) < storage.n_items * storage.item_bytes:
            problems.append(f"{name} is cut off")
        n_bytes = math.prod(tensor.shape) * storage.item_bytes
        infos[name] = TensorInfo(name, storage.dtype, tensor.shape, n_bytes, file, -1)
    if problems:
        raise CheckpointError(str(file), problems)
    return infos


class _TensorsOnly(pickle.Unpickler):
    """Knows the names of tensors and dictionaries, makes descriptions of them, and runs nothing."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _shaped
            case "torch._utils", "_rebuild_parameter":
                return _parameter
            case "torch", _ if name in _STORAGES:
                return name
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), _, int(n_items)) if kind in _STORAGES:
                return _Storage(key, *_STORAGES[kind], n_items)
        raise pickle.UnpicklingError(f"it refers to {pid!r}")


def _shaped(storage: _Storage, offset: int, shape: tuple[int, ...], *_: object) -> _Shaped:  # noqa: ARG001
    """Stand in for the function that rebuilds a tensor; the other arguments are strides and whether it is trained."""
    return _Shaped(storage, tuple(shape))


def _parameter(tensor: _Shaped, *_: object) -> _Shaped:
    return tensor
