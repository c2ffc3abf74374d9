"""Headers are read without the library that reads them, and damage is named."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from duplex_server.errors import CheckpointError, ModelLoadError
from duplex_server.models.minicpmo.checkpoint import INDEX, read_checkpoint, read_header
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.layout import tensor_shapes
from tests.helpers.minicpmo_checkpoint import SHARED, tiny_config


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of two shards and an index."""
    shards = {
        "model-1.safetensors": {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(5)},
        "model-2.safetensors": {"c": torch.zeros((), dtype=torch.int64), "d": torch.zeros(0, 4)},
    }
    for file, tensors in shards.items():
        save_file(tensors, tmp_path / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_headers_say_what_the_library_says(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(tiny_checkpoint)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == tensor_shapes(MiniCPMOConfig.from_dict(tiny_config()))
    for file in tiny_checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                assert tuple(opened.get_slice(name).get_shape()) == checkpoint.tensors[name].shape
    assert checkpoint.n_bytes == sum(t.n_parameters * 2 for t in checkpoint.tensors.values())
    assert set(checkpoint.below("resampler.ln_q.")) == {"weight", "bias"}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there: official names are kept beside the repository")
def test_the_layout_has_the_official_names_and_shapes() -> None:
    lines = [line.split("\t") for line in (SHARED / "tensor_names.tsv").read_text().splitlines()]
    official = {name: tuple(json.loads(shape)) for name, shape in lines}
    assert tensor_shapes(MiniCPMOConfig.from_dict(tiny_config())) == official


def test_a_folder_of_shards_is_read(small: Path) -> None:
    found = {name: (info.dtype, info.shape, info.n_bytes) for name, info in read_checkpoint(small).tensors.items()}
    assert found == {
        "a": ("BF16", (2, 3), 12),
        "b": ("F32", (5,), 20),
        "c": ("I64", (), 8),
        "d": ("F32", (0, 4), 0),
    }


def test_a_single_file_needs_no_index(small: Path) -> None:
    (small / INDEX).unlink()
    with pytest.raises(ModelLoadError, match="holds neither"):
        read_checkpoint(small)
    (small / "model-1.safetensors").rename(small / "model.safetensors")
    assert set(read_checkpoint(small).tensors) == {"a", "b"}


def cut_off(folder: Path) -> None:
    file = folder / "model-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def cut_within_the_header(folder: Path) -> None:
    file = folder / "model-1.safetensors"
    file.write_bytes(file.read_bytes()[:20])


def lose_a_shard(folder: Path) -> None:
    (folder / "model-1.safetensors").unlink()


def lose_a_tensor(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "model-1.safetensors")


def hold_another_tensor(folder: Path) -> None:
    shutil.copy(folder / "model-2.safetensors", folder / "model-1.safetensors")


def not_json(folder: Path) -> None:
    (folder / "model-1.safetensors").write_bytes(struct.pack("<Q", 4) + b"\xff\xff\xff\xff")


def not_an_object(folder: Path) -> None:
    (folder / "model-1.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_off, "model-1.safetensors: is .* bytes long, where its header asks for"),
        (cut_within_the_header, "model-1.safetensors: no safetensors file, or cut off"),
        (lose_a_shard, "model-1.safetensors: cannot be read: No such file"),
        (lose_a_tensor, "b is missing in model-1.safetensors"),
        (hold_another_tensor, "c is in model-1.safetensors, but the index says model-2.safetensors"),
        (not_json, "its header is not JSON"),
        (not_an_object, "its header is no JSON object"),
    ],
)
def test_damage_is_named(small: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(small)
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(small)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "does not lie where"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not lie where"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}, "does not lie where"),
        ({"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}, "unknown type F33"),
        ({"dtype": "F32", "data_offsets": [0, 4]}, "unknown type"),
        ({"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}, "unknown type"),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 4]}, "unknown type"),
        ("what", "unknown type"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, fields: object, says: str) -> None:
    header = json.dumps({"a": fields}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match=says):
        read_header(file)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "is not an index"),
        ("{}", "is not an index"),
        ('{"weight_map": ["a"]}', "is not an index"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "outside its folder"),
    ],
)
def test_an_index_that_is_none_is_refused(small: Path, index: str, says: str) -> None:
    (small / INDEX).write_text(index)
    with pytest.raises(ModelLoadError, match=says):
        read_checkpoint(small)
