"""The duplex loop does what the official code did, row by row, whoever else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.duplex import DuplexLoop
from duplex_server.models.minicpmo.kv import ContextFull
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.sampling import Sampler, SamplingOptions
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import Event, Head, RowFull, SaidToken, TurnCut, UnitEnd, UnitInput
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions
from duplex_server.types import Floor
from tests.helpers.minicpmo_replay import Recorded, head_of, inputs_of, load_llm, loop_for, replay

SCENARIOS = ["audio_greedy", "omni_script", "sampling", "long_listen", "basic_window", "context_window"]
PLAIN = Head([SPECIAL.im_start, 8948, 198], [SPECIAL.im_end])
ONE, TWO, THREE = 603, 1378, 2326
"""Ids of words."""


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Path) -> Qwen3:
    return load_llm(tiny_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer(tiny_checkpoint)


def heard(llm: Qwen3, seed: int) -> Tensor:
    """Return embeddings as if something had been heard, ``[10, hidden]``."""
    return torch.randn(10, llm.config.hidden_size, generator=torch.Generator().manual_seed(seed)) * 0.5


def one_step(loop: DuplexLoop, *inputs: UnitInput) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {given.row: [] for given in inputs}
    for event in loop.step(inputs):
        found[event.row].append(event)
    return found


def end_of(events: Sequence[Event]) -> UnitEnd:
    end = events[-1]
    assert isinstance(end, UnitEnd)
    return end


def same(one: Sequence[Event], other: Sequence[Event]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if isinstance(a, UnitEnd) and isinstance(b, UnitEnd):
            assert (a.turn, a.listening, a.end_of_turn, a.spoken) == (b.turn, b.listening, b.end_of_turn, b.spoken)
            torch.testing.assert_close(a.hidden, b.hidden, atol=1e-4, rtol=1e-4)
        else:
            assert replace(a, row=0) == replace(b, row=0)


def speech_draws(loop: DuplexLoop, row: int) -> None:
    """Draw what the official speech decoder draws from the same random numbers in a unit that speaks."""
    for _ in range(26):
        torch.empty(1, 6562).exponential_(1, generator=loop.generator(row))


class TestOfficialBehaviour:
    @pytest.mark.parametrize("name", SCENARIOS)
    def test_every_token_state_and_key_is_the_official_one(
        self, name: str, shared_goldens: Path, llm: Qwen3, tokenizer: Tokenizer
    ) -> None:
        recorded = Recorded.read(shared_goldens, name)
        loop = loop_for(recorded, llm, tokenizer)
        loop.open(0, head_of(recorded, tokenizer), recorded.scenario["seed"] or 0)
        for unit, done in zip(recorded.units, replay(loop, inputs_of(recorded)), strict=True):
            loop.settle([0])
            number = unit["unit"]
            assert (done.end.listening, done.end.end_of_turn) == (unit["is_listen"], unit["end_of_turn"])
            assert tokenizer.decode(done.end.spoken) == unit["text"]
            assert loop.cache.lengths[0] == unit["cache_len"]
            assert [record.length for record in loop.units(0)] == unit["units"]
            self.compare_states(recorded, number, done.states, llm)
            for layer, sums in zip(loop.cache.layers, recorded.arrays[f"u{number}_k_checks"], strict=True):
                keys = layer.keys[0, :, : unit["cache_len"]].double()
                assert [float(keys.sum()), float(keys.abs().sum())] == pytest.approx(list(sums), abs=0.02)
            if recorded.scenario["decode"] == "sampling":
                speech_draws(loop, 0)
        first, last = loop.cache.layers[0], loop.cache.layers[-1]
        n = loop.cache.lengths[0]
        for found, key in [(first.keys, "k_l0"), (first.values, "v_l0"), (last.keys, "k_last")]:
            torch.testing.assert_close(found[0, :, :n], recorded.tensor(f"final_{key}"), atol=2e-5, rtol=0)

    def compare_states(self, recorded: Recorded, unit: int, states: list[Tensor], llm: Qwen3) -> None:
        for step, state in enumerate(states):
            key = f"u{unit}_s{step}_"
            if key + "hidden" in recorded.arrays:
                torch.testing.assert_close(state, recorded.tensor(key + "hidden"), atol=2e-5, rtol=0)
            if key + "logits_strided" in recorded.arrays:
                logits = llm.logits(state)
                torch.testing.assert_close(logits[::37], recorded.tensor(key + "logits_strided"), atol=1e-4, rtol=0)
                special = recorded.tensor(key + "logits_special")
                torch.testing.assert_close(logits[151640:], special, atol=1e-4, rtol=0)


class TestRows:
    def conversation(self, llm: Qwen3, row: int) -> list[UnitInput]:
        """Return units unlike those of any other row: pictures in some, words typed in some, floors that differ."""
        draws = random.Random(row)
        units = []
        for number in range(4):
            picture = torch.randn(
                1 + number % 2, 64, llm.config.hidden_size, generator=torch.Generator().manual_seed(row)
            )
            units.append(
                UnitInput(
                    row,
                    heard(llm, 100 * row + number),
                    [picture] if draws.random() < 0.3 else [],
                    [ONE, TWO] if draws.random() < 0.3 else (),
                    draws.choice([Floor.FREE, Floor.FREE, Floor.SPEAK, Floor.LISTEN]),
                )
            )
        return units

    @pytest.mark.parametrize(
        ("greedy", "together"), [(True, True), (False, False)], ids=["greedy, masked", "drawn, row by row"]
    )
    def test_eight_conversations_in_any_order_are_each_as_alone(
        self, llm: Qwen3, tokenizer: Tokenizer, greedy: bool, together: bool
    ) -> None:
        window = WindowOptions(WindowMode.BASIC, high_tokens=60, low_tokens=40)

        def new_loop(rows: int, together: bool) -> DuplexLoop:
            sampler = Sampler(SamplingOptions(greedy=greedy), tokenizer.bad_token_ids)
            return DuplexLoop(llm, rows, 500, sampler=sampler, window=window, together=together)

        loop = new_loop(8, together)
        pending = {row: self.conversation(llm, row) for row in range(8)}
        found: dict[int, list[Event]] = {row: [] for row in pending}
        order = random.Random(5)
        for row in pending:
            loop.open(row, replace(PLAIN, prefix=[*PLAIN.prefix, *range(100, 100 + row)]), seed=row)
        while rows := [row for row, units in pending.items() if units]:
            batch = order.sample(rows, order.randint(1, len(rows)))
            for row, events in one_step(loop, *(pending[row].pop(0) for row in batch)).items():
                found[row] += events
        alone = new_loop(1, together=False)
        for row in range(8):
            alone.open(0, replace(PLAIN, prefix=[*PLAIN.prefix, *range(100, 100 + row)]), seed=row)
            events = [event for unit in self.conversation(llm, row) for event in alone.step([replace(unit, row=0)])]
            same(found[row], events)
            alone.close(0)
        assert any(isinstance(event, SaidToken) for events in found.values() for event in events)
        assert any(isinstance(event, TurnCut) for events in found.values() for event in events)

    def test_a_row_leaves_nothing_to_its_next_conversation(self, llm: Qwen3, tokenizer: Tokenizer) -> None:
        loop = DuplexLoop(llm, 1, 500, sampler=Sampler(SamplingOptions(), tokenizer.bad_token_ids))
        results = []
        for _ in range(2):
            loop.open(0, PLAIN, seed=3)
            results.append([event for unit in self.conversation(llm, 0) for event in loop.step([unit])])
            loop.close(0)
        same(*results)

    def test_a_unit_that_does_not_fit_ends_its_row_only(self, llm: Qwen3) -> None:
        loop = DuplexLoop(llm, 2, 90, sampler=Sampler(SamplingOptions(greedy=True), ()))
        loop.open(0, PLAIN, seed=0)
        loop.open(1, PLAIN, seed=0)
        done = one_step(loop, UnitInput(0, heard(llm, 0), text=[ONE] * 70), UnitInput(1, heard(llm, 1)))
        assert done[0] == [RowFull(0)]
        assert end_of(done[1]).turn in (0, 1)

    def test_a_head_that_leaves_no_room_is_refused(self, llm: Qwen3) -> None:
        loop = DuplexLoop(llm, 1, 40)
        with pytest.raises(ContextFull):
            loop.open(0, Head([ONE] * 30, [SPECIAL.im_end]), seed=0)
        loop.open(0, PLAIN, seed=0)


class TestEndsOfTurns:
    """What is said is scripted, so that every case is sure to come."""

    SPEAKS = (SPECIAL.speak, ONE, TWO, SPECIAL.chunk_eos)

    @pytest.fixture
    def loop(self, llm: Qwen3, tokenizer: Tokenizer) -> DuplexLoop:
        sampler = Sampler(SamplingOptions(greedy=True), tokenizer.bad_token_ids)
        loop = DuplexLoop(llm, 2, 400, sampler=sampler)
        loop.open(0, PLAIN, seed=1)
        loop.open(1, PLAIN, seed=1)
        return loop

    def both(self, loop: DuplexLoop, llm: Qwen3, seed: int, **differing: tuple[object, object]) -> list[list[Event]]:
        inputs = [
            UnitInput(row, heard(llm, seed), **{name: pair[row] for name, pair in differing.items()})  # type: ignore[arg-type]
            for row in (0, 1)
        ]
        done = one_step(loop, *inputs)
        return [done[0], done[1]]

    def test_cancelled_before_anything_was_heard_is_never_spoken(self, loop: DuplexLoop, llm: Qwen3) -> None:
        self.both(loop, llm, 0, script=((SPECIAL.listen,), (SPECIAL.listen,)))
        said, listened = self.both(loop, llm, 1, script=(self.SPEAKS, (SPECIAL.listen,)))
        assert end_of(said).spoken and end_of(listened).listening
        loop.cancel(0, end_of(said).turn, 0)
        first, second = self.both(loop, llm, 2)
        assert first[0] == TurnCut(0, end_of(said).turn)
        assert end_of(first).listening == end_of(second).listening and end_of(first).spoken == end_of(second).spoken
        torch.testing.assert_close(end_of(first).hidden, end_of(second).hidden, atol=1e-5, rtol=1e-5)
        loop.settle([0, 1])
        assert loop.cache.lengths[0] == loop.cache.lengths[1]
        n = loop.cache.lengths[0]
        for layer in loop.cache.layers:
            torch.testing.assert_close(layer.keys[0, :, :n], layer.keys[1, :, :n], atol=1e-5, rtol=1e-5)

    def test_a_turn_that_ended_by_itself_can_be_taken_back_too(self, loop: DuplexLoop, llm: Qwen3) -> None:
        ended = (SPECIAL.speak, ONE, SPECIAL.turn_eos)
        said, _ = self.both(loop, llm, 1, script=(ended, (SPECIAL.listen,)))
        assert end_of(said).end_of_turn
        loop.cancel(0, 1, 0)
        self.both(loop, llm, 2, script=((SPECIAL.listen,), (SPECIAL.listen,)))
        assert loop.cache.lengths[0] == loop.cache.lengths[1]

    def test_cancelled_when_something_was_heard_ends_as_if_the_turn_had_ended_there(
        self, loop: DuplexLoop, llm: Qwen3
    ) -> None:
        ended = (SPECIAL.speak, ONE, TWO, SPECIAL.turn_eos)
        self.both(loop, llm, 1, script=(self.SPEAKS, ended))
        loop.sounded(0, 24_000)
        loop.cancel(0, 1, 100)
        cut, _ = self.both(loop, llm, 2)
        assert cut[0] == TurnCut(0, 1)
        loop.settle([0, 1])
        n = loop.cache.lengths[0]
        assert n == loop.cache.lengths[1]
        torch.testing.assert_close(
            loop.cache.layers[-1].keys[0, :, :n], loop.cache.layers[-1].keys[1, :, :n], atol=1e-5, rtol=1e-5
        )

    def test_cancel_is_seen_between_decode_steps(self, loop: DuplexLoop, llm: Qwen3) -> None:
        events: list[Event] = []
        for event in loop.step(
            [UnitInput(0, heard(llm, 1), script=(SPECIAL.speak, ONE, TWO, THREE, SPECIAL.chunk_eos))]
        ):
            events.append(event)
            if event == SaidToken(0, 1, ONE):
                loop.cancel(0, 1, 0)
        assert events[:2] == [SaidToken(0, 1, ONE), TurnCut(0, 1)]
        assert end_of(events).listening and len(events) == 3
        assert end_of(one_step(loop, UnitInput(0, heard(llm, 2), floor=Floor.SPEAK))[0]).turn == 2

    def test_a_turn_that_has_not_begun_can_be_cancelled(self, loop: DuplexLoop, llm: Qwen3) -> None:
        loop.cancel(0, 7, 0)
        assert end_of(one_step(loop, UnitInput(0, heard(llm, 1), floor=Floor.SPEAK))[0]).turn == 8

    def test_without_the_floor_the_turn_ends_and_the_row_listens(self, loop: DuplexLoop, llm: Qwen3) -> None:
        one_step(loop, UnitInput(0, heard(llm, 1), script=self.SPEAKS))
        events = one_step(loop, UnitInput(0, heard(llm, 2), floor=Floor.LISTEN))[0]
        assert events[0] == TurnCut(0, 1)
        assert end_of(events).listening and len(events) == 2
        assert end_of(one_step(loop, UnitInput(0, heard(llm, 3), floor=Floor.SPEAK))[0]).turn == 2

    @pytest.mark.parametrize("seed", range(6))
    def test_asked_to_speak_something_is_said(self, loop: DuplexLoop, llm: Qwen3, seed: int) -> None:
        end = end_of(one_step(loop, UnitInput(0, heard(llm, seed), floor=Floor.SPEAK))[0])
        assert set(end.spoken) - {SPECIAL.speak, SPECIAL.tts_bos}


class TestHead:
    def test_units_stay_when_the_head_is_exchanged(self, llm: Qwen3, tokenizer: Tokenizer) -> None:
        """As if the units had stood there from the beginning, but for what they saw of the old head."""
        loop = DuplexLoop(llm, 2, 400, sampler=Sampler(SamplingOptions(greedy=True), tokenizer.bad_token_ids))
        longer = Head([*PLAIN.prefix, ONE, TWO, THREE], [SPECIAL.im_end])
        loop.open(0, PLAIN, seed=1)
        loop.open(1, longer, seed=1)
        for number in range(2):
            one_step(loop, *(UnitInput(row, heard(llm, number), script=[SPECIAL.listen]) for row in (0, 1)))
        loop.replace_head(0, longer)
        loop.settle([0, 1])
        n = loop.cache.lengths[0]
        assert n == loop.cache.lengths[1]
        # Keys of the first layer depend on nothing but their own token and position.
        torch.testing.assert_close(
            loop.cache.layers[0].keys[0, :, :n], loop.cache.layers[0].keys[1, :, :n], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            loop.cache.layers[-1].keys[0, :, : n - 26], loop.cache.layers[-1].keys[1, :, : n - 26], atol=1e-4, rtol=1e-4
        )

    def test_a_turn_cut_after_that_is_taken_back_from_where_it_stands_now(self, llm: Qwen3) -> None:
        loop = DuplexLoop(llm, 1, 400, sampler=Sampler(SamplingOptions(greedy=True), ()))
        loop.open(0, PLAIN, seed=1)
        one_step(loop, UnitInput(0, heard(llm, 0), script=TestEndsOfTurns.SPEAKS))
        loop.replace_head(0, Head([*PLAIN.prefix, ONE, TWO, THREE], [SPECIAL.im_end]))
        loop.cancel(0, 1, 0)
        one_step(loop, UnitInput(0, heard(llm, 1), script=[SPECIAL.listen]))
        loop.settle([0])
        assert loop.cache.lengths[0] == 3 + 3 + 1 + 2 * 13


class TestDifferencesFromTheOfficialCode:
    """Specification §9.2, what concerns the loop: each shown both ways."""

    @pytest.fixture(params=[True, False], ids=["official", "ours"])
    def loop(self, request: pytest.FixtureRequest, llm: Qwen3, tokenizer: Tokenizer) -> DuplexLoop:
        official: bool = request.param
        sampler = Sampler(SamplingOptions(greedy=True), tokenizer.bad_token_ids, official=official)
        loop = DuplexLoop(llm, 1, 400, sampler=sampler, official=official)
        loop.open(0, PLAIN, seed=1)
        return loop

    def official(self, loop: DuplexLoop) -> bool:
        return loop._official

    def scripted(self, loop: DuplexLoop, llm: Qwen3, *script: int) -> UnitEnd:
        return end_of(one_step(loop, UnitInput(0, heard(llm, 1), script=script))[0])

    def test_nothing_follows_the_end_of_a_turn_in_its_unit(self, loop: DuplexLoop, llm: Qwen3) -> None:
        end = self.scripted(loop, llm, SPECIAL.speak, ONE, SPECIAL.turn_eos, SPECIAL.listen)
        if self.official(loop):
            assert end.listening and not end.spoken and not end.end_of_turn  # what was said is lost
        else:
            assert end.spoken == (ONE, SPECIAL.turn_eos) and end.end_of_turn

    def test_a_first_token_that_is_a_word_is_said(self, loop: DuplexLoop, llm: Qwen3) -> None:
        end = self.scripted(loop, llm, ONE, TWO, SPECIAL.chunk_eos)
        assert end.spoken == ((TWO,) if self.official(loop) else (ONE, TWO))

    def test_twenty_tokens_are_chosen_in_a_unit(self, loop: DuplexLoop, llm: Qwen3) -> None:
        end = self.scripted(loop, llm, SPECIAL.speak, *range(1000, 1030))
        assert len(end.spoken) == (18 if self.official(loop) else 19)

    def test_what_is_typed_is_seen_by_the_first_decision(
        self, loop: DuplexLoop, llm: Qwen3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        states: list[Tensor] = []
        logits = llm.logits

        def watched(hidden: Tensor) -> Tensor:
            states.append(hidden[0])
            return logits(hidden)

        monkeypatch.setattr(llm, "logits", watched)
        firsts = []
        for text in ([], [ONE, TWO, THREE]):
            states.clear()
            list(loop.step([UnitInput(0, heard(llm, 1), text=text)]))
            firsts.append(states[0])
            loop.close(0)
            loop.open(0, PLAIN, seed=1)
        assert torch.allclose(firsts[0], firsts[1], atol=1e-5) == self.official(loop)
