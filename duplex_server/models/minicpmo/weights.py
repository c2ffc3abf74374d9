"""Fills modules with a checkpoint's weights by tensor name, straight to their device and type.

Knows nothing about what the modules compute. A module is built on ``torch.device("meta")``; its ``state_dict`` says
which tensors it needs and how they are shaped.
"""

from __future__ import annotations

import contextlib
import fnmatch
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import safetensors
import torch
from torch import Tensor, nn

from duplex_server.errors import CheckpointError, ModelLoadError
from duplex_server.models.minicpmo.checkpoint import Checkpoint

__all__ = ["DEAD_TENSORS", "SafetensorsSource", "StateDictSource", "TakesWeight", "TensorSource", "load_module"]

DEAD_TENSORS = (
    "tts.model.embed_tokens.weight",
    "tts.projector_spk.*",
)
"""Tensors of the published checkpoint that no computation reads: the speech decoder's token embedding, replaced by
``emb_text`` and ``emb_code``, and a projector of speaker vectors that it is never given."""

_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
"""Weight norm as torch stores it: the weight is ``g * v / |v|``, the norm over all dimensions but the first."""

_T = TypeVar("_T", torch.device, torch.dtype)


class TensorSource(Protocol):
    """Tensors by name, of which one at a time is brought into memory."""

    where: str
    """What errors call it."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of every tensor, in the order in which reading them is cheapest."""
        ...

    def reader(self) -> contextlib.AbstractContextManager[Callable[[str], Tensor]]:
        """Open what is needed for reading; the function gives a tensor in host memory, not to be written into."""
        ...


@runtime_checkable
class TakesWeight(Protocol):
    """A module that keeps its weight in another form than the checkpoint does."""

    def take(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        """Take the weight from host memory, to be kept on ``device`` for computing in ``dtype``."""
        ...


class SafetensorsSource:
    """The shards of a checkpoint, mapped into memory one at a time.

    Args:
        checkpoint: what the headers say.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.where = str(checkpoint.folder)
        self._tensors = checkpoint.tensors

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self._tensors.items()}

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], Tensor]]:
        with contextlib.ExitStack() as stack:
            opened: tuple[Path, safetensors.safe_open] | None = None

            def read(name: str) -> Tensor:
                nonlocal opened
                file = self._tensors[name].file
                if opened is None or opened[0] != file:
                    stack.close()
                    opened = file, stack.enter_context(safetensors.safe_open(file, framework="pt", device="cpu"))
                return opened[1].get_tensor(name)

            yield read


class StateDictSource:
    """A ``.pt`` file that holds nothing but tensors by name, mapped into memory.

    Args:
        file: the file.
        strip: a beginning that some files give every name, as ``generator.``; left out where it is there.

    Raises:
        ModelLoadError: there is no such file, or it holds anything but tensors. Nothing in it is ever executed.
    """

    def __init__(self, file: Path, strip: str = "") -> None:
        self.where = str(file)
        try:
            # Files that torch wrote before 1.6 are no archives and cannot be mapped.
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except OSError as error:
            raise ModelLoadError(f"{file} cannot be read: {error.strerror}") from error
        except pickle.UnpicklingError as error:
            raise ModelLoadError(f"{file} is not a file of tensors alone, and what else is in it is not run") from error
        except (RuntimeError, ValueError, EOFError, KeyError) as error:
            raise ModelLoadError(f"{file} is not a file of tensors: {error}") from error
        if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise ModelLoadError(f"{file} is not a file of tensors by name")
        self._tensors: dict[str, Tensor] = {name.removeprefix(strip): tensor for name, tensor in found.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], Tensor]]:
        yield self._tensors.__getitem__


def load_module(
    module: nn.Module,
    source: TensorSource,
    prefix: str = "",
    *,
    device: torch.device | Callable[[str], torch.device],
    dtype: torch.dtype | Callable[[str], torch.dtype],
    without: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> None:
    """Give every tensor of ``module.state_dict()`` the weights of its name below ``prefix``, and freeze the module.

    A parameter ``p.weight`` is folded from ``p.parametrizations.weight.original0`` and ``original1`` in float32 where
    the source has these. After loading, every submodule that has a method ``compute_buffers(device)`` is asked to fill
    what it computes rather than stores (rotary frequencies, position tables); ``device`` is that of the module's first
    weight.

    Args:
        module: built on the meta device.
        source: where the tensors are.
        prefix: what the source puts before the module's names, as ``"vpm."``.
        device: where to, for all or by name within the module.
        dtype: type in memory, for all or by name within the module.
        without: beginnings of names below ``prefix`` that belong to other modules.
        progress: called with the bytes of each tensor that was read.

    Raises:
        CheckpointError: tensors are missing, superfluous or misshapen; names all of them, and nothing was loaded.
        ModelLoadError: a device has not enough memory.
    """
    shapes = source.shapes()
    plan = _match(module, shapes, prefix, without, source.where)
    with source.reader() as read, torch.no_grad():
        for name in sorted(plan, key=_places(shapes, prefix)):
            parts = [read(part) for part in plan[name]]
            _assign(module, name, parts, _of(device, name), _of(dtype, name), source.where)
            if progress:
                progress(sum(part.nbytes for part in parts))
    _finish(module, _of(device, next(iter(plan), "")))


def _match(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], prefix: str, without: Sequence[str], where: str
) -> dict[str, tuple[str, ...]]:
    """Return for each of the module's tensors the names of the tensors that it is made of."""
    mine = {
        name.removeprefix(prefix)
        for name in shapes
        if name.startswith(prefix)
        and not name.removeprefix(prefix).startswith(tuple(without))
        and not any(fnmatch.fnmatchcase(name, dead) for dead in DEAD_TENSORS)
    }
    problems: list[str] = []
    plan: dict[str, tuple[str, ...]] = {}
    for name, needed in module.state_dict().items():
        base = name.removesuffix(".weight")
        parts = (name,) if name in mine else (base + _G, base + _V)
        if not mine.issuperset(parts):
            problems.append(f"{prefix}{name} {list(needed.shape)} is missing")
            continue
        mine.difference_update(parts)
        plan[name] = tuple(prefix + part for part in parts)
        found = shapes[plan[name][-1]]
        if found != tuple(needed.shape):
            problems.append(f"{plan[name][-1]} is {list(found)}, where {list(needed.shape)} is needed")
    problems.extend(f"{prefix}{name} {list(shapes[prefix + name])} is superfluous" for name in sorted(mine))
    if problems:
        raise CheckpointError(where, problems)
    return plan


def _places(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Callable[[str], int]:
    """Order names as their tensors lie in the source, so that no shard is opened twice."""
    order = {name.replace(_V, ".weight"): place for place, name in enumerate(shapes)}
    return lambda name: order[prefix + name]


def _assign(
    module: nn.Module, name: str, parts: list[Tensor], device: torch.device, dtype: torch.dtype, where: str
) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    weight = parts[0] if len(parts) == 1 else _fold(*parts)
    try:
        if leaf == "weight" and isinstance(owner, TakesWeight):
            owner.take(weight, device, dtype)
            return
        target = torch.empty(weight.shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{where}: no memory left on {device} at {name}. `duplex-server plan` shows what fits where."
        ) from error
    target.copy_(weight)
    if leaf in owner._parameters:
        setattr(owner, leaf, nn.Parameter(target, requires_grad=False))
    else:
        setattr(owner, leaf, target)


def _fold(gain: Tensor, direction: Tensor) -> Tensor:
    """Return the float32 weight [out, ...] of a weight-normed layer; ``gain`` is [out, 1, ...]."""
    direction = direction.float()
    norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))
    return direction * (gain.float().view_as(norm) / norm)


def _finish(module: nn.Module, device: torch.device) -> None:
    module.requires_grad_(False)
    module.eval()
    for part in module.modules():
        if compute := getattr(part, "compute_buffers", None):
            compute(device)
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    assert not left, f"{type(module).__name__} leaves {left} without values"


def _of(given: _T | Callable[[str], _T], name: str) -> _T:
    return given(name) if callable(given) else given
