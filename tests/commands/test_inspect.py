"""The module tree of a checkpoint, by its headers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from duplex_server.cli import main
from tests.conftest import ROOT


def test_the_published_sizes_are_shown(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(hollow_checkpoint), "--depth", "5"]) == 0
    shown = capsys.readouterr().out
    assert f"{hollow_checkpoint}: 9.55 B parameters, 19.5 GB" in shown
    # Specification §0.
    for line in (
        "embed_tokens Embedding  [151748, 4096] BF16  622 M, 1.24 GB",
        "lm_head Linear  [151748, 4096] BF16  622 M, 1.24 GB",
        "vpm SiglipVisionTransformer  418 M, 836 MB",
        "resampler Resampler  88.9 M, 178 MB",
        "apm WhisperEncoder  307 M, 614 MB",
        "audio_projection_layer MultiModalProjector  21.0 M, 42.0 MB",
        "emb_text Embedding  [152064, 768] BF16  117 M, 234 MB",
        "0…35 36 × Qwen3DecoderLayer  193 M, 386 MB each",
        "head_code ModuleList  5.05 M, 10.1 MB",
        "flow FlowMatching  156 M, 623 MB",
    ):
        assert line in shown


def test_levels_are_limited(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(tiny_checkpoint), "--depth", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == [
        *("apm", "audio_projection_layer", "llm", "resampler", *["token2wav"] * ("token2wav" in str(lines))),
        *("tts", "vpm"),
    ]


def test_the_tree_is_written_as_nested_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    main(["inspect", str(tiny_checkpoint), "--json", str(tmp_path / "tree.json")])
    tree = json.loads((tmp_path / "tree.json").read_bytes())
    assert tree["llm"]["model"]["layers"]["2"]["self_attn"]["q_proj"] == {
        "_type": "Linear",
        "_parameters": 65536,
        "_bytes": 131072,
        "_shape": [256, 256],
        "_dtype": "BF16",
        "_has_bias": False,
    }
    assert tree["vpm"]["post_layernorm"]["_type"] == "LayerNorm"
    assert tree["vpm"]["post_layernorm"]["_has_bias"] is True
    assert tree["llm"]["model"]["norm"]["_type"] == "RMSNorm"
    assert tree["resampler"]["query"] == {
        "_type": "Parameter",
        "_parameters": 16384,
        "_bytes": 32768,
        "_shape": [64, 256],
        "_dtype": "BF16",
    }
    # Weight norm is one layer with one weight; its gains count.
    head = tree["tts"]["head_code"]["0"]
    assert (head["_type"], head["_shape"], head["_parameters"]) == ("Linear", [6562, 64], 6562 * 65)


def test_no_weights_and_nothing_heavy_are_loaded(hollow_checkpoint: Path) -> None:
    program = (
        "import sys; from duplex_server.cli import main; "
        f"main(['inspect', {str(hollow_checkpoint)!r}, '--depth', '9']); "
        "print('torch' in sys.modules, *(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    has_torch, _, kilobytes, _ = next(line for line in done.stdout.splitlines() if "VmHWM" in line).split()
    assert has_torch == "False"
    assert int(kilobytes) < 200_000


def test_what_is_no_checkpoint_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"duplex-server: The model was not loaded: {tmp_path} holds neither model.safetensors.index.json nor "
        "model.safetensors\n"
    )
