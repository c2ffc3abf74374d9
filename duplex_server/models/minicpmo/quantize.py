"""Linear layers with weights of eight or four bits, which any device runs.

Where torch has a kernel that multiplies with them as they are, and is seen to compute the same, it is used; elsewhere
the weights are brought back to 16 bits for each multiplication, which reads and writes them several times. Knows
nothing about which layers are worth it but the language model's. Bytes are those that
:mod:`duplex_server.models.minicpmo.memory` counts. torchao 0.18 was tried and is not used: its four bits run on no
processor and on no GPU before Ampere, and need further packages; its eight bits compute what stands here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.kernels import Int4Kernel, agree, has_int8_kernel, int8_product
from duplex_server.models.minicpmo.memory import GROUP
from duplex_server.models.minicpmo.placement import Precision

__all__ = ["Int4Linear", "Int8Linear", "layers_without_kernel", "quantize_llm"]

_ROWS = 1024
"""Output channels that are quantized at once: bounds the memory that this takes to some hundred megabytes."""
_ROWS_BACK = 16_384
"""Output channels whose weights are brought back to 16 bits at once: 134 MB of the published model, whose head would
take 1.2 GB as a whole, and the rest of the model nothing else of that size."""
_STEPS = (-8.0, -7.5, -7.0, 7.0, 7.5)
"""Where in −8..7 a group's largest magnitude is put. Larger steps cut off nothing, smaller ones round less. Ours."""


class Int8Linear(nn.Module):
    """``x · Wᵀ`` without bias, each output channel's weights as 8-bit integers and a scale.

    Built on the meta device; :meth:`take` gives it its weight. Rounding is to the nearest, with the largest magnitude
    of a channel at 127, so that a weight is off by at most 1/254 of that.

    Args:
        n_in: width of the input.
        n_out: width of the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in), requires_grad=False)  # int8 [n_out, n_in] once taken
        self.register_buffer("scale", torch.empty(n_out), persistent=False)
        self.scale: Tensor
        self.fused = False
        """Whether one kernel of torch multiplies, without bringing the weights back to 16 bits first."""

    def take(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        """Quantize ``weight`` ``[n_out, n_in]``, a few rows at a time, for computing in ``dtype`` on ``device``."""
        whole = torch.empty(weight.shape, dtype=torch.int8, device=device)
        scale = torch.empty(len(weight), dtype=dtype, device=device)
        for first in range(0, len(weight), _ROWS):
            rows = weight[first : first + _ROWS].to(device).float()
            # What is divided by is what will be multiplied with: the scale as it is rounded to its type.
            rounded = (rows.abs().amax(dim=1) / 127).clamp_min(torch.finfo(dtype).tiny).to(dtype)
            scale[first : first + _ROWS] = rounded
            whole[first : first + _ROWS] = (rows / rounded.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.scale = scale
        self.fused = has_int8_kernel(device) and agree(
            self._multiplied, self._multiplied_at_once, weight.shape[1], device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., n_out]`` for ``x`` ``[..., n_in]``, in the type of ``x``."""
        return self._multiplied_at_once(x) if self.fused else self._multiplied(x)

    def _multiplied_at_once(self, x: Tensor) -> Tensor:
        found = int8_product(x.to(self.scale.dtype).reshape(-1, x.shape[-1]), self.weight, self.scale)
        return found.to(x.dtype).reshape(*x.shape[:-1], -1)

    def _multiplied(self, x: Tensor) -> Tensor:
        pieces = zip(self.weight.split(_ROWS_BACK), self.scale.split(_ROWS_BACK), strict=True)
        found = [self._piece(x, weight, scale) for weight, scale in pieces]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    @staticmethod
    def _piece(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        if x.dtype is torch.float16:  # sums of products with whole numbers leave its range
            return F.linear(x, weight.to(x.dtype).mul_(scale[:, None]))
        return F.linear(x, weight.to(x.dtype)) * scale


class Int4Linear(nn.Module):
    """``x · Wᵀ`` without bias, weights as 4-bit integers and a scale for each 128 inputs of an output channel.

    Two weights share a byte: those of input ``i`` in its lower half, those of input ``i + n_in/2`` in its upper half.
    The last group is shorter where ``n_in/2`` is no multiple of 128.

    Args:
        n_in: width of the input, even.
        n_out: width of the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        assert n_in % 2 == 0
        self.weight = nn.Parameter(torch.empty(n_out, n_in), requires_grad=False)  # uint8 [n_out, n_in/2] once taken
        self.register_buffer("scale", torch.empty(2, n_out, 1, 1), persistent=False)  # [half, n_out, groups, 1]
        self.scale: Tensor
        self.kernel: Int4Kernel | None = None
        self._group = min(GROUP, n_in // 2)

    def take(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        """Quantize ``weight`` ``[n_out, n_in]``, a few rows at a time, for computing in ``dtype`` on ``device``.

        Values are ``(q - 8) · scale`` with q in 0..15. Of some scales that put a group's largest magnitude near −8 or
        7, each group has the one with the least squared error.
        """
        n_out, n_in = weight.shape
        packed = torch.empty(n_out, n_in // 2, dtype=torch.uint8, device=device)
        scale = torch.empty(2, n_out, -(-n_in // 2 // self._group), 1, dtype=dtype, device=device)
        for first in range(0, n_out, _ROWS):
            rows = slice(first, first + _ROWS)
            low, high = (
                self._in_four_bits(half, scale[place, rows])
                for place, half in enumerate(weight[rows].to(device).float().chunk(2, dim=1))
            )
            packed[rows] = low | high << 4
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = scale
        self._pack_for_kernel(device, dtype)

    def _pack_for_kernel(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep the weights as torch's kernel for four bits wants them, where there is one that computes the same."""
        n_in = 2 * self.weight.shape[1]
        if n_in % (2 * GROUP):  # its groups must not reach over the middle
            return
        whole = torch.cat([self.weight & 15, self.weight >> 4], dim=1)
        kernel = Int4Kernel.of(whole, torch.cat(tuple(self.scale), dim=1)[..., 0], GROUP)
        if kernel is not None and agree(self._multiplied, kernel.product, n_in, device, dtype):
            self.kernel = kernel
            self.weight = nn.Parameter(kernel.weight, requires_grad=False)
            self.scale = kernel.scale_and_zero

    @property
    def fused(self) -> bool:
        """Whether one kernel of torch multiplies, without bringing the weights back to 16 bits first."""
        return self.kernel is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., n_out]`` for ``x`` ``[..., n_in]``, in the type of ``x``."""
        if self.kernel is None:
            return self._multiplied(x)
        found = self.kernel.product(x.to(self.scale.dtype).reshape(-1, x.shape[-1]))
        return found.to(x.dtype).reshape(*x.shape[:-1], -1)

    def _multiplied(self, x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return F.linear(low, self._half(self.weight & 15, 0, x.dtype)) + F.linear(
            high, self._half(self.weight >> 4, 1, x.dtype)
        )

    def _in_four_bits(self, half: Tensor, scale: Tensor) -> Tensor:
        """Return q uint8 ``[rows, n_in/2]`` for float32 of that shape, and fill ``scale`` ``[rows, groups, 1]``."""
        groups = self._grouped(half)
        scale.copy_(_scale_of_four_bits(groups, scale.dtype))
        whole = (groups / scale.float() + 8).round_().clamp_(0, 15).to(torch.uint8)
        return whole.flatten(1)[:, : half.shape[1]]

    def _half(self, whole: Tensor, half: int, dtype: torch.dtype) -> Tensor:
        """Return the weights ``[n_out, n_in/2]`` of one half of the inputs."""
        values = self._grouped(whole.to(dtype).sub_(8)) * self.scale[half]
        return values.flatten(1)[:, : whole.shape[1]]

    def _grouped(self, half: Tensor) -> Tensor:
        """Return ``[n_out, n_in/2]`` as ``[n_out, groups, group]``, the last filled up with zeros."""
        lacking = -half.shape[1] % self._group
        filled = F.pad(half, (0, lacking)) if lacking else half
        return filled.unflatten(1, (-1, self._group))


def _scale_of_four_bits(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``[rows, groups, 1]`` in ``dtype`` for float32 ``[rows, groups, group]``: the best of some scales."""
    extreme = groups.take_along_dim(groups.abs().argmax(dim=2, keepdim=True), 2)
    best, least = None, None
    for steps in _STEPS:
        scale = (extreme / steps).to(dtype).float()
        # A group of zeros, or of what is too small for the type.
        scale = scale.where(scale.abs() >= torch.finfo(dtype).tiny, torch.ones_like(scale))
        error = ((groups / scale).round_().clamp_(-8, 7) * scale - groups).square_().sum(dim=2, keepdim=True)
        if best is None or least is None:
            best, least = scale, error
        else:
            best, least = scale.where(error < least, best), torch.minimum(error, least)
    assert best is not None
    return best.to(dtype)


def layers_without_kernel(llm: nn.Module) -> int:
    """Count the layers of few bits that bring their weights back for each multiplication, which is slow."""
    return sum(isinstance(module, Int8Linear | Int4Linear) and not module.fused for module in llm.modules())


def quantize_llm(llm: nn.Module, precision: Precision) -> None:
    """Replace the linear layers of a language model on the meta device; loading fills them.

    Args:
        llm: has ``model.layers`` and ``lm_head``.
        precision: what it is to be; the head has at least eight bits, and :attr:`Precision.FULL` changes nothing.
    """
    kinds = {Precision.INT8: Int8Linear, Precision.INT4: Int4Linear}
    if precision is Precision.FULL:
        return
    for path, module in list(llm.named_modules()):
        if isinstance(module, nn.Linear):
            kind = Int8Linear if path == "lm_head" else kinds[precision]
            owner, _, name = path.rpartition(".")
            with torch.device("meta"):
                setattr(llm.get_submodule(owner), name, kind(module.in_features, module.out_features))
