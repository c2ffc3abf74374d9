"""token2wav for the tiny checkpoint: weights seeded by their names, those that the goldens were made with, and the
noise that the official code drew for them.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes, flow_shapes, hift_shapes

FLOW = FlowSizes(size=64, heads=2, inner=128, blocks=2, up_blocks=2, hidden=64, head_dim=32, mlp=128, depth=2)
CLASSIC = HiftSizes(size=64, f0_size=32)
CAUSAL = HiftSizes(causal=True, size=64, f0_size=32)
FLOW_SEED, CAUSAL_SEED, CLASSIC_SEED = 11, 22, 23

FLOW_NOISE_SEED, SOURCE_NOISE_SEED, WHOLE_NOISE_SEED = 777, 778, 779
"""What torch was seeded with before the official classes were made, each of which then drew more than its tables."""
DRAWN_BEFORE_SOURCE_NOISE = 22_721 + 9  # weights of the F0 predictor, and phases
DRAWN_BEFORE_WHOLE = 611_965  # weights of the classic vocoder; its first utterance went on from there
SOURCE_NOISE_SAMPLES = 240_000


def make_token2wav(folder: Path) -> None:
    """Write the files as the published checkpoint has them: a causal vocoder, and the classic one beside it."""
    folder.mkdir(parents=True)
    flow = {name: _flow_weight(name, shape) for name, shape in flow_shapes(FLOW).items()}
    torch.save(flow, folder / "flow.pt")
    for file, sizes, seed in (("hift", CAUSAL, CAUSAL_SEED), ("hift_original", CLASSIC, CLASSIC_SEED)):
        weights = {name: _hift_weight(name, shape, seed) for name, shape in hift_shapes(sizes).items()}
        torch.save(weights, folder / f"{file}.pt")


def flow_noise() -> Tensor:
    """The table of the goldens, ``[80, 30000]``."""
    return torch.randn(1, 80, 30_000, generator=torch.Generator().manual_seed(FLOW_NOISE_SEED))[0]


def source_noise() -> Tensor:
    """The beginning of the goldens' table, ``[240000, 9]``."""
    generator = torch.Generator().manual_seed(SOURCE_NOISE_SEED)
    torch.rand(DRAWN_BEFORE_SOURCE_NOISE, generator=generator)
    return torch.rand(SOURCE_NOISE_SAMPLES, 9, generator=generator)


def whole_noise() -> torch.Generator:
    """The generator that the golden whole utterance was made with."""
    generator = torch.Generator().manual_seed(WHOLE_NOISE_SEED)
    torch.rand(DRAWN_BEFORE_WHOLE, generator=generator)
    return generator


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed((zlib.crc32(name.encode()) + seed) & 0x7FFFFFFF))


def _flow_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    drawn = _drawn(name, shape, FLOW_SEED)
    if len(shape) == 1:
        return 1 + 0.1 * drawn if name.endswith("weight") else 0.05 * drawn
    if name == "input_embedding.weight":
        return 0.5 * drawn
    return drawn * (1.0 / math.sqrt(math.prod(shape[1:])))


def _hift_weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    drawn = _drawn(name, shape, seed)
    if name == "f0_predictor.classifier.bias":
        return torch.full(shape, 120.0)  # a voice of 120 Hz
    if name.endswith("alpha"):
        return 0.5 + 0.2 * drawn.abs()
    if name.endswith("original0"):
        return 0.6 + 0.1 * drawn.abs()
    return 0.05 * drawn if len(shape) == 1 else drawn * (0.7 / math.sqrt(math.prod(shape[1:])))
