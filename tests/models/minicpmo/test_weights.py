"""Modules get exactly the weights of their names, and everything that does not fit is named."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duplex_server.errors import CheckpointError, ModelLoadError
from duplex_server.models.minicpmo.checkpoint import INDEX, read_checkpoint
from duplex_server.models.minicpmo.weights import SafetensorsSource, StateDictSource, load_module
from tests.conftest import ROOT

CPU = torch.device("cpu")


class Projector(nn.Module):
    """Has a weight-normed layer, a plain one, a buffer that is stored, and one that is computed."""

    scale: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.outer = nn.Conv1d(4, 2, 3)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("table", torch.empty(2), persistent=False)

    def compute_buffers(self, device: torch.device) -> None:
        self.table = torch.arange(2.0, device=device)


def stored() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "p.inner.weight": (4, 3),
        "p.inner.bias": (4,),
        "p.outer.parametrizations.weight.original0": (2, 1, 1),
        "p.outer.parametrizations.weight.original1": (2, 4, 3),
        "p.outer.bias": (2,),
        "p.scale": (1,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in tensors.items()}


def source(folder: Path, tensors: dict[str, Tensor]) -> SafetensorsSource:
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsSource(read_checkpoint(folder))


def on_meta() -> Projector:
    with torch.device("meta"):
        return Projector()


def test_every_weight_arrives_in_the_type_asked_for(tmp_path: Path) -> None:
    module, tensors = on_meta(), stored()
    read = []
    load_module(
        module, source(tmp_path, tensors), "p.", device=CPU, dtype=torch.bfloat16, progress=lambda n: read.append(n)
    )
    assert torch.equal(module.inner.weight, tensors["p.inner.weight"].bfloat16())
    assert torch.equal(module.scale, tensors["p.scale"].bfloat16())
    assert torch.equal(module.table, torch.tensor([0.0, 1.0]))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert sum(read) == sum(tensor.nbytes for tensor in tensors.values())


def test_weight_norm_is_folded_as_torch_computes_it(tmp_path: Path) -> None:
    module, tensors = on_meta(), stored()
    load_module(module, source(tmp_path, tensors), "p.", device=CPU, dtype=torch.float32)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 2, 3))
    normed.load_state_dict({n.removeprefix("p.outer."): t for n, t in tensors.items() if n.startswith("p.outer.")})
    torch.testing.assert_close(module.outer.weight, normed.weight, rtol=1e-6, atol=1e-6)


def test_weight_norm_is_folded_before_it_is_rounded(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in stored().items()}
    exact, rounded = on_meta(), on_meta()
    load_module(exact, source(tmp_path, tensors), "p.", device=CPU, dtype=torch.float32)
    load_module(rounded, source(tmp_path, tensors), "p.", device=CPU, dtype=torch.bfloat16)
    assert torch.equal(rounded.outer.weight, exact.outer.weight.bfloat16())


def test_types_and_devices_may_differ_by_name(tmp_path: Path) -> None:
    module = on_meta()
    load_module(
        module,
        source(tmp_path, stored()),
        "p.",
        device=lambda name: torch.device("meta" if name.startswith("inner") else "cpu"),
        dtype=lambda name: torch.float64 if "outer" in name else torch.float16,
    )
    assert module.inner.weight.is_meta and not module.outer.weight.is_meta
    assert (module.inner.weight.dtype, module.outer.weight.dtype) == (torch.float16, torch.float64)


def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    tensors = stored()
    del tensors["p.inner.bias"], tensors["p.outer.parametrizations.weight.original0"]
    tensors["p.inner.weight"] = torch.zeros(3, 4)
    tensors["p.extra"] = torch.zeros(1)
    module = on_meta()
    with pytest.raises(CheckpointError) as caught:
        load_module(module, source(tmp_path, tensors), "p.", device=CPU, dtype=torch.float32)
    assert set(caught.value.problems) == {
        "p.inner.bias [4] is missing",
        "p.outer.weight [2, 4, 3] is missing",
        "p.inner.weight is [3, 4], where [4, 3] is needed",
        "p.extra [1] is superfluous",
        "p.outer.parametrizations.weight.original1 [2, 4, 3] is superfluous",
    }
    assert all(parameter.is_meta for parameter in module.parameters()), "nothing was loaded"


def test_tensors_of_other_modules_and_dead_ones_are_left_alone(tmp_path: Path) -> None:
    tensors = stored() | {"p.other.weight": torch.zeros(1), "q.inner.weight": torch.zeros(1)}
    load_module(on_meta(), source(tmp_path, tensors), "p.", device=CPU, dtype=torch.float32, without=("other.",))
    speech = nn.Module()
    dead = {"tts.projector_spk.linear1.weight": torch.zeros(1), "tts.model.embed_tokens.weight": torch.zeros(1)}
    load_module(speech, source(tmp_path, dead), "tts.", device=CPU, dtype=torch.float32)


def test_a_module_that_forgets_what_it_computes_is_found(tmp_path: Path) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.empty(2), persistent=False)

    with torch.device("meta"):
        module = Forgetful()
    with pytest.raises(AssertionError, match="table"):
        load_module(module, source(tmp_path, {"a": torch.zeros(1)}), "p.", device=CPU, dtype=torch.float32)


def test_shards_are_opened_one_after_the_other(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_and_note(file: Path, **options: str) -> object:
        opened.append(file.name)
        return safe_open(file, **options)

    monkeypatch.setattr("safetensors.safe_open", open_and_note)
    with SafetensorsSource(read_checkpoint(tiny_checkpoint)).reader() as read:
        for name in read_checkpoint(tiny_checkpoint).tensors:
            read(name)
    assert opened == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_tensors_of_the_checkpoint_are_the_library_s(tiny_checkpoint: Path) -> None:
    official = load_file(tiny_checkpoint / "model-00002-of-00002.safetensors")
    with SafetensorsSource(read_checkpoint(tiny_checkpoint)).reader() as read:
        assert all(torch.equal(read(name), tensor) for name, tensor in official.items())


def test_a_state_dict_is_a_source(tmp_path: Path) -> None:
    tensors = {name.replace("p.", "generator.", 1): tensor for name, tensor in stored().items()}
    torch.save(OrderedDict(tensors), tmp_path / "a.pt")
    module = on_meta()
    load_module(module, StateDictSource(tmp_path / "a.pt", strip="generator."), device=CPU, dtype=torch.float32)
    assert torch.equal(module.inner.bias, tensors["generator.inner.bias"])
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    assert StateDictSource(tmp_path / "old.pt").shapes() == {n: tuple(t.shape) for n, t in tensors.items()}


class Mischief:
    """Would write a file while it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_code_in_a_state_dict_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Mischief(tmp_path / "done")}, tmp_path / "a.pt")
    with pytest.raises(ModelLoadError, match=r"a\.pt is not a file of tensors"):
        StateDictSource(tmp_path / "a.pt")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", pickle.dumps({"a": 1}, protocol=2)])
def test_another_file_is_no_state_dict(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"a\.pt is not a file of tensors"):
        StateDictSource(tmp_path / "a.pt")
    with pytest.raises(ModelLoadError, match=r"b\.pt cannot be read"):
        StateDictSource(tmp_path / "b.pt")


def test_values_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(ModelLoadError, match="tensors by name"):
        StateDictSource(tmp_path / "a.pt")


LOADING = """
import re, sys, torch
from pathlib import Path
from torch import nn
from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

with torch.device("meta"):
    module = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(24))
source = SafetensorsSource(read_checkpoint(Path(sys.argv[1])))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak()
load_module(module, source, device=torch.device("cpu"), dtype=torch.bfloat16)
print(peak() - before)
"""


def test_no_more_than_one_shard_is_in_memory_beyond_the_target(tmp_path: Path) -> None:
    shard_mib, n_shards = 32, 6
    tensors = {f"{index}.weight": torch.ones(2048, 2048, dtype=torch.bfloat16) for index in range(24)}
    weight_map = {name: f"model-{place // 4}.safetensors" for place, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    done = subprocess.run(
        [sys.executable, "-c", LOADING, os.fspath(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    grown_mib = float(done.stdout)
    target_mib = shard_mib * n_shards
    assert target_mib - 8 <= grown_mib <= target_mib + shard_mib + 16
