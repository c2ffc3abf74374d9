"""Speech codes: those of the official code, and rows that know nothing of each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.speech_loading import load_speech_decoder
from duplex_server.models.minicpmo.speech_tokens import (
    CODES_PER_UNIT,
    SpeechDecoder,
    SpeechSampling,
    SpeechState,
    penalised,
    waiting_times,
)

GREEDY = SpeechSampling(greedy=True)
LLM_VOCABULARY = 151_748
Unit = tuple[Tensor, bool]
"""Condition ``[n + 1, width]``, and whether the turn ends."""


@pytest.fixture(scope="module")
def decoder(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> SpeechDecoder:
    return load_speech_decoder(tiny_checkpoint, tiny_settings.tts, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(autouse=True)
def as_usual(decoder: SpeechDecoder) -> None:
    decoder.sampling, decoder.strict = SpeechSampling(), False


def recorded(folder: Path, name: str) -> tuple[list[dict[str, object]], dict[str, Tensor]]:
    units = [unit for unit in json.loads((folder / f"golden_{name}.json").read_bytes()) if "unit" in unit]
    with np.load(folder / f"golden_{name}.npz") as arrays:
        kept = {key: torch.from_numpy(arrays[key]) for key in arrays.files if "_tts_" in key or key.endswith("_hidden")}
    return units, kept


def spoken(state: SpeechState, decoder: SpeechDecoder, row: int, units: Sequence[Unit], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [decoder.decode([row], [condition], [end], state, [generator])[0] for condition, end in units]


def made_up(seed: int, decoder: SpeechDecoder) -> list[Unit]:
    """A conversation of some turns of one to three units, with conditions of any length."""
    draw = torch.Generator().manual_seed(seed)
    units = []
    for _ in range(6):
        length = int(torch.randint(0, 12, (1,), generator=draw))
        ids = torch.randint(0, 1000, (length,), generator=draw).tolist()
        hidden = torch.randn(length, decoder.config.llm_dim, generator=draw)
        end = bool(torch.rand(1, generator=draw) < 0.4)
        units.append((decoder.conditions([(ids, hidden)])[0], end))
    return units


@pytest.mark.parametrize("name", ["audio_greedy", "omni_script"])
def test_codes_are_the_official_ones(name: str, decoder: SpeechDecoder, shared_goldens: Path) -> None:
    units, arrays = recorded(shared_goldens, name)
    decoder.sampling, decoder.strict = GREEDY, True
    state = decoder.new_state(1)
    compared = 0
    for unit in units:
        key = f"u{unit['unit']}_tts"
        if f"{key}_cond" not in arrays:
            continue
        if unit["tts_start_pos"] == 0:
            state.reset(0)
        assert state.cache.lengths[0] == unit["tts_start_pos"]
        condition = arrays[f"{key}_cond"][0]
        codes = decoder.decode([0], [condition], [bool(unit["end_of_turn"])], state, [torch.Generator()])[0]
        assert codes == arrays[f"{key}_tokens"].tolist()
        assert unit["end_of_turn"] or state.cache.lengths[0] == unit["tts_kv_len"]
        compared += 1
    assert compared >= 6


def test_drawn_codes_are_the_official_ones(decoder: SpeechDecoder, shared_goldens: Path) -> None:
    """The language model draws from the same generator: as many numbers as its log says are passed over."""
    units, arrays = recorded(shared_goldens, "sampling")
    log = json.loads((shared_goldens / "golden_sampling.json").read_bytes())[-1]["multinomial_log"]
    draws = [entry[0] for entry in log]
    decoder.strict = True
    state = decoder.new_state(1)
    generator = torch.Generator().manual_seed(2024)
    for unit in units:
        expected = arrays[f"u{unit['unit']}_tts_tokens"].tolist()
        begin = next(i for i in range(len(draws)) if draws[i : i + len(expected)] == expected)
        for _ in range(begin):
            torch.empty(1, LLM_VOCABULARY).exponential_(1, generator=generator)
        del draws[: begin + len(expected) + 1]
        condition = arrays[f"u{unit['unit']}_tts_cond"][0]
        assert decoder.decode([0], [condition], [bool(unit["end_of_turn"])], state, [generator])[0] == expected


def test_conditions_are_the_official_ones(decoder: SpeechDecoder, shared_goldens: Path) -> None:
    units, arrays = recorded(shared_goldens, "audio_greedy")
    said = []
    for unit in units:
        ids = unit["decoded"][1:]  # type: ignore[index]
        ids = ids[: len(arrays[f"u{unit['unit']}_tts_cond"][0]) - 1]
        # Step k's state is that after k tokens; the first token is never said.
        states = [arrays[f"u{unit['unit']}_s{step}_hidden"] for step in range(2, 2 + len(ids))]
        said.append((ids, torch.stack(states)))
    for unit, condition in zip(units, decoder.conditions(said), strict=True):
        torch.testing.assert_close(condition, arrays[f"u{unit['unit']}_tts_cond"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("way", "strict", "greedy"),
    [
        ("row by row", False, False),
        ("row by row", True, False),
        ("masked", False, False),
        ("masked", True, False),
        ("recorded", False, False),
        ("recorded", False, True),
    ],
)
def test_eight_rows_speak_as_each_alone(decoder: SpeechDecoder, way: str, strict: bool, greedy: bool) -> None:
    decoder.strict, decoder.sampling = strict, SpeechSampling(greedy=greedy)
    conversations = [made_up(seed, decoder) for seed in range(8)]
    alone = [spoken(decoder.new_state(8), decoder, row, units, row) for row, units in enumerate(conversations)]
    replays = Replays(torch.device("cpu")) if way == "recorded" else None
    state = decoder.new_state(8, together=way != "row by row", replays=replays)
    generators = [torch.Generator().manual_seed(row) for row in range(8)]
    found: list[list[list[int]]] = [[] for _ in range(8)]
    arrival = torch.Generator().manual_seed(9)
    while any(len(codes) < 6 for codes in found):
        waiting = [row for row in torch.randperm(8, generator=arrival).tolist() if len(found[row]) < 6]
        rows = waiting[: int(torch.randint(1, 9, (1,), generator=arrival))]
        now = [conversations[row][len(found[row])] for row in rows]
        codes = decoder.decode(
            rows, [unit[0] for unit in now], [unit[1] for unit in now], state, [generators[row] for row in rows]
        )
        for row, new in zip(rows, codes, strict=True):
            found[row].append(new)
    assert found == alone


def test_a_turn_given_up_leaves_nothing(decoder: SpeechDecoder) -> None:
    state = decoder.new_state(1)
    spoken(state, decoder, 0, [(condition, False) for condition, _ in made_up(1, decoder)], seed=1)
    state.reset(0)
    units = made_up(2, decoder)
    assert spoken(state, decoder, 0, units, seed=2) == spoken(decoder.new_state(1), decoder, 0, units, seed=2)


def test_speech_may_stop_early_only_where_a_turn_begins_or_ends(decoder: SpeechDecoder) -> None:
    decoder.sampling = GREEDY
    head = decoder.head_code[0]
    assert isinstance(head, nn.Linear)
    weight = head.weight
    before = weight[decoder.config.eos_code].clone()
    condition = decoder.conditions([([5], torch.ones(1, decoder.config.llm_dim))])[0]
    try:
        state = decoder.new_state(1)
        units = [condition, condition, condition]
        hidden = decoder.model([condition], [0], decoder.new_state(1).cache)
        weight[decoder.config.eos_code] = hidden[0] * 100  # the likeliest after the condition
        first = spoken(state, decoder, 0, [(units[0], False)], seed=0)[0]
        middle = spoken(state, decoder, 0, [(units[1], False)], seed=0)[0]
        state.reset(0)
        spoken(state, decoder, 0, [(units[0], False)], seed=0)
        last = spoken(state, decoder, 0, [(units[2], True)], seed=0)[0]
    finally:
        weight[decoder.config.eos_code] = before
    assert len(first) < CODES_PER_UNIT
    assert len(middle) == CODES_PER_UNIT
    assert len(last) < CODES_PER_UNIT


def test_a_turn_may_be_longer_than_its_cache(decoder: SpeechDecoder) -> None:
    """The keys of what stays are turned: what is said next depends on distances alone, so nothing jumps."""
    decoder.sampling = GREEDY
    condition = decoder.conditions([([5, 6], torch.ones(2, decoder.config.llm_dim))])[0]
    state = decoder.new_state(1, capacity=80)
    for _ in range(20):
        codes = decoder.decode([0], [condition], [False], state, [torch.Generator()])[0]
        assert len(codes) == CODES_PER_UNIT
        assert state.cache.lengths[0] <= 80


def test_what_stays_of_a_long_turn_is_as_if_it_stood_at_the_beginning(decoder: SpeechDecoder) -> None:
    condition = decoder.conditions([([5, 6, 7], torch.ones(3, decoder.config.llm_dim))])[0]
    state = decoder.new_state(1, capacity=64)
    decoder.model([condition], [0], state.cache)
    decoder.model([condition.flip(0)], [0], state.cache)
    before = [layer.keys[0, :, 4:8].clone() for layer in state.cache.layers]
    state.cache.move(0, 4, 0)
    after = [layer.keys[0, :, :4] for layer in state.cache.layers]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(decoder.model.rope.turned(old, -4), new)
    assert state.cache.lengths[0] == 4


def test_waiting_times_are_exponential_and_independent_of_company() -> None:
    seeds = torch.tensor([1, 2, 3 << 40])
    drawn = waiting_times(seeds, 0, 100_000)
    assert torch.equal(waiting_times(seeds[1:2], 0, 100_000)[0], drawn[1])
    for row in drawn:
        assert row.mean().item() == pytest.approx(1, abs=0.02)
        assert row.var().item() == pytest.approx(1, abs=0.05)
        assert (row < 0.01).float().mean().item() == pytest.approx(0.00995, abs=0.002)
    assert not torch.equal(waiting_times(seeds, 1, 100_000), drawn)
    assert torch.corrcoef(torch.cat([drawn, waiting_times(seeds, 1, 100_000)])).fill_diagonal_(0).abs().max() < 0.02


def test_codes_are_drawn_by_their_probability(decoder: SpeechDecoder) -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, -1).log_softmax(dim=1)
    seeds = torch.randint(2**62, (20_000,), generator=torch.Generator().manual_seed(5))
    chosen = torch.tensor(decoder._chosen(scores, seeds, 3, []))
    shares = torch.bincount(chosen, minlength=4) / len(chosen)
    torch.testing.assert_close(shares, scores[0].exp(), atol=0.015, rtol=0)


def test_strict_draws_one_number_more_and_forgets_what_was_said(decoder: SpeechDecoder) -> None:
    units = made_up(3, decoder)[:2]
    units = [(condition, False) for condition, _ in units]
    decoder.strict = True
    generator = torch.Generator().manual_seed(0)
    state = decoder.new_state(1)
    decoder.decode([0], [units[0][0]], [False], state, [generator])
    assert state.rows[0].unfed is None
    assert state.cache.lengths[0] == len(units[0][0]) + CODES_PER_UNIT
    drawn = torch.Generator().manual_seed(0)
    for _ in range(CODES_PER_UNIT + 1):
        torch.empty(1, decoder.config.num_audio_tokens).exponential_(1, generator=drawn)
    assert torch.equal(generator.get_state(), drawn.get_state())

    decoder.strict = False
    state = decoder.new_state(1)
    generator = torch.Generator().manual_seed(0)
    codes = decoder.decode([0], [units[0][0]], [False], state, [generator])[0]
    assert state.rows[0].unfed == codes[-1]  # goes in with the next condition: one forward fewer
    assert state.cache.lengths[0] == len(units[0][0]) + CODES_PER_UNIT - 1
    drawn = torch.Generator().manual_seed(0)
    torch.randint(2**62, (1,), generator=drawn)
    assert torch.equal(generator.get_state(), drawn.get_state())


def test_repetition_is_remembered_over_units_unless_strict(decoder: SpeechDecoder) -> None:
    """A penalty so strong that a code said before cannot be said again: by default not in the next unit either."""
    condition = decoder.conditions([([5], torch.ones(1, decoder.config.llm_dim))])[0]
    window = 60
    said = {}
    for strict in (False, True):
        decoder.strict = strict
        decoder.sampling = SpeechSampling(greedy=True, repetition_penalty=1e9, repetition_window=window)
        first, second = spoken(decoder.new_state(1), decoder, 0, [(condition, False)] * 2, seed=0)
        assert len(set(first)) == len(set(second)) == CODES_PER_UNIT
        said[strict] = set(first) & set(second)
    assert not said[False]
    assert said[True]


def test_penalties_are_the_official_ones(shared_goldens: Path) -> None:
    with np.load(shared_goldens / "golden_components.npz") as arrays:
        scores, ids, expected = (torch.from_numpy(arrays[key]) for key in ("filt_in", "reppen_ids", "reppen_out"))
    torch.testing.assert_close(penalised(scores.clone(), [ids[0].tolist()[-16:]], 1.05), expected, atol=1e-6, rtol=0)


def test_half_precision_speaks(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        half = load_speech_decoder(tiny_checkpoint, tiny_settings.tts, device=torch.device("cpu"), dtype=dtype)
        units = made_up(4, half)
        assert all(len(codes) <= CODES_PER_UNIT for codes in spoken(half.new_state(1), half, 0, units, seed=4))


def test_memory_that_runs_out_leaves_all_rows_as_they_were(
    decoder: SpeechDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [made_up(seed, decoder)[:3] for seed in (1, 2)]
    expected = [spoken(decoder.new_state(1), decoder, 0, row, seed) for seed, row in enumerate(units)]
    state = decoder.new_state(2)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    scores = decoder._scores
    steps = 0

    def exhausted(*given: object) -> Tensor:
        nonlocal steps
        steps += 1
        if steps % 9 == 0:  # in the middle of a unit
            raise torch.OutOfMemoryError
        return scores(*given)  # type: ignore[arg-type]

    codes: list[list[list[int]]] = []
    for now in zip(*units, strict=True):
        conditions, ends = [condition for condition, _ in now], [end for _, end in now]
        steps = 0
        with monkeypatch.context() as broken:
            broken.setattr(decoder, "_scores", exhausted)
            with pytest.raises(torch.OutOfMemoryError):
                decoder.decode([0, 1], conditions, [False, False], state, generators)
        codes.append(decoder.decode([0, 1], conditions, ends, state, generators))
    assert [list(row) for row in zip(*codes, strict=True)] == expected


def test_no_memory_to_make_room_costs_what_is_remembered_of_the_turn(
    decoder: SpeechDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError

    state = decoder.new_state(1, 64)
    condition, generator = decoder.conditions([([1, 2], torch.zeros(2, decoder.config.llm_dim))])[0], torch.Generator()
    decoder.decode([0], [condition], [False], state, [generator])
    monkeypatch.setattr(state.cache, "move", exhausted)
    decoder.decode([0], [condition], [False], state, [generator])
    decoder.decode([0], [condition], [False], state, [generator])
    assert 0 < state.cache.lengths[0] < 64
