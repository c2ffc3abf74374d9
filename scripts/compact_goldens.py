"""Cuts recorded runs of the official code down to what is kept in tests/goldens/minicpmo: the beginnings of some
conversations, and of the large arrays a few. Knows nothing about what the numbers mean.

usage: python scripts/compact_goldens.py FULL_GOLDENS OUT_DIR
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

UNITS = {"audio_greedy": 3, "omni_script": 3, "sampling": 2}
"""Conversations that are kept, and how many of their units."""
UNIT_SAMPLES = 16_000
DROPPED = re.compile(r"logits_strided|_pix\d|tgt_sizes|k_checks|tts_k0_last|^final_|ref_audio_mel|^seed$")
SOUND_OF = {"audio_greedy"}
"""Conversations whose waveforms are kept; they are large."""
TOKEN2WAV = re.compile(
    r"prompt_tokens|spk|prompt_mel|codes|base_estimator_cnn_cache|base_conformer_cnn_cache"
    r"|(mel|wav|classic_wav)_[067]"
)
COMPONENTS = re.compile(r"offaudio_a_emb|filt_.*|reppen_.*|rope_.*|resampler_pos_5x7|tts_.*")
COMPONENT_INPUTS = ("offaudio_a",)


def main(full: Path, out: Path) -> None:
    """Read the full goldens and write the small ones."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((full.parent / "tokenizer_config.json").read_bytes())
    ids = json.loads((full.parent / "prompt_ids.json").read_bytes())
    for name, n_units in UNITS.items():
        conversation(full, out, name, n_units, tokenizer["bad_token_ids"], ids)
    token2wav = read(full / "golden_token2wav.npz")
    save(out / "golden_token2wav.npz", {k: v for k, v in token2wav.items() if TOKEN2WAV.fullmatch(k)})
    components = read(full / "golden_components.npz")
    save(out / "golden_components.npz", {k: v for k, v in components.items() if COMPONENTS.fullmatch(k)})
    inputs = read(full / "inputs_components.npz")
    save(out / "inputs_components.npz", {k: inputs[k] for k in COMPONENT_INPUTS})
    told = json.loads((full / "golden_components.json").read_bytes())
    write(out / "golden_components.json", {k: told[k] for k in ("slicing", "navit_pos_buckets")})
    shutil.copyfile(full.parent / "prompt.wav", out / "prompt.wav")


def conversation(full: Path, out: Path, name: str, n_units: int, bad_ids: list[int], ids: dict[str, Any]) -> None:
    """Keep the first units. Texts become ids and are dropped elsewhere: the tokenizer is not kept."""
    scenario = json.loads((full / f"scenario_{name}.json").read_bytes())
    if scenario["script"]:
        scenario["script"] = {k: v for k, v in scenario["script"].items() if int(k) < n_units}
    scenario |= {"prefix": ids["prefix"], "suffix": ids["suffix"], "n_units": n_units}
    write(out / f"scenario_{name}.json", scenario)
    inputs = read(full / f"inputs_{name}.npz")
    kept = {k: v for k, v in inputs.items() if k.startswith("frame_") and unit_of(k) < n_units}
    kept["audio"] = inputs["audio"][: n_units * UNIT_SAMPLES]
    kept["bad_token_ids"] = np.array(bad_ids, np.int32)
    save(out / f"inputs_{name}.npz", kept)
    arrays = {k: v for k, v in read(full / f"golden_{name}.npz").items() if not DROPPED.search(k)}
    arrays = {k: v for k, v in arrays.items() if not k.startswith("u") or unit_of(k) < n_units}
    if name not in SOUND_OF:
        arrays = {k: v for k, v in arrays.items() if not k.endswith("_wav")}
    save(out / f"golden_{name}.npz", arrays)
    told = json.loads((full / f"golden_{name}.json").read_bytes())
    facts = ("unit", "decoded", "is_listen", "end_of_turn", "cache_len")
    units = [{k: unit[k] for k in facts} for unit in told if unit.get("unit", n_units) < n_units]
    write(out / f"golden_{name}.json", units)


def unit_of(key: str) -> int:
    """Return the unit that an array belongs to."""
    found = re.search(r"u(\d+)_", key)
    assert found
    return int(found[1])


def read(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    with np.load(file) as arrays:
        return {key: arrays[key] for key in arrays.files}


def save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays."""
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def write(file: Path, told: object) -> None:
    """Write JSON without spaces."""
    file.write_text(json.dumps(told, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
