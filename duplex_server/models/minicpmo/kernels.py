"""Torch's own kernels that multiply with weights of eight or four bits, and the test that they do what is meant.

They are not part of torch's documented interface and differ by device and version, so none is believed unseen. Knows
nothing about layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Int4Kernel", "agree", "has_int8_kernel", "int8_product"]

_TOLERANCE = 0.03
"""Largest relative difference of products: of other weights it would be about 1. Rounding to bfloat16 makes 0.004, the
kernel for four bits on an H200 0.02, beside the 0.1 that four bits cost at all."""
_INNER_TILES = {"cpu": 2, "cuda": 8}
"""How many tiles of 16 inputs lie together. Ours, of the numbers that the kernels take; the CPU's ignores it."""


def has_int8_kernel(device: torch.device) -> bool:
    """Whether the kernel for eight bits is worth asking for: torch has one for GPUs, with which a step of the published
    language model took 62 ms on an H200, 8 times as long as in 16 bits. Bringing the weights back reads and writes 2.5
    times the bytes of 16 bits.
    """
    return device.type == "cpu"


def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return ``x · (weight · scale)ᵀ``, ``[n, n_out]``.

    Args:
        x: ``[n, n_in]``.
        weight: int8 ``[n_out, n_in]``.
        scale: ``[n_out]``, of the type of ``x``.

    Raises:
        RuntimeError: the device has no such kernel.
    """
    return torch._weight_int8pack_mm(x, weight, scale)


@dataclass(frozen=True, slots=True)
class Int4Kernel:
    """Weights of four bits as the device's kernel wants them.

    Attributes:
        weight: packed; its shape is the kernel's affair.
        scale_and_zero: ``[groups, n_out, 2]``; zeros, since the middle of the numbers stands for 0.
        group: inputs that share a scale.
    """

    weight: Tensor
    scale_and_zero: Tensor
    group: int

    @classmethod
    def of(cls, whole: Tensor, scale: Tensor, group: int) -> Int4Kernel | None:
        """Pack weights ``(whole - 8) · scale``; None where the device has no kernel for them.

        Args:
            whole: uint8 in 0..15, ``[n_out, n_in]``.
            scale: ``[n_out, n_in / group]``.
            group: inputs that share a scale.
        """
        kind = whole.device.type
        try:
            if kind == "cpu":
                packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole.int(), _INNER_TILES[kind])
            elif kind == "cuda":
                pairs = whole[:, ::2] << 4 | whole[:, 1::2]
                packed = torch.ops.aten._convert_weight_to_int4pack(pairs, _INNER_TILES[kind])
            else:
                return None
        except RuntimeError:
            return None
        scale_and_zero = torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1).contiguous()
        return cls(packed, scale_and_zero, group)

    def product(self, x: Tensor) -> Tensor:
        """Return ``[n, n_out]`` for ``x`` ``[n, n_in]``, of the type of the scales.

        Raises:
            RuntimeError: the device has no such kernel for this type.
        """
        if x.device.type == "cpu":
            product = torch.ops.aten._weight_int4pack_mm_for_cpu
        else:
            product = torch.ops.aten._weight_int4pack_mm
        found: Tensor = product(x, self.weight, self.group, self.scale_and_zero)
        return found


def agree(
    plain: Callable[[Tensor], Tensor],
    kernel: Callable[[Tensor], Tensor],
    n_in: int,
    device: torch.device,
    dtype: torch.dtype,
) -> bool:
    """Find out whether a kernel exists and computes what torch's plain operations compute.

    Args:
        plain: takes ``[n, n_in]``.
        kernel: the same.
        n_in: width of the input.
        device: where.
        dtype: in which type.
    """
    x = torch.randn(3, n_in, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
    try:
        found, wanted = kernel(x).float(), plain(x).float()
    except RuntimeError:
        return False
    return bool((found - wanted).norm() <= _TOLERANCE * wanted.norm())
