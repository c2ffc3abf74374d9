"""The whole model, from sound and pictures to sound and text, keeps the rules of every model."""

from __future__ import annotations

import contextlib
import gc
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from duplex_server.errors import CapacityError, ClientError, DuplexError, MediaError
from duplex_server.models.base import Model, RowFailure, RowUnit
from duplex_server.models.minicpmo.hosting import host
from duplex_server.models.minicpmo.model import MiniCPMO
from duplex_server.types import Floor, ModelSpec, Pcm, SessionSetup, Tokens, Unit, VideoFrame
from tests.helpers.minicpmo_voice import OPTIONS, build_scripted, speaking_checkpoint
from tests.helpers.model_conformance import ModelConformance, Spoken, converse, silent_units, sound, units_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> MiniCPMO:
    hosting = host(checkpoint, ["cpu"], 4, OPTIONS)
    return build_scripted(hosting.rows, **hosting.options[0], greedy=True, seed=1)


def question(seed: int = 0, duration_s: float = 1.0) -> Pcm:
    return np.random.default_rng(seed).normal(0, 0.1, round(16_000 * duration_s)).astype(np.float32)


class TestMiniCPMOConforms(ModelConformance):
    answer_within_s = 4.0

    @pytest.fixture(autouse=True)
    def _use(self, model: MiniCPMO) -> None:
        self.model = model

    def open_model(self, rows: int) -> AbstractContextManager[Model]:
        return contextlib.nullcontext(self.model)

    def question(self, spec: ModelSpec) -> Pcm:
        return question()

    def other_question(self, spec: ModelSpec) -> Pcm:
        return np.concatenate([np.zeros(16_000, np.float32), question(1)])


def exchange(model: Model, seed: int = 0) -> list[Unit]:
    return units_of(model.spec, question(seed)) + silent_units(model.spec, 4.0)


def talk(model: MiniCPMO, script: list[Unit], setup: SessionSetup | None = None, row: int = 0) -> list[Spoken]:
    model.open(row, setup or SessionSetup())
    try:
        return converse(model, {row: script})[row]
    finally:
        model.close(row)


def failures(model: MiniCPMO, row: int, *units: Unit) -> list[RowFailure]:
    found = [said for unit in units for said in model.step([RowUnit(row, unit)])]
    return [said for said in found if isinstance(said, RowFailure)]


def test_words_come_with_the_sound_they_belong_to(model: MiniCPMO) -> None:
    said = [spoken.output for spoken in talk(model, exchange(model)) if spoken.output.turn]
    assert "".join(output.text for output in said) == "one two three four five six"
    assert all(len(output.audio) for output in said if output.text), "no word without sound"
    assert said[-1].end_of_turn and not any(output.end_of_turn for output in said[:-1])
    assert 3.0 <= sum(len(output.audio) for output in said) / 24_000 <= 3.5


def test_what_is_read_and_written_is_counted(model: MiniCPMO) -> None:
    heard = [unit.audio for unit in exchange(model)]
    script = [Unit(n, audio, texts=("what is this",) if n == 0 else ()) for n, audio in enumerate(heard)]
    outputs = [spoken.output for spoken in talk(model, script)]
    counted = sum((output.tokens for output in outputs if output.tokens), Tokens())
    assert counted.audio_in == 10 * len(script)
    assert counted.text_in == len(model._parts.tokenizer.encode("what is this"))
    assert counted.image_in == 0
    n_samples = sum(len(output.audio) for output in outputs)
    assert counted.audio_out == pytest.approx(n_samples * 25 / 24_000, abs=len(script))
    assert counted.text_out > 0


def test_what_is_seen_heard_and_typed_changes_what_is_said(model: MiniCPMO) -> None:
    script = exchange(model)
    frame = VideoFrame(0.0, np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8))
    plain = sound(talk(model, script))
    for changed in (
        replace(script[0], frames=(frame,)),
        replace(script[0], texts=("Hello",)),
        replace(script[0], audio=question(5)),
    ):
        other = sound(talk(model, [changed, *script[1:]]))
        assert other.shape != plain.shape or np.abs(other - plain).max() > 1e-3


def test_instructions_and_voices_change_what_is_said(model: MiniCPMO) -> None:
    script = exchange(model)
    plain = sound(talk(model, script))
    instructed = sound(talk(model, script, SessionSetup(instructions="You are a pirate.")))
    assert instructed.shape != plain.shape or np.abs(instructed - plain).max() > 1e-3


def test_instructions_may_change_during_a_conversation(model: MiniCPMO) -> None:
    model.open(0, SessionSetup())
    first = converse(model, {0: exchange(model)})[0]
    model.configure(0, SessionSetup(instructions="You are a pirate."))
    second = converse(model, {0: exchange(model)})[0]
    model.close(0)
    assert len(sound(first)) and len(sound(second))
    assert {spoken.output.turn for spoken in second} == {0, 2}


class TestRefusals:
    def test_instructions_that_are_too_long(self, model: MiniCPMO) -> None:
        with pytest.raises(ClientError, match="of at most 2048") as refused:
            model.open(0, SessionSetup(instructions="one two three " * 2000))
        assert refused.value.param == "session.instructions"
        assert talk(model, exchange(model))  # the row is free

    @pytest.mark.parametrize("reference", [np.zeros(48_000, np.float32), question(duration_s=0.2)])
    def test_a_recording_that_is_no_voice(self, model: MiniCPMO, reference: Pcm) -> None:
        with pytest.raises(MediaError):
            model.open(0, SessionSetup(voice_reference=reference))

    def test_a_recording_where_nothing_can_look_at_it(self, model: MiniCPMO) -> None:
        """The peer is not told which files the server lacks."""
        with pytest.raises(ClientError, match=r"^This server cannot take up that voice\.$"):
            model.open(0, SessionSetup(voice_reference=question(duration_s=3.0)))
        assert talk(model, exchange(model))

    def test_text_without_end(self, model: MiniCPMO) -> None:
        """The text is left out, what was typed before it is read, and the conversation goes on."""
        script = exchange(model)
        script[0] = replace(script[0], texts=("Hello",))
        plain = sound(talk(model, script))
        script[0] = replace(script[0], texts=("Hello", "one two three " * 9000))
        outputs = talk(model, script)
        (refusal,) = (spoken.output.refusal for spoken in outputs if spoken.output.refusal)
        assert (refusal.param, refusal.revision) == ("item.content", None)
        np.testing.assert_allclose(sound(outputs), plain, atol=1e-4)

    @pytest.mark.parametrize(
        ("setup", "param"),
        [
            (SessionSetup(instructions="one two three " * 2000), "session.instructions"),
            (SessionSetup(voice_reference=np.zeros(48_000, np.float32)), "session.ref_audio"),
            (SessionSetup(voice_reference=question(duration_s=3.0)), "session.audio.output.voice"),
        ],
    )
    def test_a_set_up_in_the_middle_of_a_conversation(self, model: MiniCPMO, setup: SessionSetup, param: str) -> None:
        def talked(change: SessionSetup | None) -> list[Spoken]:
            model.open(0, SessionSetup(instructions="You are a pirate."))
            before = converse(model, {0: exchange(model)})[0]
            if change is not None:
                model.configure(0, change)
            after = converse(model, {0: exchange(model)})[0]
            model.close(0)
            return before + after

        outputs = talked(replace(setup, revision=5))
        (refusal,) = (spoken.output.refusal for spoken in outputs if spoken.output.refusal)
        assert (refusal.param, refusal.revision) == (param, 5)
        np.testing.assert_allclose(sound(outputs), sound(talked(None)), atol=1e-4)

    def test_no_memory_for_another_conversation(self, model: MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise torch.OutOfMemoryError

        monkeypatch.setattr(model._loop, "open", full)
        with pytest.raises(CapacityError):
            model.open(0, SessionSetup())

    def test_no_memory_for_one_that_wants_to_speak(self, model: MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> None:
        """It ends, and the other goes on."""
        speaking = model._speaking
        assert speaking is not None
        reserve = speaking.reserve

        def full(row: int) -> None:
            if row == 0:
                raise CapacityError(5)
            reserve(row)

        monkeypatch.setattr(speaking, "reserve", full)
        self.one_fails_of_two(model, CapacityError)

    @pytest.mark.parametrize("stage", ["_perceived", "_take_in"])
    def test_no_memory_for_a_unit(self, model: MiniCPMO, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
        owner = model if stage == "_perceived" else model._loop
        compute = getattr(owner, stage)

        def full(batch: list[RowUnit], *rest: object) -> object:
            if len(batch) > 1:
                raise torch.OutOfMemoryError
            return compute(batch, *rest)

        monkeypatch.setattr(owner, stage, full)
        self.one_fails_of_two(model, CapacityError)

    @pytest.mark.parametrize("stage", ["speech codes", "sound"])
    def test_no_memory_to_speak_together(self, model: MiniCPMO, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
        """It runs out when most of the work is done."""
        assert model._speaking is not None
        owner = model._speaking._decoder if stage == "speech codes" else model._speaking._token2wav
        name = "_decoded" if stage == "speech codes" else "_pushed"
        compute = getattr(owner, name)

        def full(rows: list[int], *rest: object) -> object:
            made = compute(rows, *rest)
            if len(rows) > 1:
                raise torch.OutOfMemoryError
            return made

        monkeypatch.setattr(owner, name, full)
        self.one_fails_of_two(model, CapacityError)

    def one_fails_of_two(self, model: MiniCPMO, expected: type[DuplexError]) -> None:
        alone = talk(model, exchange(model), row=1)
        model.open(0, SessionSetup(instructions="This makes it the longer one."))
        model.open(1, SessionSetup())
        failed: list[DuplexError] = []
        outputs = []
        for step, unit in enumerate(exchange(model)):
            for said in model.step([RowUnit(row, replace(unit, index=step)) for row in (0, 1)]):
                if isinstance(said, RowFailure):
                    assert said.row == 0
                    failed.append(said.error)
                elif said.row == 1:
                    outputs.append(Spoken(step, said.output))
        model.close(0)
        model.close(1)
        assert [type(error) for error in failed] == [expected]
        np.testing.assert_allclose(sound(outputs), sound(alone), atol=1e-4)


def test_a_full_context_ends_its_conversation(checkpoint: Path) -> None:
    hosting = host(checkpoint, ["cpu"], 2, {**OPTIONS, "window": "off", "window_tokens": 500})
    model = build_scripted(hosting.rows, **hosting.options[0], seed=1)
    model.open(0, SessionSetup())
    count = "one two "
    typed = count * (5000 // len(model._parts.tokenizer.encode(count)))
    units = [replace(silent_units(model.spec, 1.0)[0], texts=(typed,)), *silent_units(model.spec, 1.0) * 40]
    (failure,) = failures(model, 0, *units)
    assert "longer than the model can remember" in str(failure.error)
    assert list(model.step([RowUnit(0, units[0])])) == []
    model.close(0)


def test_it_goes_on_beyond_its_window(model: MiniCPMO) -> None:
    outputs = talk(model, exchange(model) * 9)
    turns = {spoken.output.turn for spoken in outputs} - {0}
    assert turns == set(range(1, 10))


def test_without_a_voice_it_answers_in_text(tiny_checkpoint: Path) -> None:
    hosting = host(tiny_checkpoint, ["cpu"], 1, OPTIONS)
    model = build_scripted(hosting.rows, **hosting.options[0])
    outputs = talk(model, exchange(model))
    assert "".join(spoken.output.text for spoken in outputs) == "one two three four five six"
    assert not len(sound(outputs))
    assert outputs[-1].output.turn == 0 and any(spoken.output.end_of_turn for spoken in outputs)


def test_memory_is_flat(model: MiniCPMO) -> None:
    """All tensors, after the window began to slide and the encoder's memory began anew, and again later."""
    model.open(0, SessionSetup())
    script = exchange(model) * 9
    converse(model, {0: script})
    before = tensor_bytes()
    converse(model, {0: script})
    assert tensor_bytes() <= before + 100_000
    assert len(model._loop._open[0].row.history) <= 512
    model.close(0)


def tensor_bytes() -> int:
    gc.collect()
    stored = {}
    for thing in gc.get_objects():
        # Neither isinstance, which asks the object, and some warn; nor the compiler's tensors, which hold nothing.
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            stored[storage.data_ptr()] = storage.nbytes()
    return sum(stored.values())


def test_official_behaviour_is_an_option(checkpoint: Path) -> None:
    hosting = host(checkpoint, ["cpu"], 1, OPTIONS)
    model = build_scripted(hosting.rows, **hosting.options[0], greedy=True, official=True)
    assert len(sound(talk(model, exchange(model)))) > 24_000


def test_stages_are_measured(model: MiniCPMO) -> None:
    seen: list[str] = []
    model._watch.observe = lambda stage, _: seen.append(stage)
    try:
        talk(model, exchange(model)[:2])
    finally:
        model._watch.observe = None
    taken = ["see", "hear", "prefill", "decode"]
    assert seen == [*taken, *taken, "speech codes", "sound"]


def test_each_unit_says_what_it_cost_and_the_window_what_it_dropped(model: MiniCPMO) -> None:
    outputs = talk(model, exchange(model) * 9)
    n_units = outputs[-1].step + 1
    costs = {spoken.step: spoken.output.cost for spoken in outputs if spoken.output.cost}
    assert len(costs) == n_units, "once per unit"
    assert all(cost.prefill_ms > 0 and cost.decode_ms >= 0 for cost in costs.values())
    spoke = {spoken.step for spoken in outputs if len(spoken.output.audio)}
    assert all((cost.n_tokens > 0) == (cost.voice_ms > 0) == (step in spoke) for step, cost in costs.items())
    lengths = [costs[step].context_tokens for step in range(n_units)]
    assert max(lengths) <= model.spec.context_tokens_max
    compactions = {spoken.step: spoken.output.compaction for spoken in outputs if spoken.output.compaction}
    assert compactions, "the conversation outgrows its window"
    shrunk = {step for step in range(1, n_units) if lengths[step] < lengths[step - 1]}
    assert set(compactions) >= shrunk
    for step, compaction in compactions.items():
        assert compaction.tokens_before == lengths[step - 1]
        assert compaction.tokens_after < compaction.tokens_before
        assert lengths[step] > compaction.tokens_after, "the unit came after"


def test_asked_to_listen_in_the_middle_it_stops_at_once(model: MiniCPMO) -> None:
    script = exchange(model)
    script[2] = replace(script[2], floor=Floor.LISTEN)
    outputs = talk(model, script)
    ended = [spoken for spoken in outputs if spoken.output.end_of_turn]
    assert [spoken.step for spoken in ended] == [2] and not len(ended[0].output.audio)
