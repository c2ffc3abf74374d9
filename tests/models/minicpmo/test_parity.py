"""``duplex-server parity``: agrees with the official code, and says where it would not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from duplex_server.cli import main
from duplex_server.models.minicpmo.parity import LIMITS, Tally
from tests.conftest import ROOT

GOLDENS = ROOT / "tests" / "goldens" / "minicpmo"


@pytest.mark.timeout(600)
def test_the_engine_agrees_with_the_official_code(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["parity", str(tiny_checkpoint), str(GOLDENS)])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "Everything agrees." in shown
    compared = {tuple(line[:36].split(maxsplit=1)) for line in shown.splitlines()[1:-1]}
    assert {name for name, _ in compared} == {"audio_greedy", "components", "omni_script", "sampling", "token2wav"}
    assert {stage.split("  ")[0].strip() for _, stage in compared} >= set(LIMITS) - {"text", "mel of a voice"}


def test_a_difference_is_found_and_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(GOLDENS / "golden_components.npz") as arrays:
        changed = {key: arrays[key].copy() for key in arrays.files}
    changed["offaudio_a_emb"][3, 5] += 0.01
    np.savez(tmp_path / "golden_components.npz", **changed)
    shutil.copy(GOLDENS / "inputs_components.npz", tmp_path)
    assert main(["parity", str(tiny_checkpoint), str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "✗ offaudio_a_emb" in shown
    assert "1 stages differ" in shown


def test_nothing_to_compare_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", str(tiny_checkpoint), str(tmp_path)]) == 1
    assert "holds no golden_NAME.npz" in capsys.readouterr().err
    assert main(["parity", str(tiny_checkpoint), str(GOLDENS), "--only", "nobody"]) == 1
    assert "golden_nobody.npz" in capsys.readouterr().err


class TestTally:
    def test_other_shapes_and_what_is_no_number_never_fit(self) -> None:
        for found in (torch.zeros(3), torch.full((2,), torch.nan)):
            tally = Tally("some")
            tally.numbers("logits", "a", found, torch.zeros(2))
            assert not tally.stages["logits"].fits

    def test_missing_and_differing_ids_are_counted(self) -> None:
        tally = Tally("some")
        tally.sequences("token ids", "a", [1, 2, 3], [1, 2, 3])
        assert tally.stages["token ids"].fits
        tally.sequences("token ids", "b", [1, 5], [1, 2, 3])
        assert (tally.stages["token ids"].differing, tally.stages["token ids"].where) == (2, "b")
