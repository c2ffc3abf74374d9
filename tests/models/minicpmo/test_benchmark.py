"""The benchmark's random weights: a model that hears, sees and speaks, whatever it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.minicpmo import random_parts
from duplex_server.commands.stages import Stages
from duplex_server.models.minicpmo.benching import measure_units, model_to_measure
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from tests.helpers.minicpmo_checkpoint import make_tokenizer, tiny_config
from tests.helpers.minicpmo_token2wav import CAUSAL, FLOW


@pytest.mark.timeout(180)
def test_random_weights_make_a_model_that_works(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    config = MiniCPMOConfig.from_dict(tiny_config())
    parts = random_parts(config, FLOW, CAUSAL, tmp_path, torch.device("cpu"), torch.float32)
    for module in (parts.llm, parts.vision, parts.audio, parts.decoder):
        assert module is not None
        assert all(weight.isfinite().all() for weight in module.parameters())
    stages = Stages()
    model = model_to_measure(parts, 2, stages.ended, frames=True, together=True)
    found = measure_units(model, "omni speaking", 2, 1, stages.take)
    assert not found.failed
    assert found.sound_s == pytest.approx(1.0)
    assert {"see", "hear", "decode", "speech codes", "sound"} <= found.stages_s.keys()
