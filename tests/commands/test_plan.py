"""What the plan says to a person."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from duplex_server.cli import main
from duplex_server.errors import ConfigError
from duplex_server.models.minicpmo.gpus import find_gpus, parse_gpus


def test_a_plan_names_parts_precisions_and_bytes(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(hollow_checkpoint), "--gpu", "32GB"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "It fits on one GPU in 16-bit: 8 conversations at once.",
        "A conversation takes 1.24 GB: 643 MB for 4000 tokens and a unit, 147 MB for what it heard, "
        "447 MB to speak in 5 flow steps.",
        "",
        "GPU 0 (32.0 GB)",
        "  embedding             16-bit              1.24 GB",
        "  layers 0–35           16-bit              13.9 GB",
        "  head                  16-bit              1.24 GB",
        "  vision                16-bit              1.01 GB",
        "  audio                 16-bit               656 MB",
        "  speech                16-bit, float32     1.52 GB",
        "  8 conversations × 1.24 GB                 9.90 GB",
        "  kept for computing                        1.50 GB",
        "  not used                                  1.03 GB",
        f"  [{'█' * 37}{'▒' * 18}{'░' * 3}{'·' * 2}]",
        "   █ weights  ▒ conversations  ░ kept for computing  · not used",
        "",
        "The host needs 524 MB of memory, and while loading up to 5.55 GB more, mapped from one file at a time.",
    ]


def test_several_gpus_have_a_table_each(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(hollow_checkpoint), "--gpu", "12GB,12GB,12GB", "--window", "8000"]) == 0
    shown = capsys.readouterr().out
    assert "It fits by layers over 3 GPUs in 16-bit: 6 conversations at once." in shown
    assert "1.23 GB for 8000 tokens" in shown
    assert [line for line in shown.splitlines() if line.startswith("GPU")] == [
        f"GPU {index} (12.0 GB)" for index in range(3)
    ]


def test_a_small_card_is_told_what_it_gives_up(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(hollow_checkpoint), "--gpu", "11GB"]) == 0
    shown = capsys.readouterr().out
    assert "It fits on one GPU in int4, the embedding table in the host's memory: 1 conversation at once." in shown
    assert "  layers 0–35           int4                3.69 GB" in shown
    assert "  head                  int8                 622 MB" in shown
    assert "The host needs 1.77 GB of memory" in shown


def test_where_nothing_fits_what_would_is_told(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(hollow_checkpoint), "--gpu", "5GB,5GB"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "It does not fit on GPU 0 (5.00 GB) and GPU 1 (5.00 GB). For 1 conversation it needs 10.3 GB on one GPU or "
        "5.9 GB on each of 2, even in int4 with the embedding table in the host's memory.",
        "A smaller --window needs less, and so does the model --without vision, audio or speech.",
    ]


def test_unused_gpus_and_better_splits_are_named(hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", str(hollow_checkpoint), "--gpu", "24GB,24GB"])
    shown = capsys.readouterr().out
    assert "Not used: GPU 1." in shown
    assert "By layers over 2 GPUs there is room for 20 conversations: --split layers." in shown
    main(["plan", str(hollow_checkpoint), "--gpu", "24GB,24GB", "--split", "layers"])
    assert "It fits by layers over 2 GPUs in 16-bit: 20 conversations at once." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--gpu", "many"], "--gpu many: 'many' is no size"),
        (["--gpu", "32GB,"], "'' is no size"),
        (["--gpu", "32GB", "--without", "soul"], "soul cannot be left out"),
        (["--gpu", "32GB", "--window", "0"], "--window 0: must be at least 1"),
    ],
)
def test_a_wrong_flag_ends_with_status_2(
    hollow_checkpoint: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(["plan", str(hollow_checkpoint), *flags]) == 2
    assert says in capsys.readouterr().err


def test_sizes_are_read() -> None:
    assert [device.n_bytes for device in parse_gpus("32GB, 1.5GiB,800mb")] == [32 * 10**9, 3 * 2**29, 8 * 10**8]


def driver(folder: Path, says: str, status: int = 0) -> list[str]:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return [os.fspath(program)]


def test_gpus_are_found_with_their_free_memory(tmp_path: Path) -> None:
    found = find_gpus(driver(tmp_path, "0, Tesla V100-SXM2-32GB, 32000\n1, NVIDIA H200, 143000"))
    assert [(device.name, device.label) for device in found] == [
        ("cuda:0", "GPU 0, Tesla V100-SXM2-32GB"),
        ("cuda:1", "GPU 1, NVIDIA H200"),
    ]
    assert found[0].n_bytes == 32000 * 2**20


def test_without_a_gpu_one_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no GPU was found"):
        find_gpus([os.fspath(tmp_path / "none")])
    with pytest.raises(ConfigError, match="no GPU was found"):
        find_gpus(driver(tmp_path, "Failed to initialize NVML", status=9))
    with pytest.raises(ConfigError, match="names no GPU"):
        find_gpus(driver(tmp_path, "No devices were found"))
