"""The benchmark's random weights: a model that hears, sees and speaks, whatever it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.minicpmo import random_parts
from duplex_server.commands.stages import Stages
from duplex_server.errors import CapacityError, ModelLoadError
from duplex_server.models.base import RowOutput, RowUnit
from duplex_server.models.minicpmo.benching import measure_units, model_to_measure, most_that_fit
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.model import MiniCPMO
from duplex_server.types import ModelOutput, SessionSetup
from tests.helpers.minicpmo_checkpoint import make_tokenizer, tiny_config
from tests.helpers.minicpmo_token2wav import CAUSAL, FLOW


@pytest.mark.timeout(180)
@pytest.mark.parametrize("recorded", [False, True])
def test_random_weights_make_a_model_that_works(tmp_path: Path, recorded: bool) -> None:
    make_tokenizer(tmp_path)
    config = MiniCPMOConfig.from_dict(tiny_config())
    parts = random_parts(config, FLOW, CAUSAL, tmp_path, torch.device("cpu"), torch.float32)
    for module in (parts.llm, parts.vision, parts.audio, parts.decoder):
        assert module is not None
        assert all(weight.isfinite().all() for weight in module.parameters())
    stages = Stages()
    model = model_to_measure(parts, 2, stages.ended, frames=True, together=True, recorded=recorded)
    found = measure_units(model, "omni speaking", 2, 1, stages.take)
    assert not found.failed
    assert found.sound_s == pytest.approx(1.0)
    assert {"see", "hear", "decode", "speech codes", "sound"} <= found.stages_s.keys()


def test_as_many_conversations_are_tried_as_memory_holds() -> None:
    def make(count: int) -> str:
        if count > 4:
            raise torch.OutOfMemoryError
        return f"{count} rows"

    assert most_that_fit((1, 2, 4, 8, 16), make) == (4, "4 rows")
    with pytest.raises(ModelLoadError, match="no memory for 8"):
        most_that_fit((8, 16), make)


class _Full:
    """A model with memory for one conversation."""

    def open(self, row: int, setup: SessionSetup) -> None:
        if row:
            raise CapacityError(5)

    def close(self, row: int) -> None: ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        yield from (RowOutput(given.row, ModelOutput(0, listening=True)) for given in batch)


def test_conversations_that_find_no_memory_are_counted_as_failed() -> None:
    found = measure_units(cast(MiniCPMO, _Full()), "listening", 3, 1, dict)
    assert found.failed == 2 and not found.held
