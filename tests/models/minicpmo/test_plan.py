"""Bytes are those computed by hand from the specification, and what fits, fits where the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_server.models.minicpmo import memory, speaking
from duplex_server.models.minicpmo.memory import Conversation, Measured, measure
from duplex_server.models.minicpmo.options import DuplexOptions
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.plan import RESERVED_BYTES, Arrangement, Device, Wish, make_plan
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions
from tests.helpers.minicpmo_checkpoint import cached_checkpoint, tiny_config

GB = 1e9
VOICE_GB = 0.164 + 0.008
"""What the flow model keeps of one voice of 5 s for 5 steps (§8.1), and its encoder."""


@pytest.fixture(scope="module")
def published(hollow_checkpoint: Path) -> Measured:
    return measure(hollow_checkpoint, Conversation())


def gpus(*gigabytes: float) -> list[Device]:
    return [Device(f"cuda:{index}", f"GPU {index}", round(n * GB)) for index, n in enumerate(gigabytes)]


def chosen(measured: Measured, devices: list[Device], wish: Wish | None = None) -> Arrangement:
    plan = make_plan(measured, devices, wish or Wish())
    assert plan.chosen is not None
    return plan.chosen


def weights(measured: Measured, precision: Precision) -> dict[str, float]:
    of: dict[str, float] = {}
    for part in measured.parts:
        of[part.name] = of.get(part.name, 0) + part.weights[precision] / GB
    return of


def test_weights_are_those_of_the_specification(published: Measured) -> None:
    # §0 and §8.6; speech is 0.65 GB of decoder without dead tensors, 0.70 GB of token2wav in float32, and a voice.
    full = weights(published, Precision.FULL)
    expected = {"embedding": 1.243, "layer": 13.89, "head": 1.243, "vision": 0.836 + 0.178, "audio": 0.614 + 0.042}
    assert full == pytest.approx(expected | {"speech": 0.638 + 0.707 + VOICE_GB}, rel=1e-3)
    assert sum(full.values()) == pytest.approx(19.4 + VOICE_GB, abs=0.05)


def test_quantized_weights_are_those_of_the_specification(published: Measured) -> None:
    # One byte or half of one for 6946 M parameters; 2 bytes of scale for each output channel, or 4 for each 128 inputs,
    # which is 0.11 GB more than in the specification: a zero point that the kernels want.
    int8, int4 = weights(published, Precision.INT8), weights(published, Precision.INT4)
    assert int8["layer"] == pytest.approx(6.95, rel=2e-3)
    assert int4["layer"] == pytest.approx(6.946 / 2 + 6.946 / 128 * 4, rel=1e-3)
    assert int8["head"] == int4["head"] == pytest.approx(0.6216, rel=1e-3)
    assert int8["embedding"] == int4["embedding"] == pytest.approx(1.243, rel=1e-3)
    assert sum(int8.values()) == pytest.approx(11.9 + VOICE_GB, abs=0.1)
    assert sum(int4.values()) == pytest.approx(8.6 + VOICE_GB, abs=0.1)


def test_a_conversation_takes_what_the_specification_says(hollow_checkpoint: Path) -> None:
    # §8.1 with 5 flow steps: 590 MB for 4000 tokens, at most 147 MB of hearing, 61 MB and about 240 MB of speech; and
    # what a step of the solver is recorded upon.
    # Beside the window there is room for one more unit: a picture, sound, typed words, and what is said.
    measured = measure(hollow_checkpoint, Conversation(window=4000, flow_steps=5, prompt_s=5))
    assert sum(part.state for part in measured.layers) == 147_456 * (4000 + 66 + 10 + 256 + 27)
    assert measured.audio.state == 98_304 * 1500
    decoder = 61_440 * 1024
    attention, convolution, encoder = 131_072 * 350 * 5, 262_144 * 5, (4 * 350 + 3 * 350) * 8 * 128 * 4 + 512 * 6 * 4
    workspace = 131_072 * 448 + 262_144 + (4 * 448 + 3 * 448) * 8 * 128 * 4 + 512 * 6 * 4
    assert measured.speech.state == decoder + attention + convolution + encoder + 2 * workspace
    assert sum(part.state for part in measured.parts) == pytest.approx(1.24 * GB, rel=0.01)


@pytest.mark.parametrize("asked", [(4000, 1, 1), (500, 0, 1), (8000, 3, 9)])
def test_what_is_planned_is_what_is_allocated(asked: tuple[int, int, int]) -> None:
    window, frames, slices = asked
    planned = Conversation(window=window, frames_per_unit=frames, picture_slices=slices)
    options = DuplexOptions(WindowOptions(WindowMode.BASIC, window, window // 2), max_frames=frames, max_slices=slices)
    assert planned.positions(64) == options.capacity(64)
    assert speaking._TURN_POSITIONS == memory._SPEECH_POSITIONS


def test_a_32_gb_card_holds_everything(published: Measured) -> None:
    arrangement = chosen(published, gpus(32))
    assert (arrangement.precision, arrangement.split, arrangement.conversations) == (Precision.FULL, "one", 8)
    assert arrangement.placement == Placement.single("cuda:0", 36)


@pytest.mark.parametrize(
    ("gigabytes", "precision", "embedding_on_cpu", "conversations"),
    [
        (24, Precision.FULL, False, 2),  # 24 − 1.5 − 19.57 = 2.93
        (22, Precision.FULL, True, 1),  # 22 − 1.5 − 19.57 < 1.24 <= 22 − 1.5 − 18.32
        (16, Precision.INT8, False, 2),  # 16 − 1.5 − 12.0 = 2.5
        (14, Precision.INT8, True, 1),  # 14 − 1.5 − 10.76 = 1.74
        (12, Precision.INT4, False, 1),  # 12 − 1.5 − 8.74 = 1.76
        (10.4, Precision.INT4, True, 1),  # 10.4 − 1.5 − 7.5 = 1.4
    ],
)
def test_a_smaller_card_takes_the_best_precision_that_fits(
    published: Measured, gigabytes: float, precision: Precision, embedding_on_cpu: bool, conversations: int
) -> None:
    arrangement = chosen(published, gpus(gigabytes))
    assert arrangement.precision is precision
    assert arrangement.embedding_on_cpu is embedding_on_cpu
    assert arrangement.conversations == conversations
    assert (arrangement.placement.embedding == "cpu") is embedding_on_cpu


def test_three_12_gb_cards_share_the_layers(published: Measured) -> None:
    arrangement = chosen(published, gpus(12, 12, 12))
    assert (arrangement.precision, arrangement.split, arrangement.conversations) == (Precision.FULL, "layers", 9)
    layers = arrangement.placement.layers
    assert list(layers) == sorted(layers), "a unit passes each device once"
    assert arrangement.placement.head == layers[-1] == "cuda:2"


def test_large_cards_of_different_sizes_are_used_by_stage(published: Measured) -> None:
    placement = chosen(published, gpus(4, 32, 4), Wish(split="stage")).placement
    assert set(placement.layers) == {placement.embedding, placement.head} == {"cuda:1"}
    assert {placement.vision, placement.audio, placement.speech} == {"cuda:0", "cuda:2"}
    assert placement.vision == placement.audio != placement.speech


@pytest.mark.parametrize("sizes", [(32,), (12, 12, 12), (8, 8, 8), (6, 6), (24, 16), (40, 8, 8, 8), (5, 5, 5, 5, 5)])
def test_what_is_said_to_fit_does_fit(published: Measured, sizes: tuple[float, ...]) -> None:
    devices = gpus(*sizes)
    arrangement = chosen(published, devices)
    assert sorted(part.name for part, _ in arrangement.places) == sorted(part.name for part in published.parts)
    for device in arrangement.used:
        used = arrangement.weights_on(device) + arrangement.conversations * arrangement.state_on(device)
        assert used + RESERVED_BYTES <= device.n_bytes
    one_more = [
        device.n_bytes
        - RESERVED_BYTES
        - arrangement.weights_on(device)
        - (arrangement.conversations + 1) * arrangement.state_on(device)
        for device in arrangement.used
    ]
    assert min(one_more) < 0


def test_more_conversations_cost_precision(published: Measured) -> None:
    assert chosen(published, gpus(24), Wish(conversations=2)).precision is Precision.FULL
    assert chosen(published, gpus(24), Wish(conversations=8)).precision is Precision.INT8
    assert chosen(published, gpus(24), Wish(conversations=12)).precision is Precision.INT4


def test_other_splits_that_hold_more_are_named(published: Measured) -> None:
    plan = make_plan(published, gpus(24, 24), Wish())
    assert plan.chosen is not None
    assert plan.chosen.split == "one"
    assert [other.split for other in plan.others] == ["stage", "layers"]
    assert all(other.conversations > plan.chosen.conversations for other in plan.others)


def test_parts_that_are_left_out_take_nothing(published: Measured) -> None:
    seeing = chosen(published, gpus(32), Wish(without=frozenset({"audio", "speech"})))
    assert seeing.placement.audio is seeing.placement.speech is None
    assert seeing.weights_on(seeing.used[0]) == pytest.approx(17.39 * GB, rel=1e-3)
    assert seeing.state_on(seeing.used[0]) == 147_456 * 4359


def test_what_would_fit_is_told_to_the_megabyte(published: Measured) -> None:
    plan = make_plan(published, gpus(8), Wish())
    assert plan.chosen is None
    assert plan.needed_bytes / GB == pytest.approx(1.5 + 7.5 + 1.24, abs=0.01)
    assert make_plan(published, gpus(plan.needed_bytes / GB), Wish()).chosen is not None
    assert make_plan(published, gpus(plan.needed_bytes / GB - 0.01), Wish()).chosen is None
    several = make_plan(published, gpus(3, 3, 3), Wish())
    assert several.needed_each_bytes is not None
    assert make_plan(published, gpus(*[several.needed_each_bytes / GB] * 3), Wish()).chosen is not None
    assert make_plan(published, gpus(*[several.needed_each_bytes / GB - 0.01] * 3), Wish()).chosen is None


def test_a_checkpoint_without_token2wav_is_measured_and_told(tmp_path: Path) -> None:
    folder = cached_checkpoint(tiny_config())
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    measured = measure(tmp_path, Conversation())
    assert measured.host == 0
    assert "token2wav is not there" in measured.notes[0]


def test_of_a_placement_every_tensor_has_a_device() -> None:
    placement = Placement.by_layers(["a", "b", "c"], 7).only(vision=False)
    assert placement.layers == ("a", "a", "a", "b", "b", "c", "c")
    assert placement.of_llm("model.embed_tokens.weight") == "a"
    assert placement.of_llm("model.layers.3.self_attn.q_proj.weight") == "b"
    assert placement.of_llm("model.norm.weight") == placement.of_llm("lm_head.weight") == "c"
    assert (placement.vision, placement.audio, placement.speech) == (None, "b", "c")
    assert placement.devices == ["a", "b", "c"]
