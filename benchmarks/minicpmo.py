"""What the MiniCPM-o engine costs with random weights: latency of a unit by stage, memory, conversations held.

    python -m benchmarks.minicpmo --random-weights --full-size [--most 64] [--units 10] [--gap-s 0.7] [--context N]
        [--out FOLDER]

The published architecture needs a CUDA GPU; without one this says so and runs tiny widths on the processor, whose
figures say nothing about the published model. Random weights cost what trained ones do, but for what is said: with them
every unit that speaks says the 20 tokens that it may, where trained ones say about 8.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duplex_server.commands.bench import COUNTS, bench_parts, plot, show
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.flow import Flow, noise_table
from duplex_server.models.minicpmo.hift_causal import CausalHift, source_noise
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.memory import Conversation, measure
from duplex_server.models.minicpmo.parts import Parts, best_device, best_dtype, choose_kernels
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.vision import VisionTower
from duplex_server.models.minicpmo.vocoder import CausalVocoder
from duplex_server.types import SessionSetup
from tests.helpers.minicpmo_checkpoint import make_hollow_checkpoint, make_tokenizer, published_config, tiny_config
from tests.helpers.minicpmo_token2wav import CAUSAL, FLOW

TICK_S = {"listening": 0.004, "speaking": 0.1, "omni listening": 0.004, "omni speaking": 0.1}
PER_CONVERSATION_S = {"listening": 0.0008, "speaking": 0.0046, "omni listening": 0.0073, "omni speaking": 0.012}
"""What a unit must cost at least on an H200: once, and for each conversation. Source: the specification's roofline; it
counts nine decode steps where random weights need twenty. Listening reads the weights once."""
AIMS = {"speaking": 32, "omni speaking": 16}
"""Conversations to be held on one card with 141 GB."""
ALONE_WITHIN_S = 0.3
"""95 % of the units of one conversation."""


def randomly_filled(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """Give a module that was built on the meta device random weights that keep activations of order one."""
    module.to_empty(device=device)
    for name, weight in module.named_parameters():
        weight.requires_grad_(False)
        if weight.dim() == 1:
            weight.fill_(1.0 if name.endswith(("weight", "alpha")) else 0.0)
        else:
            weight.normal_(0, weight[0].numel() ** -0.5)
    module.to(dtype).eval()
    for part in module.modules():
        if compute := getattr(part, "compute_buffers", None):
            compute(device)
    return module


def random_parts(
    config: MiniCPMOConfig, flow: FlowSizes, hift: HiftSizes, folder: Path, device: torch.device, dtype: torch.dtype
) -> Parts:
    """Make every part; the tokenizer of ``folder`` is one of single bytes."""
    with torch.device("meta"):
        parts = (Qwen3(config.llm), VisionTower(config), AudioEncoder(config), SpeechDecoder(config.tts))
        speech = Flow(flow), CausalHift(hift)
    llm, vision, audio, decoder = (randomly_filled(part, device, dtype) for part in parts)
    flow_model, vocoder = (randomly_filled(part, device, torch.float32) for part in speech)
    sound = Token2Wav(flow_model, CausalVocoder(vocoder, source_noise(0, device)), noise_table(0, device), steps=5)
    return Parts(folder, config, Tokenizer(folder), llm, vision, audio, decoder, sound)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the MiniCPM-o engine with random weights.")
    parser.add_argument("--random-weights", action="store_true", required=True, help="the only weights there are here")
    parser.add_argument("--full-size", action="store_true", help="the published architecture; needs a CUDA GPU")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="most conversations to try, default %(default)s")
    parser.add_argument("--units", type=int, default=10, help="seconds for each figure, default %(default)s")
    parser.add_argument(
        "--gap-s", type=float, default=0.0, help="idle time before each unit, as in a conversation; default none"
    )
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="tokens that each begins with, default %(default)s"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder, default %(default)s")
    asked = parser.parse_args()
    device = best_device()
    full = asked.full_size and device.startswith("cuda")
    if asked.full_size and not full:
        print("No CUDA GPU here: tiny widths on the processor instead. They say nothing about the published model.")
    torch.set_grad_enabled(False)
    if device.startswith("cuda"):
        choose_kernels()
    raw = published_config() if full else tiny_config()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if full:
            make_hollow_checkpoint(folder, raw)
        else:
            make_tokenizer(folder)
        sizes = (FlowSizes(), HiftSizes(causal=True)) if full else (FLOW, CAUSAL)
        config = MiniCPMOConfig.from_dict(raw)
        parts = random_parts(config, *sizes, folder, torch.device(device), best_dtype(device))
        counts = [count for count in COUNTS if count <= asked.most]
        setup = SessionSetup(instructions="a" * asked.context)  # the tokenizer is one of single bytes
        figures = bench_parts(parts, device, counts, asked.units, setup=setup, rest=lambda: time.sleep(asked.gap_s))
        planned = measure(folder, Conversation()).planned_bytes(figures["most_tried"]) if full else None
    figures |= {"full_size": full, "planned_bytes": planned, "card": _card(device)}
    if full:
        figures["share_of_roofline"] = _shares(figures)
    show(figures)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "minicpmo.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(figures, asked.out / "minicpmo.png")
    return _held_against_aims(figures) if full else 0


def _card(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"


def _shares(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "kind": unit["kind"],
            "conversations": unit["conversations"],
            "share": (TICK_S[unit["kind"]] + unit["conversations"] * PER_CONVERSATION_S[unit["kind"]]) / unit["p50_s"],
        }
        for unit in figures["units"]
    ]


def _held_against_aims(figures: dict[str, Any]) -> int:
    held = figures["conversations_held"]
    missed = [f"{kind}: {held[kind]} of {wanted}" for kind, wanted in AIMS.items() if held[kind] < wanted]
    alone = [unit for unit in figures["units"] if unit["conversations"] == 1 and unit["p95_s"] > ALONE_WITHIN_S]
    missed += [f"{unit['kind']} alone: {1000 * unit['p95_s']:.0f} ms" for unit in alone]
    for text in missed:
        print(f"aim missed, {text}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
