"""Makes checkpoints of MiniCPM-o's structure with random weights, as small as the configuration says.

The weights of the tiny configuration are those that the goldens in ``shared/data/minicpmo_tiny`` were made with: every
tensor comes from a generator seeded by its own name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.layout import tensor_shapes
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes, flow_shapes, hift_shapes
from duplex_server.models.minicpmo.tokens import SPECIAL, SPELLING
from tests.conftest import ROOT
from tests.helpers.minicpmo_token2wav import make_token2wav

GOLDENS = ROOT / "tests" / "goldens" / "minicpmo"
SHARED = ROOT.parent / "shared" / "data" / "minicpmo_tiny"
"""The official tokenizer, where it is kept beside the repository."""
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
HELPERS = Path(__file__).parent
SEED = 1234
KEPT_S = 24 * 3600
"""How long a checkpoint of 190 MB is kept that is not used any more."""
LIKELIER = {151705: 5.0, 151706: 4.5, 151718: 5.0, 151717: 4.0, 151721: 3.5}
"""Rows of the head that are made larger: without them greedy decoding would never listen, speak or end a turn."""


def tiny_config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / "config.json").read_bytes())
    return found


def random_weight(name: str, shape: tuple[int, ...], seed: int = SEED) -> torch.Tensor:
    """Draw the float32 tensor [*shape] of ``name``, scaled so that activations stay of order one."""
    generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) + seed) & 0x7FFFFFFF)
    drawn = torch.randn(shape, generator=generator)
    if drawn.dim() == 1:
        is_gain = name.endswith("weight") and any(part in name for part in ("norm", "ln_q", "ln_kv", "ln_post"))
        return 1.0 + 0.1 * drawn if is_gain else 0.05 * drawn
    if "embed_positions" in name or "position_embedding" in name:
        return 0.2 * drawn
    if name.endswith(".original0"):
        gain = 1.0 + 0.5 * drawn.abs()
        if name.startswith("tts.head_code"):
            gain[-1] *= 1.6  # so that speech ends now and then
        return gain
    if "embed" in name or "emb_" in name:
        return drawn * (0.3 if "tts" in name else 0.5)
    if name == "resampler.query":
        return drawn
    if name == "llm.lm_head.weight":
        drawn = drawn * (1.0 / math.sqrt(shape[1]))
        for token, factor in LIKELIER.items():
            drawn[token] *= factor
        return drawn
    return drawn * (1.4 / math.sqrt(math.prod(shape[1:])))


def make_checkpoint(folder: Path, config: Mapping[str, Any], seed: int = SEED) -> None:
    """Write a checkpoint of the configuration's size, in two bfloat16 shards, with the best tokenizer at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(MiniCPMOConfig.from_dict(config))
    weight_map = {name: f"model-0000{1 if name.startswith('llm.') else 2}-of-00002.safetensors" for name in shapes}
    for file in sorted(set(weight_map.values())):
        tensors = {n: random_weight(n, shapes[n], seed).bfloat16() for n in shapes if weight_map[n] == file}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if SHARED.is_dir():
        for name in TOKENIZER_FILES:
            shutil.copyfile(SHARED / name, folder / name)
    else:
        make_tokenizer(folder)
    make_token2wav(folder / "assets" / "token2wav")


def published_config() -> dict[str, Any]:
    """The sizes of the published model, as its technical report and the specification give them."""
    found: dict[str, Any] = json.loads((GOLDENS / "published_config.json").read_bytes())
    return found


def make_hollow_checkpoint(
    folder: Path, config: Mapping[str, Any], flow: FlowSizes | None = None, hift: HiftSizes | None = None
) -> None:
    """Write a checkpoint whose headers are real and whose weights are holes: gigabytes that take no room on a disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(MiniCPMOConfig.from_dict(config))
    names = sorted(shapes)
    shards = {f"model-0000{k + 1}-of-00004.safetensors": names[k::4] for k in range(4)}
    for file, held in shards.items():
        header, end = {}, 0
        for name in held:
            begin, end = end, end + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [begin, end]}
        encoded = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(len(encoded).to_bytes(8, "little") + encoded)
            opened.truncate(8 + len(encoded) + end)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    below = folder / "assets" / "token2wav"
    below.mkdir(parents=True)
    with torch.serialization.skip_data():
        torch.save(
            {name: torch.empty(shape) for name, shape in flow_shapes(flow or FlowSizes()).items()}, below / "flow.pt"
        )
        torch.save(
            {name: torch.empty(shape) for name, shape in hift_shapes(hift or HiftSizes()).items()}, below / "hift.pt"
        )
    for name, n_bytes in {"speech_tokenizer_v2_25hz.onnx": 496_000_000, "campplus.onnx": 28_000_000}.items():
        with (below / name).open("wb") as opened:
            opened.write(b"\x08")
            opened.truncate(n_bytes)
    (folder / "assets" / "voice.wav").touch()
    (below / "flow.yaml").write_text("flow: !new:a.b.C\n  inference_cfg_rate: 0.7\n")
    make_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")


def make_tokenizer(folder: Path) -> None:
    """Write a tokenizer of single bytes and a few merges, with the special tokens at their real ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "t"), ("Ġt", "he")]
    vocabulary.update({left + right: 256 + place for place, (left, right) in enumerate(merges)})
    added = {
        str(getattr(SPECIAL, name)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": not name.startswith("think"),
        }
        for name, text in SPELLING.items()
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges))
    described = {
        "added_tokens_decoder": added,
        "additional_special_tokens": [SPELLING["unit"], SPELLING["listen"], SPELLING["speak"]],
        "bos_token": SPELLING["im_start"],
        "eos_token": SPELLING["im_end"],
        "pad_token": SPELLING["endoftext"],
        "unk_token": SPELLING["unk"],
        "bad_token_ids": [7, 8],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def cached_checkpoint(config: Mapping[str, Any], seed: int = SEED) -> Path:
    """Return a folder with such a checkpoint, made once for all test processes of this user."""
    maker = b"".join((HELPERS / f"minicpmo_{name}.py").read_bytes() for name in ("checkpoint", "token2wav"))
    maker += bytes(SHARED.is_dir())
    key = hashlib.sha256(maker + json.dumps([config, seed], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"duplex-server-tests-{os.getuid()}" / key
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        make_checkpoint(made, config, seed)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(made)
    os.utime(folder)
    for other in folder.parent.iterdir():  # of other versions, and nobody has asked for them for long
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - other.stat().st_mtime > KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Write a checkpoint: ``python -m tests.helpers.minicpmo_checkpoint tiny|hollow FOLDER``."""
    kind, folder = arguments
    if kind == "tiny":
        make_checkpoint(Path(folder), tiny_config())
    else:
        make_hollow_checkpoint(Path(folder), published_config())


if __name__ == "__main__":
    main(sys.argv[1:])
