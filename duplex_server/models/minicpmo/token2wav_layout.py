"""Which tensors, of which shapes, token2wav's files hold (specification §1.3).

Knows nothing about files or modules. Sizes come from the tensors themselves, so that what is missing among them shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["FlowSizes", "HiftSizes", "flow_shapes", "hift_shapes"]

Shape = tuple[int, ...]
Shaped = Iterator[tuple[str, Shape]]

_GAIN, _DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


@dataclass(frozen=True, slots=True)
class FlowSizes:
    """Sizes of ``flow.pt``; the defaults are the published model's."""

    codes: int = 6561
    size: int = 512
    heads: int = 8
    inner: int = 2048
    blocks: int = 6
    up_blocks: int = 4
    mels: int = 80
    speaker: int = 192
    hidden: int = 512
    head_dim: int = 64
    mlp: int = 2048
    depth: int = 16

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> FlowSizes:
        """Read the sizes off a file's tensors.

        Raises:
            KeyError: one of the tensors that tell is missing.
        """
        codes, size = shapes["input_embedding.weight"]
        mels, speaker = shapes["spk_embed_affine_layer.weight"]
        estimator = "decoder.estimator"
        return cls(
            codes=codes,
            size=size,
            heads=shapes["encoder.encoders.0.self_attn.pos_bias_u"][0],
            inner=shapes["encoder.encoders.0.feed_forward.w_1.weight"][0],
            blocks=_count(shapes, r"encoder\.encoders\.(\d+)\."),
            up_blocks=_count(shapes, r"encoder\.up_encoders\.(\d+)\."),
            mels=mels,
            speaker=speaker,
            hidden=shapes[f"{estimator}.in_proj.weight"][0],
            head_dim=shapes[f"{estimator}.blocks.0.attn.q_norm.weight"][0],
            mlp=shapes[f"{estimator}.blocks.0.mlp.fc1.weight"][0],
            depth=_count(shapes, r"decoder\.estimator\.blocks\.(\d+)\."),
        )


@dataclass(frozen=True, slots=True)
class HiftSizes:
    """Sizes of a vocoder's file; the defaults are the published classic one's.

    The kernels are those of 24 kHz speech at 480 samples a frame: upsampling by 8, 5 and 3, and an inverse transform
    of 16 points.
    """

    causal: bool = False
    size: int = 512
    mels: int = 80
    f0_size: int = 512
    kernels: tuple[int, ...] = (16, 11, 7)
    harmonics: int = 9
    bins: int = 18

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> HiftSizes:
        """Read the sizes off a file's tensors.

        Raises:
            KeyError: one of the tensors that tell is missing.
        """
        size, mels, kernel = shapes[f"conv_pre.{_DIRECTION}"]
        ups = [shapes[f"ups.{stage}.{_DIRECTION}"] for stage in range(_count(shapes, r"ups\.(\d+)\."))]
        return cls(
            causal=kernel == _LOOKING_AHEAD,
            size=size,
            mels=mels,
            f0_size=shapes["f0_predictor.classifier.weight"][1],
            kernels=tuple(shape[2] for shape in ups),
            harmonics=shapes["m_source.l_linear.weight"][1],
            bins=shapes[f"conv_post.{_DIRECTION}"][0],
        )


_LOOKING_AHEAD = 5
"""Kernel of the causal vocoder's first layer: 4 frames ahead and the present one. The classic one has 7 around it."""
_RESBLOCK_KERNELS = (3, 7, 11)
_SOURCE_KERNELS = ((30, 7), (6, 7), (1, 11))
"""For each stage, kernels of the layer that brings the source signal to its rate, and of the block after it."""


def flow_shapes(sizes: FlowSizes) -> dict[str, Shape]:
    """Return every tensor of ``flow.pt``."""
    return dict(_flow(sizes))


def hift_shapes(sizes: HiftSizes) -> dict[str, Shape]:
    """Return every tensor of a vocoder's file, weight norm not folded."""
    return dict(_hift(sizes))


def _count(names: Iterable[str], pattern: str) -> int:
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _layer(name: str, *shape: int) -> Shaped:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _norm(name: str, size: int) -> Shaped:
    yield from _layer(name, size)


def _flow(sizes: FlowSizes) -> Shaped:
    size = sizes.size
    yield "input_embedding.weight", (sizes.codes, size)
    yield from _layer("spk_embed_affine_layer", sizes.mels, sizes.speaker)
    yield from _layer("encoder_proj", sizes.mels, size)
    for embed in ("encoder.embed", "encoder.up_embed"):
        yield from _layer(f"{embed}.out.0", size, size)
        yield from _norm(f"{embed}.out.1", size)
    yield from _layer("encoder.pre_lookahead_layer.conv1", size, size, 4)
    yield from _layer("encoder.pre_lookahead_layer.conv2", size, size, 3)
    yield from _layer("encoder.up_layer.conv", size, size, 5)
    yield from _norm("encoder.after_norm", size)
    for index in range(sizes.blocks):
        yield from _conformer_block(f"encoder.encoders.{index}", sizes)
    for index in range(sizes.up_blocks):
        yield from _conformer_block(f"encoder.up_encoders.{index}", sizes)
    yield from _estimator("decoder.estimator", sizes)


def _conformer_block(name: str, sizes: FlowSizes) -> Shaped:
    size = sizes.size
    for projection in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from _layer(f"{name}.self_attn.{projection}", size, size)
    yield f"{name}.self_attn.linear_pos.weight", (size, size)
    yield f"{name}.self_attn.pos_bias_u", (sizes.heads, size // sizes.heads)
    yield f"{name}.self_attn.pos_bias_v", (sizes.heads, size // sizes.heads)
    yield from _layer(f"{name}.feed_forward.w_1", sizes.inner, size)
    yield from _layer(f"{name}.feed_forward.w_2", size, sizes.inner)
    yield from _norm(f"{name}.norm_ff", size)
    yield from _norm(f"{name}.norm_mha", size)


def _estimator(name: str, sizes: FlowSizes) -> Shaped:
    hidden = sizes.hidden
    # 256: how the published model writes the time as cosines and sines.
    yield from _layer(f"{name}.t_embedder.mlp.0", hidden, 256)
    yield from _layer(f"{name}.t_embedder.mlp.2", hidden, hidden)
    # Noise, encoded codes, speaker and condition beside one another.
    yield from _layer(f"{name}.in_proj", hidden, 4 * sizes.mels)
    for index in range(sizes.depth):
        block = f"{name}.blocks.{index}"
        for projection in ("to_q", "to_k", "to_v", "proj"):
            yield from _layer(f"{block}.attn.{projection}", hidden, hidden)
        yield from _norm(f"{block}.attn.q_norm", sizes.head_dim)
        yield from _norm(f"{block}.attn.k_norm", sizes.head_dim)
        yield from _layer(f"{block}.mlp.fc1", sizes.mlp, hidden)
        yield from _layer(f"{block}.mlp.fc2", hidden, sizes.mlp)
        yield from _layer(f"{block}.conv.block.1", hidden, hidden, 3)
        yield from _norm(f"{block}.conv.block.3", hidden)
        yield from _layer(f"{block}.conv.block.6", hidden, hidden, 3)
        # Shift, scale and gate for each of attention, feed-forward and convolution.
        yield from _layer(f"{block}.adaLN_modulation.1", 9 * hidden, hidden)
    yield from _layer(f"{name}.final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    yield from _layer(f"{name}.final_layer.linear", sizes.mels, hidden)


def _normed(name: str, *shape: int, bias: int) -> Shaped:
    """A weight-normed convolution: one gain for each index of its first dimension."""
    yield f"{name}.{_GAIN}", (shape[0], 1, 1)
    yield f"{name}.{_DIRECTION}", shape
    yield f"{name}.bias", (bias,)


def _hift(sizes: HiftSizes) -> Shaped:
    yield from _layer("m_source.l_linear", 1, sizes.harmonics)
    yield from _normed("conv_pre", sizes.size, sizes.mels, _LOOKING_AHEAD if sizes.causal else 7, bias=sizes.size)
    channels = sizes.size
    for stage, kernel in enumerate(sizes.kernels):
        above, channels = channels, channels // 2
        # The causal vocoder repeats samples and convolves; the classic one has a transposed convolution.
        ends = (channels, above) if sizes.causal else (above, channels)
        yield from _normed(f"ups.{stage}", *ends, kernel, bias=channels)
        down, source = _SOURCE_KERNELS[stage]
        yield from _layer(f"source_downs.{stage}", channels, sizes.bins, down)
        yield from _resblock(f"source_resblocks.{stage}", channels, source)
        for place, resblock in enumerate(_RESBLOCK_KERNELS):
            yield from _resblock(f"resblocks.{stage * len(_RESBLOCK_KERNELS) + place}", channels, resblock)
    yield from _normed("conv_post", sizes.bins, channels, 7, bias=sizes.bins)
    for place in range(5):
        n_in, kernel = (sizes.mels, 4 if sizes.causal else 3) if place == 0 else (sizes.f0_size, 3)
        yield from _normed(f"f0_predictor.condnet.{2 * place}", sizes.f0_size, n_in, kernel, bias=sizes.f0_size)
    yield from _layer("f0_predictor.classifier", 1, sizes.f0_size)


def _resblock(name: str, channels: int, kernel: int) -> Shaped:
    for place in range(3):
        for half in (1, 2):
            yield from _normed(f"{name}.convs{half}.{place}", channels, channels, kernel, bias=channels)
            yield f"{name}.activations{half}.{place}.alpha", (channels,)
