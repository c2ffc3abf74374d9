"""``duplex-server bench``: every figure is there, and what is not held is not counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from duplex_server.cli import main
from duplex_server.commands.stages import Stages
from duplex_server.models.minicpmo.benching import KINDS, UnitFigures


@pytest.mark.timeout(300)
def test_a_checkpoint_is_measured(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--device", "cpu", "--units", "1", "--most", "1", "--flow-steps", "2", "--out", str(tmp_path)]
    assert main(["bench", str(tiny_checkpoint), *flags]) == 0
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert {unit["kind"] for unit in figures["units"]} == set(KINDS) == figures["conversations_held"].keys()
    for unit in figures["units"]:
        assert {"see", "hear", "decode"} <= unit["stages_s"].keys()
        # What the floor asked for was done.
        assert (unit["sound_s"] > 0) == unit["kind"].endswith("speaking")
        assert 0 < unit["p50_s"] <= unit["p95_s"] and not unit["failed"]
    assert set(figures["encoding_s"]) == {"a picture", "5 s of sound"}
    assert figures["decoding_tokens_per_s"]["1"] > 0
    assert figures["peak_bytes"] > 0 and figures["planned_bytes"] > 0 and figures["loading_s"] > 0
    assert (tmp_path / "bench.png").is_file()
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in KINDS) and "held in real time" in shown


def test_a_conversation_is_held_if_its_units_are_answered_in_time() -> None:
    assert UnitFigures("speaking", 2, 0.3, 0.69, {}, 1.0, 0).held
    assert not UnitFigures("speaking", 2, 0.3, 0.71, {}, 1.0, 0).held
    assert not UnitFigures("speaking", 2, 0.3, 0.4, {}, 1.0, 1).held


def test_stages_are_summed_until_taken() -> None:
    stages = Stages()
    stages.ended("see", 1.0)
    stages.ended("see", 0.5)
    assert stages.take() == {"see": 1.5}
    assert stages.take() == {}
