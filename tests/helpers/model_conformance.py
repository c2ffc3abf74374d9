"""What every model must keep to, as tests: subclass :class:`ModelConformance` and say how to build yours.

    class TestMyModel(ModelConformance):
        def open_model(self, rows: int) -> AbstractContextManager[Model]:
            return contextlib.nullcontext(build(rows))

        def question(self, spec: ModelSpec) -> Pcm:
            return recording_of_a_question

Knows nothing about engines: units go in and outputs come out on the test's thread.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from duplex_server.models.base import Model, RowOutput, RowUnit
from duplex_server.types import (
    INPUT_RATE_HZ,
    OUTPUT_RATE_HZ,
    Floor,
    ModelOutput,
    ModelSpec,
    Pcm,
    SessionSetup,
    Unit,
)

__all__ = ["ModelConformance", "Spoken", "converse", "silent_units", "sound", "units_of"]

_AHEAD_S = 1.0
"""Sound of a turn may run this far ahead of the units given since it began. Source: ``Model.step``."""
_SPEAK_WITHIN_S = 3.0
"""A session that asked for speech waits this long."""
_VOICED = 0.01
"""RMS above which a unit of the question counts as speech."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """An output, and the step it came from."""

    step: int
    output: ModelOutput


def units_of(spec: ModelSpec, pcm: Pcm, first_index: int = 0) -> list[Unit]:
    """Cut 16 kHz audio into units, the last one filled up with silence; loud ones are probably speech."""
    n_units = -(-len(pcm) // spec.unit_samples)
    padded = np.zeros(n_units * spec.unit_samples, np.float32)
    padded[: len(pcm)] = pcm
    units = []
    for number, audio in enumerate(padded.reshape(n_units, spec.unit_samples)):
        audio.flags.writeable = False  # a model must not write into what it is given
        probability = 0.95 if float(np.sqrt(np.mean(audio**2))) > _VOICED else 0.02
        units.append(Unit(first_index + number, audio, probability))
    return units


def silent_units(spec: ModelSpec, duration_s: float, floor: Floor = Floor.FREE) -> list[Unit]:
    """Return units in which nobody says anything."""
    silence = np.zeros(round(duration_s * INPUT_RATE_HZ), np.float32)
    return [replace(unit, floor=floor) for unit in units_of(spec, silence)]


def converse(
    model: Model, scripts: Mapping[int, Sequence[Unit]], *, before: Callable[[int], None] = lambda step: None
) -> dict[int, list[Spoken]]:
    """Give each open row its units, all rows in one batch, one unit a step; units are numbered anew from 0.

    Args:
        model: with the rows open.
        scripts: units by row; where a script has ended the row stays out of the batch.
        before: called before each step with its number.

    Returns:
        The outputs of each row, checked for what one output alone can break.
    """
    spoken: dict[int, list[Spoken]] = {row: [] for row in scripts}
    kept: list[tuple[Pcm, Pcm]] = []
    for step in range(max(map(len, scripts.values()), default=0)):
        before(step)
        batch = [RowUnit(row, replace(units[step], index=step)) for row, units in scripts.items() if step < len(units)]
        rows = {row_unit.row for row_unit in batch}
        for row_output in model.step(batch):
            assert isinstance(row_output, RowOutput), row_output
            assert row_output.row in rows, f"step {step} gave output for row {row_output.row}, which was not in it"
            _check_output(row_output.output)
            spoken[row_output.row].append(Spoken(step, row_output.output))
            kept.append((row_output.output.audio, row_output.output.audio.copy()))
    for audio, copied in kept:
        assert np.array_equal(audio, copied), "the model wrote into audio that it had handed over"
    for outputs in spoken.values():
        _check_turns(outputs)
        _check_pace(outputs, model.spec)
    return spoken


def sound(outputs: Sequence[Spoken], turn: int | None = None) -> Pcm:
    """Return all audio of a row, or of one of its turns."""
    parts = [said.output.audio for said in outputs if turn is None or said.output.turn == turn]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _check_output(output: ModelOutput) -> None:
    audio = output.audio
    assert isinstance(audio, np.ndarray), f"audio is a {type(audio).__name__}"
    assert audio.dtype == np.float32 and audio.ndim == 1, f"audio is {audio.dtype} {audio.shape}"
    assert np.isfinite(audio).all(), "audio holds something that is no number"
    assert not len(audio) or float(np.abs(audio).max()) <= 1.0, "audio goes beyond −1..1"
    says = len(audio) > 0 or output.text != ""
    assert not (output.listening and says), "the model listens and speaks in one output"
    assert output.turn >= 0, f"turn {output.turn}"
    assert output.turn > 0 or not (says or output.end_of_turn), "something is said, but in no turn"


def _check_turns(outputs: Sequence[Spoken]) -> None:
    current, ended = 0, True
    for said in outputs:
        turn = said.output.turn
        if turn == 0:
            continue
        assert turn >= current, f"step {said.step} speaks of turn {turn} after turn {current}"
        assert turn > current or not ended, f"step {said.step} goes on with turn {turn}, which has ended"
        current, ended = turn, said.output.end_of_turn


def _check_pace(outputs: Sequence[Spoken], spec: ModelSpec) -> None:
    began: dict[int, int] = {}
    said_samples: dict[int, int] = {}
    for said in outputs:
        turn = said.output.turn
        first = began.setdefault(turn, said.step)
        said_samples[turn] = said_samples.get(turn, 0) + len(said.output.audio)
        given_s = (said.step - first + 1) * spec.unit_ms / 1000
        ahead_s = said_samples[turn] / spec.output_rate_hz - given_s
        assert ahead_s <= _AHEAD_S, f"turn {turn} is {ahead_s:.2f} s ahead at step {said.step}"


class ModelConformance(abc.ABC):
    """Tests that hold for every model. Subclass it in a test file, with a name that starts with ``Test``."""

    setup = SessionSetup()
    """What rows are opened with."""
    answer_within_s = 5.0
    """Silence given after the question; the answer must begin in it, and last at least ``answer_s``."""
    answer_s = 0.5
    """Shortest sound of an answer; tests that cut an answer do so after half of it."""

    @abc.abstractmethod
    def open_model(self, rows: int) -> AbstractContextManager[Model]:
        """Give a model with at least that many rows, all closed; may be one that was used before."""

    @abc.abstractmethod
    def question(self, spec: ModelSpec) -> Pcm:
        """Return what the user says so that the model answers: float32, 16 kHz."""

    def other_question(self, spec: ModelSpec) -> Pcm:
        """Return another one, for a row beside; by default the same, a second and a half later."""
        return np.concatenate([np.zeros(INPUT_RATE_HZ * 3 // 2, np.float32), self.question(spec)])

    def assert_same(self, one: Sequence[Spoken], other: Sequence[Spoken], spec: ModelSpec) -> None:
        """Fail unless two conversations are the same; override where a model is not deterministic."""
        assert [(said.step, said.output.turn, said.output.text, said.output.end_of_turn) for said in one] == [
            (said.step, said.output.turn, said.output.text, said.output.end_of_turn) for said in other
        ]
        np.testing.assert_allclose(sound(one), sound(other), atol=1e-4)

    # -- what a turn is -----------------------------------------------------------------------------------------------

    def test_spec_is_one_that_a_session_can_serve(self) -> None:
        with self.open_model(1) as model:
            spec = model.spec
            assert spec.unit_ms > 0 and spec.unit_ms % 20 == 0
            assert spec.name and spec.languages and spec.voices
            assert spec.max_frames >= 0 and spec.frame_max_px > 0
            assert spec.output_rate_hz == OUTPUT_RATE_HZ, "sessions play 24 kHz"

    def test_a_question_is_answered_and_turns_are_numbered_from_one(self) -> None:
        with self.open_model(1) as model:
            (outputs,) = self._talk(model, {0: self._exchange(model.spec) * 2}).values()
            turns = _turns(outputs)
            assert len(turns) >= 2, f"two questions, and turns {turns}"
            assert turns == list(range(1, len(turns) + 1))
            assert len(sound(outputs, 1)) >= self.answer_s * model.spec.output_rate_hz

    def test_silence_is_listened_to(self) -> None:
        with self.open_model(1) as model:
            (outputs,) = self._talk(model, {0: silent_units(model.spec, 3.0)}).values()
            assert len(sound(outputs)) == 0

    def test_a_step_without_rows_yields_nothing(self) -> None:
        with self.open_model(1) as model:
            assert list(model.step([])) == []

    # -- the floor ----------------------------------------------------------------------------------------------------

    def test_without_the_floor_nothing_is_said(self) -> None:
        with self.open_model(1) as model:
            script = [replace(unit, floor=Floor.LISTEN) for unit in self._exchange(model.spec)]
            (outputs,) = self._talk(model, {0: script}).values()
            assert _says(outputs) == []

    def test_a_turn_falls_silent_when_the_floor_is_taken(self) -> None:
        with self.open_model(1) as model:
            script = self._exchange(model.spec)
            taken = self._middle_of_answer(model)
            script = script[:taken] + [replace(unit, floor=Floor.LISTEN) for unit in script[taken:]]
            (outputs,) = self._talk(model, {0: script}).values()
            assert _says(outputs), "the model had begun to answer"
            assert [said for said in _says(outputs) if said.step >= taken] == []

    def test_asked_to_speak_it_says_something(self) -> None:
        with self.open_model(1) as model:
            script = silent_units(model.spec, 1.0) + silent_units(model.spec, _SPEAK_WITHIN_S, Floor.SPEAK)
            (outputs,) = self._talk(model, {0: script}).values()
            assert len(sound(outputs)) > 0

    # -- cancelling ---------------------------------------------------------------------------------------------------

    def test_a_cancelled_turn_says_nothing_more_and_the_next_has_a_higher_number(self) -> None:
        with self.open_model(1) as model:
            cut = self._middle_of_answer(model)
            script = self._exchange(model.spec)
            played_samples = model.spec.output_rate_hz // 10

            def cancel(step: int) -> None:
                if step == cut:
                    model.cancel(0, 1, played_samples)

            script = script[:cut] + silent_units(model.spec, 1.0) + self._exchange(model.spec)
            (outputs,) = self._talk(model, {0: script}, before=cancel).values()
            assert [said.step for said in outputs if said.step >= cut and said.output.turn == 1] == []
            later = [turn for turn in _turns(outputs) if turn > 1]
            assert later, "the question after the cut was answered"
            assert later[0] == 2

    def test_turns_that_were_never_begun_can_be_cancelled(self) -> None:
        with self.open_model(1) as model:

            def cancel(step: int) -> None:
                if step == 0:
                    model.cancel(0, 7, 0)

            (outputs,) = self._talk(model, {0: self._exchange(model.spec)}, before=cancel).values()
            assert _turns(outputs)[0] == 8

    def test_cancelling_within_a_step_holds_from_the_next_step_on(self) -> None:
        with self.open_model(1) as model:
            script = self._exchange(model.spec)
            model.open(0, self.setup)
            try:
                cut: int | None = None
                for index, unit in enumerate(script):
                    for row_output in model.step([RowUnit(0, replace(unit, index=index))]):
                        assert isinstance(row_output, RowOutput), row_output
                        if row_output.output.turn and cut is None:
                            cut = index
                            model.cancel(0, row_output.output.turn, 0)
                        assert cut in (None, index) or row_output.output.turn == 0, "a cancelled turn goes on"
                assert cut is not None, "the question was answered"
            finally:
                model.close(0)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def test_rows_together_say_what_each_says_alone(self) -> None:
        with self.open_model(3) as model:
            spec = model.spec
            first = self._exchange(spec)
            second = units_of(spec, self.other_question(spec)) + silent_units(spec, self.answer_within_s)
            third = silent_units(spec, 2.0)
            alone = [self._talk(model, {0: script})[0] for script in (first, second, third)]
            together = self._talk(model, {2: third, 0: first, 1: second})
            for row, outputs in enumerate(alone):
                self.assert_same(together[row], outputs, spec)

    def test_a_row_cut_off_beside_others_changes_nothing_for_them(self) -> None:
        with self.open_model(2) as model:
            script = self._exchange(model.spec)
            alone = self._talk(model, {0: script})[0]
            cut = self._middle_of_answer(model)

            def cancel(step: int) -> None:
                if step == cut:
                    model.cancel(1, 1, 0)

            together = self._talk(model, {0: script, 1: script}, before=cancel)
            self.assert_same(together[0], alone, model.spec)
            assert len(sound(together[1])) < len(sound(together[0]))

    def test_a_closed_row_leaves_nothing_to_the_next_conversation(self) -> None:
        with self.open_model(2) as model:
            script = self._exchange(model.spec)
            fresh = self._talk(model, {0: script})[0]
            self._talk(model, {0: script[: self._middle_of_answer(model)]})  # closed in the middle of its answer
            self.assert_same(self._talk(model, {0: script})[0], fresh, model.spec)

    def test_a_closed_row_is_silent_while_another_goes_on(self) -> None:
        with self.open_model(2) as model:
            script = self._exchange(model.spec)
            half = self._middle_of_answer(model)
            model.open(0, self.setup)
            model.open(1, self.setup)
            for index, unit in enumerate(script[:half]):
                list(model.step([RowUnit(row, replace(unit, index=index)) for row in (0, 1)]))
            model.close(0)
            try:
                for index, unit in enumerate(script[half:], half):
                    rows = [row_output.row for row_output in model.step([RowUnit(1, replace(unit, index=index))])]
                    assert set(rows) <= {1}
            finally:
                model.close(1)

    def test_a_row_can_be_opened_and_closed_without_a_unit(self) -> None:
        with self.open_model(1) as model:
            for _ in range(3):
                model.open(0, self.setup)
                model.close(0)

    def test_the_setup_can_change_in_the_middle_of_a_turn(self) -> None:
        with self.open_model(1) as model:
            half = self._middle_of_answer(model)

            def configure(step: int) -> None:
                if step == half:
                    model.configure(0, replace(self.setup, speed=1.25, language=model.spec.languages[-1]))

            (outputs,) = self._talk(model, {0: self._exchange(model.spec)}, before=configure).values()
            assert any(said.output.end_of_turn for said in outputs), "the turn came to its end"

    # -- how --------------------------------------------------------------------------------------------------------

    def _exchange(self, spec: ModelSpec) -> list[Unit]:
        return units_of(spec, self.question(spec)) + silent_units(spec, self.answer_within_s)

    def _talk(
        self, model: Model, scripts: Mapping[int, Sequence[Unit]], before: Callable[[int], None] = lambda step: None
    ) -> dict[int, list[Spoken]]:
        for row in scripts:
            model.open(row, self.setup)
        try:
            return converse(model, scripts, before=before)
        finally:
            for row in scripts:
                model.close(row)

    def _middle_of_answer(self, model: Model) -> int:
        """Return a step before which the first answer has begun and after which it would go on."""
        (outputs,) = self._talk(model, {0: self._exchange(model.spec)}).values()
        steps = [said.step for said in outputs if said.output.turn == 1 and len(said.output.audio)]
        assert len(steps) >= 2, "the answer is too short to be cut: it came in fewer than two steps"
        return steps[len(steps) // 2]


def _turns(outputs: Sequence[Spoken]) -> list[int]:
    """Return the turns in the order they began."""
    return list(dict.fromkeys(said.output.turn for said in outputs if said.output.turn))


def _says(outputs: Sequence[Spoken]) -> list[Spoken]:
    return [said for said in outputs if len(said.output.audio) or said.output.text]
