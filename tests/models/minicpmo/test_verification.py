"""A complete checkpoint is found complete, and every planted fault is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from duplex_server.models.minicpmo.checkpoint import INDEX
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes
from duplex_server.models.minicpmo.verification import Finding, verify_checkpoint
from tests.helpers.minicpmo_checkpoint import make_hollow_checkpoint, tiny_config

SMALL_FLOW = FlowSizes(
    codes=50, size=16, heads=2, inner=32, blocks=2, up_blocks=1, hidden=16, head_dim=8, mlp=8, depth=2
)
SMALL_HIFT = HiftSizes(size=16, f0_size=8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_hollow_checkpoint(tmp_path, tiny_config(), SMALL_FLOW, SMALL_HIFT)
    return tmp_path


def broken(folder: Path) -> dict[str, tuple[str, ...]]:
    return {finding.what: finding.problems for finding in verify_checkpoint(folder) if finding.problems}


def test_a_complete_checkpoint_is_complete(checkpoint: Path) -> None:
    findings = verify_checkpoint(checkpoint)
    assert broken(checkpoint) == {}
    assert Finding("weights", "159 tensors") in findings
    assert Finding("assets/token2wav/hift.pt", "classic, 328 tensors") in findings


def test_the_published_sizes_are_complete(hollow_checkpoint: Path) -> None:
    assert broken(hollow_checkpoint) == {}


def test_a_causal_vocoder_is_told_from_a_classic_one(tmp_path: Path) -> None:
    make_hollow_checkpoint(tmp_path, tiny_config(), SMALL_FLOW, HiftSizes(causal=True, size=16, f0_size=8))
    below = tmp_path / "assets" / "token2wav"
    shutil.copy(below / "hift.pt", below / "hift_original.pt")
    facts = {finding.what: finding.fact for finding in verify_checkpoint(tmp_path)}
    assert facts["assets/token2wav/hift.pt"] == "causal, 328 tensors"
    assert broken(tmp_path) == {
        "assets/token2wav/config.yaml": ("is missing; the published model's settings are taken",)
    }


def lose_a_tensor_of_the_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_bytes())
    del index["weight_map"]["llm.model.norm.weight"]
    (folder / INDEX).write_text(json.dumps(index))


def change_the_configuration(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config() | {"num_hidden_layers": 4}))


def leave_a_pointer(folder: Path) -> None:
    (folder / "model-00002-of-00004.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid ...")


def cut_a_shard(folder: Path) -> None:
    with (folder / "model-00002-of-00004.safetensors").open("r+b") as opened:
        opened.truncate(1_000_000)


def lose_a_tensor_of_the_flow(folder: Path) -> None:
    file = folder / "assets" / "token2wav" / "flow.pt"
    tensors = torch.load(file, weights_only=True)
    del tensors["decoder.estimator.blocks.1.mlp.fc2.bias"]
    torch.save(tensors, file)


def lose_what_tells_the_vocoder_s_size(folder: Path) -> None:
    file = folder / "assets" / "token2wav" / "hift.pt"
    tensors = torch.load(file, weights_only=True)
    del tensors["f0_predictor.classifier.weight"]
    torch.save(tensors, file)


def no_onnx(folder: Path) -> None:
    (folder / "assets" / "token2wav" / "campplus.onnx").write_text("<html>not found</html>")


def lose_the_merges(folder: Path) -> None:
    (folder / "merges.txt").unlink()


def lose_token2wav(folder: Path) -> None:
    shutil.rmtree(folder / "assets" / "token2wav")


@pytest.mark.parametrize(
    ("plant", "where", "says"),
    [
        (lose_a_tensor_of_the_index, "weights", "llm.model.norm.weight is in model-0000"),
        (change_the_configuration, "weights", "llm.model.layers.3.input_layernorm.weight is missing"),
        (leave_a_pointer, "weights", "model-00002-of-00004.safetensors is a pointer of Git LFS"),
        (cut_a_shard, "weights", "model-00002-of-00004.safetensors: is 1000000 bytes long, where its header asks for"),
        (
            lose_a_tensor_of_the_flow,
            "assets/token2wav/flow.pt",
            "decoder.estimator.blocks.1.mlp.fc2.bias is missing",
        ),
        (
            lose_what_tells_the_vocoder_s_size,
            "assets/token2wav/hift.pt",
            "f0_predictor.classifier.weight is missing",
        ),
        (no_onnx, "assets/token2wav/campplus.onnx", "is no ONNX file"),
        (lose_the_merges, "tokenizer", "merges.txt is missing"),
        (lose_token2wav, "assets/token2wav/flow.pt", "cannot be read: No such file"),
    ],
)
def test_a_planted_fault_is_found(checkpoint: Path, plant: Callable[[Path], None], where: str, says: str) -> None:
    plant(checkpoint)
    assert broken(checkpoint)[where][0].startswith(says)


def test_an_unused_layer_of_the_vision_tower_may_be_there(tmp_path: Path) -> None:
    config = tiny_config()
    make_hollow_checkpoint(tmp_path, config, SMALL_FLOW, SMALL_HIFT)
    (tmp_path / "config.json").write_text(json.dumps(config | {"drop_vision_last_layer": True}))
    assert broken(tmp_path) == {}
