"""A checkpoint is fetched by the official client from a hub on this machine, and goes on where it stopped."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_server.cli import main
from tests.helpers.hub import Hub, serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "hub"
    (folder / "assets" / "token2wav").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    (folder / "modeling_minicpmo.py").write_text("raise SystemExit")
    (folder / "assets" / "token2wav" / "flow.pt").write_bytes(b"flow")
    with serving(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def download(hub: Hub, folder: Path) -> int:
    return main(["download", str(folder), "--repository", "o/m", "--endpoint", hub.url])


def test_a_checkpoint_is_fetched_and_verified(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "here"
    assert download(hub, folder) == 1, "it is fetched, and is no checkpoint"
    shown = capsys.readouterr().out
    assert "3 of 3 files are to be fetched, 1.02 MB." in shown
    assert "✗ config.json: " in shown
    for name in ("config.json", "model.safetensors", "assets/token2wav/flow.pt"):
        assert (folder / name).read_bytes() == (hub.folder / name).read_bytes()
    assert not (folder / "modeling_minicpmo.py").exists(), "code is not even fetched"


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "here"
    download(hub, folder)
    (folder / "config.json").unlink()
    hub.fetched.clear()
    download(hub, folder)
    assert "1 of 3 files are to be fetched, 2 B." in capsys.readouterr().out
    assert [name for name in hub.fetched if name] == ["config.json"]


def test_a_file_that_was_cut_off_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # what it writes at a time
    hub.cut.add("model.safetensors")
    folder = tmp_path / "here"
    download(hub, folder)
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert ("model.safetensors", 500_000) in hub.ranges


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (["--repository", "o/none"], 1, "o/none could not be fetched"),
        (["--repository", "a/b/c"], 2, "--repository a/b/c"),
        (["--endpoint", "http://127.0.0.1:9"], 1, "could not be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, says: str
) -> None:
    given = ["--endpoint", hub.url, *flags]
    assert main(["download", str(tmp_path / "here"), *given]) == status
    assert says in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    assert download(hub, tmp_path / "here") == 1
    assert "1.02 MB are to be fetched, and" in capsys.readouterr().err
    assert not (tmp_path / "here" / "model.safetensors").exists()
