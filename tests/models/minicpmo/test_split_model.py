"""The whole model over several devices, from sound and pictures to sound: the same words, and the same sound."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from duplex_server.errors import CheckpointError
from duplex_server.models.minicpmo.parts import load_parts
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.quantize import Int4Linear, Int8Linear
from duplex_server.types import SessionSetup, VideoFrame
from tests.helpers.minicpmo_voice import OPTIONS, build_scripted, speaking_checkpoint
from tests.helpers.model_conformance import Spoken, converse, silent_units, sound, units_of
from tests.helpers.stand_in_devices import StandInDevices

ONE, TWO, THREE = (f"standin:{index}" for index in range(3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def answered(checkpoint: Path, placement: Placement) -> list[Spoken]:
    """Return what the model says to a second of noise, with a picture seen."""
    plain = {**asdict(placement), "precision": placement.precision.value}
    model = build_scripted(1, **OPTIONS, folder=str(checkpoint), placement=plain, greedy=True, seed=1)
    heard = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    frame = VideoFrame(0.0, np.random.default_rng(1).integers(0, 255, (90, 120, 3), np.uint8))
    first, *rest = units_of(model.spec, heard) + silent_units(model.spec, 2.0)
    model.open(0, SessionSetup())
    return converse(model, {0: [replace(first, frames=(frame,)), *rest]})[0]


def words(said: list[Spoken]) -> list[tuple[int, str]]:
    return [(spoken.output.turn, spoken.output.text) for spoken in said]


def test_it_says_the_same_over_three_devices(checkpoint: Path) -> None:
    alone = answered(checkpoint, Placement.single("cpu", 3))
    assert any(spoken.output.text for spoken in alone) and len(sound(alone))
    by_layers = replace(Placement.by_layers([ONE, TWO, THREE], 3), embedding="cpu")
    by_stage = Placement(ONE, (ONE,) * 3, ONE, TWO, TWO, THREE)
    for placement in (by_layers, by_stage):
        with StandInDevices():
            split = answered(checkpoint, placement)
        assert words(split) == words(alone)
        np.testing.assert_allclose(sound(split), sound(alone), atol=1e-3)


def test_what_is_left_out_is_not_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)  # no token2wav
    everything = Placement.single("cpu", 3)
    seeing = load_parts(tmp_path, everything.only(audio=False, speech=False), dtype=torch.float32)
    assert seeing.vision is not None
    assert (seeing.audio, seeing.decoder, seeing.token2wav) == (None, None, None)
    hearing = load_parts(tmp_path, everything.only(vision=False, speech=False), dtype=torch.float32)
    assert hearing.audio is not None
    assert (hearing.vision, hearing.decoder) == (None, None)
    with pytest.raises(CheckpointError, match=r"flow\.pt is missing"):
        load_parts(tmp_path, everything, dtype=torch.float32)


def test_a_quantized_model_is_loaded_like_any_other(tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    placement = Placement.single("cpu", 3, Precision.INT4).only(vision=False, audio=False, speech=False)
    llm = load_parts(tiny_checkpoint, placement, dtype=torch.bfloat16).llm
    kinds = {type(module) for module in llm.modules() if hasattr(module, "take")}
    assert kinds == {Int4Linear, Int8Linear}
    # 320 inputs of down_proj are no multiple of what the kernel takes at once.
    assert "3 layers in int4 have no kernel on their device" in caplog.text
    (hidden,) = llm([llm.embed([1, 2, 3])], [0], llm.new_cache(1, 8))
    assert hidden.dtype is torch.bfloat16 and hidden.isfinite().all()
