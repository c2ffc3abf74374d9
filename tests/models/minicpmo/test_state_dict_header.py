"""A ``.pt`` file is described without torch, and what is more than tensors is refused without being run."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from duplex_server.errors import CheckpointError
from duplex_server.models.minicpmo.state_dict_header import read_state_dict_header
from tests.models.minicpmo.test_weights import Mischief

TENSORS = {
    "a": torch.zeros(2, 3),
    "half": torch.zeros(5, dtype=torch.float16),
    "double": torch.zeros((), dtype=torch.float64),
    "turned": torch.zeros(4, 6, dtype=torch.bfloat16).T,
    "count": torch.zeros(1, dtype=torch.int64),
    "trained": nn.Parameter(torch.zeros(3)),
}


def test_headers_say_what_torch_says(tmp_path: Path) -> None:
    torch.save(OrderedDict(TENSORS), tmp_path / "a.pt")
    found = read_state_dict_header(tmp_path / "a.pt")
    assert {name: info.shape for name, info in found.items()} == {n: tuple(t.shape) for n, t in TENSORS.items()}
    assert {name: info.n_bytes for name, info in found.items()} == {n: t.nbytes for n, t in TENSORS.items()}
    assert [found[name].dtype for name in TENSORS] == ["F32", "F16", "F64", "BF16", "I64", "F32"]


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": Mischief(tmp_path / "done")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_state_dict_header(tmp_path / "a.pt")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("more", [1, [torch.zeros(1)], nn.Linear(1, 1)])
def test_more_than_tensors_is_refused(tmp_path: Path, more: object) -> None:
    torch.save({"a": more}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_state_dict_header(tmp_path / "a.pt")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="not an archive of tensors, or cut off"):
        read_state_dict_header(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict_header(tmp_path / "b.pt")


def test_an_archive_without_its_tensors_is_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as part:
        for entry in whole.namelist():
            if not entry.endswith("/data/0"):
                part.writestr(entry, whole.read(entry))
    with pytest.raises(CheckpointError) as caught:
        read_state_dict_header(tmp_path / "b.pt")
    assert caught.value.problems == ("a is cut off",)
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as other:
        other.writestr("x/readme", "")
    with pytest.raises(CheckpointError, match="an archive, but not of tensors"):
        read_state_dict_header(tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as other:
        other.writestr("x/data.pkl", pickle.dumps([1]))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_state_dict_header(tmp_path / "d.pt")
