"""Tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from duplex_server import __version__
from duplex_server.cli import main
from duplex_server.config import FIELDS, hashed_key
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("DUPLEX_"):
            monkeypatch.delenv(name)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"duplex-server {__version__}\n"


def test_a_key_is_made_with_the_digest_that_a_server_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key"]) == 0
    key, digest = capsys.readouterr().out.splitlines()
    assert hashed_key(key) == digest
    assert main(["key"]) == 0
    assert key not in capsys.readouterr().out


def test_config_prints_settings_from_all_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.toml"
    file.write_text("rows_per_worker = 7\n")
    monkeypatch.setenv("DUPLEX_MAX_SESSIONS", "3")
    assert main(["config", "--config", str(file), "--port", "99", "--no-web-client", "--insecure"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    names = ("rows_per_worker", "max_sessions", "port", "web_client", "insecure")
    assert [printed[name] for name in names] == [7, 3, 99, False, True]


@pytest.mark.parametrize("command", ["serve", "config"])
def test_a_bad_setting_ends_with_status_2_and_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--port", "99999"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("duplex-server: --port sets port")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--prot", "1"], ["talk", "--transport", "pigeon"]])
def test_words_that_are_no_command_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_of_serve_explains_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for field in FIELDS.values():
        assert field.flag in printed
        assert field.meaning in printed


def test_a_model_that_cannot_be_imported_ends_with_status_1_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--model-workers", "1", "--model", "nowhere.module:build"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("duplex-server: The model was not loaded")
    assert "nowhere" in last


def test_a_bad_setting_in_the_environment_leaves_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "duplex_server", "serve"],
        env={**os.environ, "DUPLEX_PORT": "none", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("duplex-server: DUPLEX_PORT sets port")


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    """As in ``duplex-server config | head -1``; some 10 kB are printed, and a pipe that is closed takes none."""
    command = [sys.executable, "-m", "duplex_server", "config"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        said = program.stderr.read()
        assert program.wait(30) == 141
    assert said == b""
