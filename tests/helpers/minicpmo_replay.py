"""Replays a recorded conversation through the duplex loop, with the recorded embeddings of what was heard and seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import read_config
from duplex_server.models.minicpmo.duplex import DuplexLoop
from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.sampling import Sampler, SamplingOptions
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.units import Event, Head, SaidToken, UnitEnd, UnitInput
from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions

__all__ = ["Recorded", "ReplayedUnit", "head_of", "inputs_of", "load_llm", "loop_for", "replay"]

CAPACITY = 1400


def load_llm(folder: Path) -> Qwen3:
    config = read_config(folder)
    with torch.device("meta"):
        llm = Qwen3(config.llm)
    source = SafetensorsSource(read_checkpoint(folder))
    load_module(llm, source, "llm.", device=torch.device("cpu"), dtype=torch.float32)
    return llm


@dataclass
class Recorded:
    """A scenario, and what the official code computed in it."""

    scenario: dict[str, Any]
    arrays: dict[str, np.ndarray]
    units: list[dict[str, Any]]
    log: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, name: str) -> Recorded:
        said = json.loads((folder / f"golden_{name}.json").read_bytes())
        with np.load(folder / f"golden_{name}.npz") as arrays:
            return cls(
                json.loads((folder / f"scenario_{name}.json").read_bytes()),
                {key: arrays[key] for key in arrays.files},
                [unit for unit in said if "unit" in unit],
                {key: value for entry in said if "unit" not in entry for key, value in entry.items()},
            )

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])


def head_of(recorded: Recorded, tokenizer: Tokenizer) -> Head:
    reference = recorded.tensor("ref_audio_embeds") if recorded.scenario["reference"] else None
    return Head(tokenizer.encode(recorded.scenario["prefix"]), tokenizer.encode(recorded.scenario["suffix"]), reference)


def inputs_of(recorded: Recorded, row: int = 0) -> list[UnitInput]:
    """Return the units of a recorded conversation; pictures are told apart by the layout that was recorded."""
    script = recorded.scenario["script"]
    inputs = []
    for unit in recorded.units:
        number = unit["unit"]
        pictures: list[Tensor] = []
        if (key := f"u{number}_vision_embeds") in recorded.arrays:
            marks = unit["schema"].split("[img_embed_64]")[:-1]
            starts = [place for place, mark in enumerate(marks) if mark.endswith("<image>")]
            embeds = recorded.tensor(key)
            pictures = [embeds[start:end] for start, end in zip(starts, [*starts[1:], len(marks)], strict=True)]
        inputs.append(
            UnitInput(
                row,
                recorded.tensor(f"u{number}_audio_embeds"),
                pictures,
                script=script[str(number)] if script else None,
            )
        )
    return inputs


def loop_for(
    recorded: Recorded,
    llm: Qwen3,
    tokenizer: Tokenizer,
    rows: int = 1,
    *,
    official: bool = True,
    together: bool = False,
) -> DuplexLoop:
    window = dict(recorded.scenario["window"])
    options = SamplingOptions(greedy=recorded.scenario["decode"] == "greedy")
    return DuplexLoop(
        llm,
        rows,
        CAPACITY,
        sampler=Sampler(options, tokenizer.bad_token_ids, official=official),
        window=WindowOptions(WindowMode(window.pop("mode")), **window),
        special_ids=tokenizer.special_ids,
        marker=tokenizer.encode("\n\nprevious: "),
        official=official,
    )


@dataclass
class ReplayedUnit:
    """What the loop did in a unit."""

    end: UnitEnd
    events: list[Event]
    states: list[Tensor] = field(default_factory=list)
    """Hidden state after the input, and after each token that was fed."""

    @property
    def spoken(self) -> list[int]:
        return [event.token for event in self.events if isinstance(event, SaidToken)]


def replay(loop: DuplexLoop, inputs: Iterable[UnitInput]) -> Iterator[ReplayedUnit]:
    """Give one row its units; the cache is settled after each, so that it can be looked at."""
    forward = loop.llm.forward
    states: list[Tensor] = []

    def watched(embeds: Sequence[Tensor], rows: Sequence[int], cache: KvCache) -> list[Tensor]:
        hidden = forward(embeds, rows, cache)
        states.append(hidden[0][-1])
        return hidden

    for given in inputs:
        states.clear()
        loop.llm.forward = watched  # type: ignore[method-assign]
        try:
            events = list(loop.step([given]))
        finally:
            loop.llm.forward = forward  # type: ignore[method-assign]
        end = events[-1]
        assert isinstance(end, UnitEnd)
        yield ReplayedUnit(end, events, list(states))
