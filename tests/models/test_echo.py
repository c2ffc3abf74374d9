"""Tests of the echo model, and by it of the checks that every model must pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest

from duplex_server.models.base import Model, RowOutput, RowUnit
from duplex_server.models.echo import EchoModel, build
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Floor, ModelOutput, ModelSpec, Pcm, SessionSetup, Unit
from tests.helpers.model_conformance import ModelConformance, Spoken, converse, silent_units, sound, units_of


def utterance(duration_s: float = 1.2, pitch_hz: float = 200) -> Pcm:
    """Return something that swells and fades like syllables."""
    times_s = np.arange(round(duration_s * INPUT_RATE_HZ)) / INPUT_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * times_s) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times_s))).astype(
        np.float32
    )


class TestEchoConforms(ModelConformance):
    def open_model(self, rows: int) -> AbstractContextManager[Model]:
        return contextlib.nullcontext(build(rows))

    def question(self, spec: ModelSpec) -> Pcm:
        return utterance()

    def other_question(self, spec: ModelSpec) -> Pcm:
        return np.concatenate([np.zeros(INPUT_RATE_HZ // 2, np.float32), utterance(2.0, 310)])


@pytest.fixture
def model() -> EchoModel:
    opened = build(1)
    opened.open(0, SessionSetup())
    return opened


def say(model: EchoModel, pcm: Pcm, then_s: float = 3.0) -> list[Spoken]:
    return converse(model, {0: units_of(model.spec, pcm) + silent_units(model.spec, then_s)})[0]


def text_of(outputs: Sequence[Spoken]) -> str:
    return "".join(said.output.text for said in outputs)


def pitch_hz(pcm: Pcm) -> float:
    return float(np.abs(np.fft.rfft(pcm)).argmax() * OUTPUT_RATE_HZ / len(pcm))


def test_what_was_said_comes_back_at_24_khz_with_its_pitch_and_length(model: EchoModel) -> None:
    echo = sound(say(model, utterance(1.2, 200)))
    assert pitch_hz(echo) == pytest.approx(200, abs=2)
    assert len(echo) / OUTPUT_RATE_HZ == pytest.approx(1.2, abs=0.1)


def test_the_echo_begins_half_a_second_after_the_user_stopped(model: EchoModel) -> None:
    outputs = say(model, utterance(1.0))
    first = next(said.step for said in outputs if len(said.output.audio))
    assert first * model.spec.unit_ms / 1000 == pytest.approx(1.0 + 0.5, abs=0.1)


def test_the_beginning_of_a_word_that_the_detector_missed_is_kept(model: EchoModel) -> None:
    units = units_of(model.spec, utterance(1.0))
    late = [replace(unit, speech_probability=0.1) if unit.index < 3 else unit for unit in units]
    echo = sound(converse(model, {0: silent_units(model.spec, 1.0) + late + silent_units(model.spec, 3.0)})[0])
    loud = np.flatnonzero(np.abs(echo) > 0.05)
    assert (loud[-1] - loud[0]) / OUTPUT_RATE_HZ > 0.95


def test_a_pause_within_a_sentence_does_not_end_it(model: EchoModel) -> None:
    pause = np.zeros(INPUT_RATE_HZ * 3 // 10, np.float32)
    outputs = say(model, np.concatenate([utterance(0.6), pause, utterance(0.6)]))
    assert {said.output.turn for said in outputs} == {0, 1}
    assert len(sound(outputs)) / OUTPUT_RATE_HZ == pytest.approx(1.5, abs=0.1)


def test_what_is_said_over_an_echo_is_echoed_next(model: EchoModel) -> None:
    script = units_of(model.spec, utterance(1.5, 200)) + silent_units(model.spec, 0.7)
    script += units_of(model.spec, utterance(0.8, 300)) + silent_units(model.spec, 4.0)
    outputs = converse(model, {0: script})[0]
    assert pitch_hz(sound(outputs, 1)) == pytest.approx(200, abs=2)
    assert pitch_hz(sound(outputs, 2)) == pytest.approx(300, abs=3)


def test_a_cut_echo_is_not_resumed_and_the_interruption_is_echoed(model: EchoModel) -> None:
    script = units_of(model.spec, utterance(2.0, 200)) + silent_units(model.spec, 1.0)
    cut = len(script)
    script += units_of(model.spec, utterance(0.8, 300)) + silent_units(model.spec, 3.0)

    def cancel(step: int) -> None:
        if step == cut:
            model.cancel(0, 1, 12_000)

    outputs = converse(model, {0: script}, before=cancel)[0]
    assert len(sound(outputs, 1)) / OUTPUT_RATE_HZ < 1.0
    assert pitch_hz(sound(outputs, 2)) == pytest.approx(300, abs=3)


def test_a_click_is_not_speech(model: EchoModel) -> None:
    units = [replace(unit, speech_probability=0.3) for unit in units_of(model.spec, utterance(0.1))]
    assert len(sound(converse(model, {0: units + silent_units(model.spec, 2.0)})[0])) == 0


def test_a_typed_message_comes_back_as_text_with_a_tone(model: EchoModel) -> None:
    script = silent_units(model.spec, 2.0)
    script[3] = replace(script[3], texts=("Hello", "你好"))
    outputs = converse(model, {0: script})[0]
    assert [said.output.text for said in outputs if said.output.text] == ["Hello", "你好"]
    assert {said.output.turn for said in outputs} == {0, 1, 2}
    assert 0.05 < float(np.abs(sound(outputs, 2)).max()) < 0.5


def test_asked_to_speak_while_the_user_speaks_it_repeats_what_there_is(model: EchoModel) -> None:
    script = units_of(model.spec, utterance(1.0, 200))
    script[-1] = replace(script[-1], floor=Floor.SPEAK)
    outputs = converse(model, {0: script + silent_units(model.spec, 2.0)})[0]
    assert pitch_hz(sound(outputs, 1)) == pytest.approx(200, abs=2)
    first = next(said.step for said in outputs if len(said.output.audio))
    assert first == len(script) - 1


def test_what_was_said_without_the_floor_is_echoed_when_it_is_free_again(model: EchoModel) -> None:
    script = [replace(unit, floor=Floor.LISTEN) for unit in units_of(model.spec, utterance()) + _silence(model, 2.0)]
    outputs = converse(model, {0: script + _silence(model, 2.0)})[0]
    assert next(said.step for said in outputs if len(said.output.audio)) == len(script)


def test_an_endless_monologue_keeps_its_last_minute(model: EchoModel) -> None:
    outputs = say(model, np.tile(utterance(1.0), 75), then_s=1.0)
    assert "(59." in text_of(outputs) or "(60." in text_of(outputs)


def _silence(model: EchoModel, duration_s: float) -> list[Unit]:
    return silent_units(model.spec, duration_s)


class _Wrong:
    """An echo with one fault, to see that the checks find it."""

    def __init__(self, rows: int, fault: str) -> None:
        self._echo = build(rows)
        self.spec = self._echo.spec
        self._fault = fault
        self._steps = 0

    def open(self, row: int, setup: SessionSetup) -> None:
        if self._fault != "keeps the row's past" or not self._steps:
            self._echo.open(row, setup)

    def configure(self, row: int, setup: SessionSetup) -> None:
        self._echo.configure(row, setup)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        if self._fault != "ignores cancel":
            self._echo.cancel(row, turn, played_samples)

    def close(self, row: int) -> None:
        if self._fault != "keeps the row's past":
            self._echo.close(row)

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        self._steps += 1
        if self._fault == "ignores the floor":
            batch = [RowUnit(given.row, replace(given.unit, floor=Floor.FREE)) for given in batch]
        if self._fault == "mixes rows" and len(batch) > 1:
            batch = [RowUnit(given.row, batch[0].unit) for given in batch]
        for said in self._echo.step(batch):
            yield RowOutput(said.row, self._spoil(said.output))

    def _spoil(self, output: ModelOutput) -> ModelOutput:
        match self._fault:
            case "wrong dtype":
                return replace(output, audio=output.audio.astype(np.float64))
            case "too loud":
                return replace(output, audio=output.audio * 10)
            case "numbers turns from two":
                return replace(output, turn=output.turn + 1 if output.turn else 0)
            case "speaks in no turn":
                return replace(output, turn=0)
            case "runs ahead":
                return replace(output, audio=np.repeat(output.audio, 40))
            case "goes on after the end":
                return replace(output, end_of_turn=bool(output.turn))
            case "listens aloud":
                return replace(output, listening=True)
        return output


class _WrongConforms(ModelConformance):
    def __init__(self, fault: str) -> None:
        self._fault = fault

    def open_model(self, rows: int) -> AbstractContextManager[Model]:
        return contextlib.nullcontext(_Wrong(rows, self._fault))

    def question(self, spec: ModelSpec) -> Pcm:
        return utterance()

    def failures(self) -> set[str]:
        failed = set()
        for name in (name for name in dir(self) if name.startswith("test_")):
            try:
                getattr(self, name)()
            except AssertionError:
                failed.add(name)
        return failed


@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        ("ignores cancel", "test_a_cancelled_turn_says_nothing_more_and_the_next_has_a_higher_number"),
        ("ignores cancel", "test_cancelling_within_a_step_holds_from_the_next_step_on"),
        ("ignores the floor", "test_without_the_floor_nothing_is_said"),
        ("ignores the floor", "test_a_turn_falls_silent_when_the_floor_is_taken"),
        ("ignores the floor", "test_asked_to_speak_it_says_something"),
        ("mixes rows", "test_rows_together_say_what_each_says_alone"),
        ("keeps the row's past", "test_a_closed_row_leaves_nothing_to_the_next_conversation"),
        ("wrong dtype", "test_silence_is_listened_to"),
        ("too loud", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
        ("numbers turns from two", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
        ("speaks in no turn", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
        ("runs ahead", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
        ("goes on after the end", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
        ("listens aloud", "test_a_question_is_answered_and_turns_are_numbered_from_one"),
    ],
)
def test_the_checks_find_a_fault(fault: str, found_by: str) -> None:
    assert found_by in _WrongConforms(fault).failures()


def test_the_checks_find_nothing_where_there_is_no_fault() -> None:
    assert _WrongConforms("none").failures() == set()
