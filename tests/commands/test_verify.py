"""What verification says to a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_server.cli import main


def test_a_complete_checkpoint(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(hollow_checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✓ config.json: 36 layers of 4096"
    assert "✓ weights: 1414 tensors" in lines
    assert lines[-1] == f"{hollow_checkpoint} is complete."


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"✗ config.json: {tmp_path}/config.json cannot be read: No such file or directory"
    assert "✗ tokenizer: vocab.json is missing" in lines
    assert "    merges.txt is missing" in lines
    assert lines[-1].startswith(f"{tmp_path} cannot be used: config.json, tokenizer, weights, assets/token2wav/flow.pt")
