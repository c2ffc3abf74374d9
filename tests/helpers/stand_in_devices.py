"""Devices that are not there: tensors that claim to lie on one, compute on the CPU, and refuse to be mixed.

What a program does on several GPUs is done here on the CPU with the rules of several GPUs: an operation whose tensors
lie on different devices is an error, and only a copy changes the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo  # while it is imported, it takes torch's devices for what they are: so before others stand in
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["StandInDevices", "real"]

aten = torch.ops.aten
_MAY_MIX = {aten._to_copy, aten.to, aten.copy_}
_INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
"""Positions may lie on the CPU, whatever is indexed."""
KIND = "standin"
_registered: set[str] = set()
_MATH = 0
"""The plain way to attend; the others belong to a kind of device."""


class _Standing(Tensor):
    """A CPU tensor under another device's name."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor, device: torch.device) -> _Standing:
        made: _Standing = Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), dtype=real.dtype, device=device, requires_grad=False
        )
        made.held = real
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.held} on {self.device}"


class StandInDevices(TorchDispatchMode):
    """While it is entered, tensors can be made on, and moved to, ``standin:0``, ``standin:1``, and so on."""

    def __enter__(self) -> StandInDevices:
        if KIND not in _registered:
            # A kind of device of its own, since a torch without CUDA has no notion of several CUDA devices.
            _setup_privateuseone_for_python_backend(KIND)
            _registered.add(KIND)
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(device=...) copies where this mode sees it
        self._overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.double() makes new parameters
        self._generator = torch.Generator
        torch.Generator = self._random_numbers  # type: ignore[assignment, misc]
        super().__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwritten)
        torch.Generator = self._generator  # type: ignore[misc]

    def _random_numbers(self, device: torch.device | str = "cpu") -> torch.Generator:
        return self._generator("cpu" if torch.device(device).type == KIND else device)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {})


def real(tensor: Tensor) -> Tensor:
    """Return the CPU tensor behind a stand-in, or the tensor itself."""
    return tensor.held if isinstance(tensor, _Standing) else tensor


def _carried_out(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if func is aten._fused_sdp_choice.default:
        return _MATH
    leaves = list(_leaves((*args, *kwargs.values())))
    wrapped = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, _Standing)}
    named = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    device = named[0] if named else _device_of(func, [leaf for leaf in leaves if isinstance(leaf, Tensor)])
    options = {name: _mapped(_unwrap, value) for name, value in kwargs.items() if name != "pin_memory"}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, _Standing) or leaf.is_meta:
            return leaf
        before = wrapped.get(id(leaf))
        if before is not None and before.device == device:
            return before
        if device.type != KIND:
            return leaf.clone() if before is not None else leaf
        # What only changes its device was not copied on the CPU.
        return _Standing(leaf.clone() if named else leaf, device)

    # Tensors made in inference mode cannot be views of others that were not, which stand-ins would be.
    with torch.inference_mode(False), torch.no_grad():
        return _mapped(wrap, func(*_mapped(_unwrap, args), **options))


def _device_of(func: Any, tensors: list[Tensor]) -> torch.device:
    """Return where the result lies.

    Raises:
        RuntimeError: the tensors lie on different devices.
    """
    if not tensors:
        return torch.device("cpu")
    if func.overloadpacket in _MAY_MIX:
        return tensors[0].device
    if func.overloadpacket in _INDEXING:
        tensors = [tensor for tensor in tensors if tensor is tensors[0] or tensor.device.type != "cpu"]
    # A single number on the CPU goes with any device.
    devices = {tensor.device for tensor in tensors if tensor.dim() or tensor.device.type != "cpu"}
    if len(devices) > 1:
        raise RuntimeError(f"{func} was given tensors on {', '.join(sorted(map(str, devices)))}")
    return devices.pop() if devices else torch.device("cpu")


def _leaves(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(function, part) for part in value)
    return function(value)


def _unwrap(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == KIND:
        return torch.device("cpu")
    return real(leaf) if isinstance(leaf, Tensor) else leaf
