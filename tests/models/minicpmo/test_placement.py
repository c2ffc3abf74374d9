"""The model split over several devices says what it says on one. Stand-ins refuse tensors of different devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import read_config
from duplex_server.models.minicpmo.duplex import DuplexLoop
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.quantize import quantize_llm
from duplex_server.models.minicpmo.sampling import Sampler, SamplingOptions
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import Event, Head, UnitEnd, UnitInput
from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions
from duplex_server.types import Floor
from tests.helpers.stand_in_devices import StandInDevices, real

ONE, TWO, THREE = (f"standin:{index}" for index in range(3))
FLOORS = (Floor.FREE, Floor.SPEAK, Floor.FREE, Floor.LISTEN, Floor.SPEAK)
PLACEMENTS = {
    "by layers, the embedding on the CPU": replace(Placement.by_layers([ONE, TWO, THREE], 3), embedding="cpu"),
    "by stage": Placement(ONE, (ONE,) * 3, ONE, TWO, TWO, THREE),
    "back and forth": Placement(THREE, (ONE, TWO, ONE), TWO, THREE, THREE, THREE),
}


def load(folder: Path, placement: Placement) -> Qwen3:
    with torch.device("meta"):
        llm = Qwen3(read_config(folder).llm)
    quantize_llm(llm, placement.precision)

    def device(name: str) -> torch.device:
        return torch.device(placement.of_llm(name))

    load_module(llm, SafetensorsSource(read_checkpoint(folder)), "llm.", device=device, dtype=torch.float32)
    return llm


def converse(llm: Qwen3, encoders: str) -> list[Event]:
    """Hold two conversations with sampling, sights, typed words and a window that drops."""
    width = llm.config.hidden_size

    def drawn(n: int, seed: int) -> Tensor:
        return (torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * 0.5).to(encoders)

    window = WindowOptions(WindowMode.BASIC, high_tokens=120, low_tokens=90)
    loop = DuplexLoop(llm, 2, 500, sampler=Sampler(SamplingOptions(), ()), window=window)
    for row in range(2):
        loop.open(row, Head([SPECIAL.im_start, 8948, 198], [SPECIAL.im_end], drawn(5, 99)), seed=row)
    events: list[Event] = []
    for place, floor in enumerate(FLOORS):
        units = [
            UnitInput(
                row,
                drawn(10, 10 * place + row),
                [drawn(64, 1000 + place)] if place == row else (),
                [603, 1378] if place == 2 else (),
                floor,
            )
            for row in range(2)
        ]
        events.extend(loop.step(units))
    return events


def words(events: list[Event]) -> list[object]:
    """Return what happened, without the states, which may differ in their last bits."""
    return [
        (event.row, event.turn, event.listening, event.end_of_turn, tuple(event.spoken))
        if isinstance(event, UnitEnd)
        else event
        for event in events
    ]


@pytest.fixture(scope="module")
def on_one(tiny_checkpoint: Path) -> list[object]:
    return words(converse(load(tiny_checkpoint, Placement.single("cpu", 3)), "cpu"))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_split_model_says_the_same(name: str, tiny_checkpoint: Path, on_one: list[object]) -> None:
    placement = PLACEMENTS[name]
    with StandInDevices():
        llm = load(tiny_checkpoint, placement)
        assert [str(device) for device in llm.devices] == list(placement.layers)
        said = words(converse(llm, str(placement.audio)))
    assert said == on_one
    assert any(isinstance(event, tuple) and event[4] for event in said), "something was said"


def scores(llm: Qwen3) -> Tensor:
    """Return the scores after some tokens, on the CPU."""
    (hidden,) = llm([llm.embed(range(100, 130))], [0], llm.new_cache(1, 32))
    return llm.logits(hidden[-2:]).cpu()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_a_quantized_model_is_split_like_any_other(precision: Precision, tiny_checkpoint: Path) -> None:
    whole = scores(load(tiny_checkpoint, Placement.single("cpu", 3, precision)))
    split = replace(Placement.by_layers([ONE, TWO, THREE], 3, precision), embedding="cpu")
    with StandInDevices():
        found = scores(load(tiny_checkpoint, split))
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_stand_ins_refuse_to_be_mixed() -> None:
    with StandInDevices():
        one, two = torch.ones(2, device=ONE), torch.ones(2).to(TWO)
        with pytest.raises(RuntimeError, match="was given tensors on standin:0, standin:1"):
            one + two
        with pytest.raises(RuntimeError, match="was given tensors on cpu, standin:0"):
            torch.cat([one, torch.ones(2)])
        assert str((one + two.to(ONE)).device) == ONE
        moved = one.to(TWO)
        moved += 1
        assert real(one).tolist() == [1, 1], "a copy to another device is a copy"
        assert one.cpu().device.type == "cpu"
