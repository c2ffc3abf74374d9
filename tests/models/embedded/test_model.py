"""Tests of the embedded model as a whole: real speech in, real speech out, in media time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from duplex_server.models.base import Model, RowUnit
from duplex_server.models.embedded.model import EmbeddedModel
from duplex_server.models.embedded.stories import STORIES, sentences
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import OUTPUT_RATE_HZ, Floor, ModelOutput, ModelSpec, Pcm, SessionSetup, Unit, VideoFrame
from tests.helpers.model_conformance import ModelConformance, Spoken
from tests.helpers.speech import SPEAKERS, USER_DB, UserVoice, noise, place, units_of

_UNIT_S = 0.04
_STORY = " ".join(sentences(STORIES["en"][0]))


@pytest.fixture(scope="module")
def model() -> Iterator[EmbeddedModel]:
    opened = EmbeddedModel(8, count_faces=False, now=lambda: datetime(2026, 3, 8, 15, 5, tzinfo=UTC))
    yield opened
    opened.shut_down()


@pytest.fixture(scope="module")
def user() -> Iterator[UserVoice]:
    with Voice() as voice:
        yield UserVoice(voice)


@pytest.fixture
def talk(model: EmbeddedModel) -> Iterator[Talk]:
    opened = Talk(model, 0)
    yield opened
    opened.close()


@dataclass(repr=False)
class Talk:
    """One conversation, driven unit by unit, with everything the model put out and when."""

    model: EmbeddedModel
    row: int
    setup: SessionSetup = field(default_factory=SessionSetup)
    outputs: list[tuple[float, ModelOutput]] = field(default_factory=list)
    n_units: int = 0

    def __post_init__(self) -> None:
        self.model.open(self.row, self.setup)

    def close(self) -> None:
        self.model.close(self.row)

    def give(self, units: Sequence[Unit]) -> list[ModelOutput]:
        """Live through units; returns what came of them."""
        before = len(self.outputs)
        for unit in units:
            numbered = replace(unit, index=self.n_units)
            self.n_units += 1
            for row_output in self.model.step([RowUnit(self.row, numbered)]):
                self.outputs.append((self.n_units * _UNIT_S, row_output.output))
        return [output for _, output in self.outputs[before:]]

    def quiet(self, duration_s: float, floor: Floor = Floor.FREE) -> list[ModelOutput]:
        return self.give(_quiet(duration_s, floor))

    def type(self, text: str, floor: Floor = Floor.FREE) -> list[ModelOutput]:
        return self.give([replace(_quiet(_UNIT_S, floor)[0], texts=(text,))])

    def show(self, rgb: np.ndarray, duration_s: float = 1.0) -> list[ModelOutput]:
        """Show a still picture, twice a second."""
        found = []
        for _ in range(round(duration_s * 2)):
            captured_s = self.n_units * _UNIT_S
            first, *others = _quiet(0.5)
            found += self.give([replace(first, frames=(VideoFrame(captured_s, rgb),)), *others])
        return found


def _quiet(duration_s: float, floor: Floor = Floor.FREE) -> list[Unit]:
    n_units = round(duration_s / _UNIT_S)
    return list(units_of(noise(duration_s + 0.01), 40, probabilities=[0.0] * n_units, floor=floor))[:n_units]


def _said(outputs: Sequence[ModelOutput], turn: int | None = None) -> str:
    return "".join(output.text for output in outputs if turn in (None, output.turn))


def _turns(outputs: Sequence[ModelOutput]) -> list[int]:
    return list(dict.fromkeys(output.turn for output in outputs if output.turn))


def _spoken_s(outputs: Sequence[ModelOutput]) -> float:
    return sum(len(output.audio) for output in outputs) / OUTPUT_RATE_HZ


class TestEmbeddedConforms(ModelConformance):
    answer_within_s = 3.0

    @pytest.fixture(autouse=True)
    def _share(self, model: EmbeddedModel, user: UserVoice) -> None:
        self._model, self._user = model, user

    def open_model(self, rows: int) -> AbstractContextManager[Model]:
        return contextlib.nullcontext(self._model)

    def question(self, spec: ModelSpec) -> Pcm:
        return np.concatenate([noise(0.4), self._user.say("tell me a joke"), noise(0.2)])

    def other_question(self, spec: ModelSpec) -> Pcm:
        return np.concatenate([noise(0.6), self._user.say("what can you do", SPEAKERS[1]), noise(0.2)])

    def assert_same(self, one: Sequence[Spoken], other: Sequence[Spoken], spec: ModelSpec) -> None:
        """Two renderings of a text differ in length, so turns and what is heard and begun must agree, not samples."""

        def decisions(spoken: Sequence[Spoken]) -> list[object]:
            heard = [(said.step, said.output.heard) for said in spoken if said.output.heard is not None]
            begun = {said.output.turn: said.step for said in reversed(spoken) if said.output.turn}
            return [heard, begun]

        assert decisions(one) == decisions(other)
        shorter, longer = sorted((_said([said.output for said in spoken]) for spoken in (one, other)), key=len)
        assert longer.startswith(shorter)


# -- hearing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "speaker", "answered"),
    [
        ("what time is it", SPEAKERS[0], "It is 3:05 PM."),
        ("what is seven plus eight", SPEAKERS[1], "7 plus 8 is 15."),
        ("thank you", SPEAKERS[2], "You are welcome."),
    ],
)
def test_a_spoken_command_is_answered_within_400_ms(
    talk: Talk, user: UserVoice, said: str, speaker: str, answered: str
) -> None:
    track = noise(5.0)
    end_s = place(track, user.say(said, speaker), 1.0)
    outputs = talk.give(list(units_of(track, 40)))
    assert _said(outputs) == answered
    first_s = next(at_s for at_s, output in talk.outputs if len(output.audio))
    assert end_s < first_s <= end_s + 0.4
    finals = [output.heard.text for output in outputs if output.heard is not None and output.heard.final]
    assert finals == [said]


def test_a_closed_command_is_answered_sooner_than_one_that_may_go_on(model: EmbeddedModel, user: UserVoice) -> None:
    delays_s = []
    for text in ("tell me a joke", "tell me a story"):
        talk = Talk(model, 0)
        clip = user.say(text)
        track = noise(0.4 + len(clip) / 16000 + 1.0)
        end_s = place(track, clip, 0.4)
        voiced = [1.0 if 0.4 <= n * _UNIT_S < end_s else 0.0 for n in range(len(track) // 640)]
        talk.give(list(units_of(track, 40, probabilities=voiced)))
        delays_s.append(next(at_s for at_s, output in talk.outputs if len(output.audio)) - end_s)
        talk.close()
    assert delays_s[0] <= 0.2
    assert delays_s[0] < delays_s[1] <= 0.32


def test_a_sentence_that_is_no_command_gets_an_apology_but_not_for_ever(talk: Talk, user: UserVoice) -> None:
    clip = user.say("my brother bought a new bicycle last week")
    replies = []
    for _ in range(3):
        track = noise(len(clip) / 16000 + 5.0)
        place(track, clip, 0.5)
        replies.append(_said(talk.give(list(units_of(track, 40)))))
    assert "Sorry" in replies[0]
    assert replies[2] == ""


@pytest.mark.parametrize("sound", ["um hum", "uh-huh", "okay", "yeah"])
def test_a_backchannel_does_not_disturb_a_story(talk: Talk, user: UserVoice, sound: str) -> None:
    talk.type("tell me a story")
    track = noise(3.0)
    place(track, user.say(sound), 0.5)
    outputs = talk.give(list(units_of(track, 40)))
    assert not any(output.yields or output.end_of_turn for output in outputs)
    assert _turns(outputs) == [1]
    assert _spoken_s(outputs) == pytest.approx(3.0, abs=0.1)


def test_a_cough_does_not_disturb_a_story(talk: Talk) -> None:
    talk.type("tell me a story")
    track = noise(3.0)
    burst = noise(0.25, at_db=-15.0, seed=3) * np.exp(-np.linspace(0, 5, 4000)).astype(np.float32)
    place(track, burst, 0.5)
    voiced = [0.9 if 12 <= n <= 19 else 0.0 for n in range(75)]
    outputs = talk.give(list(units_of(track, 40, probabilities=voiced)))
    assert _turns(outputs) == [1]
    assert not any(output.end_of_turn for output in outputs)


@pytest.mark.parametrize(
    ("words", "speaker"), [("stop talking", SPEAKERS[0]), ("be quiet", SPEAKERS[2]), ("stop", SPEAKERS[1])]
)
def test_a_stop_word_silences_a_story_before_or_as_it_ends_and_is_not_answered(
    talk: Talk, user: UserVoice, words: str, speaker: str
) -> None:
    talk.type("tell me a story")
    talk.quiet(2.0)
    began_s = talk.n_units * _UNIT_S
    track = noise(3.0)
    end_s = began_s + place(track, user.say(words, speaker), 0.5)
    outputs = talk.give(list(units_of(track, 40)))
    assert [output.turn for output in outputs if output.yields] == [1]
    yielded_s = next(at_s for at_s, output in talk.outputs if output.yields)
    assert yielded_s <= end_s + 0.3
    assert [at_s for at_s, output in talk.outputs if len(output.audio) and at_s > yielded_s] == []


@pytest.mark.parametrize(("words", "n_passed"), [("stop talking", 3), ("goodbye", 3), ("what is my name", 6)])
def test_words_of_which_the_server_calls_most_an_echo_do_not_end_a_story(
    talk: Talk, user: UserVoice, words: str, n_passed: int
) -> None:
    """A few windows of the model's own echo pass the guard for a voice; the recogniser hears all of it."""
    talk.type("tell me a story")
    talk.quiet(2.0)
    track = noise(3.0)
    place(track, user.say(words), 0.5)
    passed = [0.9 if 13 <= n < 13 + n_passed else 0.0 for n in range(75)]
    outputs = talk.give(list(units_of(track, 40, probabilities=passed)))
    assert not any(output.yields or output.end_of_turn or output.end_of_session for output in outputs)


def test_what_is_said_to_somebody_else_in_the_room_does_not_end_a_story(talk: Talk, user: UserVoice) -> None:
    track = noise(3.0)
    place(track, user.say("tell me a story"), 0.5)
    talk.give(list(units_of(track, 40)))
    track = noise(4.0, at_db=-80.0)
    place(track, user.say("stop talking", at_db=USER_DB - 18), 0.5)
    place(track, user.say("what time is it", at_db=USER_DB - 18), 2.0)
    outputs = talk.give(list(units_of(track, 40)))
    assert _turns(outputs) == [1]
    assert not any(output.yields or output.end_of_turn for output in outputs)


def test_a_command_over_a_story_is_answered_in_a_new_turn(talk: Talk, user: UserVoice) -> None:
    talk.type("tell me a story")
    talk.quiet(2.0)
    track = noise(4.0)
    place(track, user.say("what time is it"), 0.5)
    outputs = talk.give(list(units_of(track, 40)))
    assert [output.turn for output in outputs if output.yields] == [1]
    assert _said(outputs, 2) == "It is 3:05 PM."


def test_the_model_never_begins_to_speak_over_the_user(talk: Talk, user: UserVoice) -> None:
    black, grey = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 120, np.uint8)
    grey[::2] = 180
    talk.show(grey, 4.0)
    clip = user.say("my brother bought a new bicycle last week and rode it to the sea")
    track = noise(len(clip) / 16000 + 0.2)
    place(track, clip, 0.0)
    units = list(units_of(track, 40))
    for number in range(8, len(units), 12):
        units[number] = replace(units[number], frames=(VideoFrame((talk.n_units + number) * _UNIT_S, black),))
    assert _spoken_s(talk.give(units)) == 0


# -- speaking ----------------------------------------------------------------------------------------------------------


def test_speech_comes_in_short_pieces_at_real_time_pace_with_the_text_of_each(talk: Talk) -> None:
    outputs = talk.type("tell me a story")
    outputs += talk.quiet(10.0)
    assert max(len(output.audio) for output in outputs) <= OUTPUT_RATE_HZ // 10
    began_s = talk.outputs[0][0]
    emitted_s = 0.0
    for at_s, output in talk.outputs:
        emitted_s += len(output.audio) / OUTPUT_RATE_HZ
        assert -0.01 <= emitted_s - (at_s - began_s) <= 0.35
    assert _STORY.startswith(_said(outputs))
    assert len(_said(outputs).split()) > 20


def test_a_turn_ends_with_its_last_sound(talk: Talk) -> None:
    outputs = talk.type("what is 2 plus 2") + talk.quiet(3.0)
    assert [output.turn for output in outputs if output.end_of_turn] == [1]
    assert all(output.listening for output in outputs[[output.end_of_turn for output in outputs].index(True) + 1 :])


def test_chinese_is_spoken_without_blanks_between_sentences(talk: Talk) -> None:
    talk.type("speak chinese")
    talk.quiet(6.0)
    outputs = talk.type("tell me a joke") + talk.quiet(6.0)
    said = _said(outputs)
    assert said
    assert " " not in said


def test_a_set_up_in_chinese_is_greeted_in_chinese(model: EmbeddedModel) -> None:
    talk = Talk(model, 1, SessionSetup(language="zh-CN"))
    assert _said(talk.quiet(1.0, Floor.SPEAK)).startswith("你好")
    talk.close()


def test_louder_speech_is_louder_and_the_story_goes_on(talk: Talk) -> None:
    before = talk.type("tell me a story") + talk.quiet(4.0)
    after = talk.type("louder") + talk.quiet(5.0)
    assert [output.turn for output in after if output.yields] == [1]
    said = _said(after, 2)
    assert said.startswith("Louder. ")
    assert said.removeprefix("Louder. ") in _STORY
    power = [np.square(np.concatenate([output.audio for output in part])).mean() for part in (before, after)]
    assert power[1] > 1.3 * power[0]


# -- cutting and going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("played_s", [1.0, 2.0, 3.1])
def test_continue_goes_on_at_the_word_that_was_cut(model: EmbeddedModel, talk: Talk, played_s: float) -> None:
    talk.type("tell me a story")
    talk.quiet(6.0)
    model.cancel(0, 1, round(played_s * OUTPUT_RATE_HZ))
    assert _spoken_s(talk.quiet(1.0)) == 0
    resumed = _said(talk.type("continue") + talk.quiet(70.0), 2)
    assert _STORY.endswith(resumed)
    heard = _said_until(talk, 1, played_s).split()
    # The word that was cut is said again, or two that are spoken as one; between two sentences there is none.
    assert _STORY.split() in [[*heard[: len(heard) - n_again], *resumed.split()] for n_again in (0, 1, 2)]


def _said_until(talk: Talk, turn: int, played_s: float) -> str:
    """Return the text of the pieces that start before a position in the turn."""
    position_s, heard = 0.0, ""
    for _, output in talk.outputs:
        if output.turn == turn and position_s <= played_s:
            heard += output.text
            position_s += len(output.audio) / OUTPUT_RATE_HZ
    return heard


def test_a_story_can_be_interrupted_by_a_question_and_continued_after_it(model: EmbeddedModel, talk: Talk) -> None:
    talk.type("tell me a story")
    talk.quiet(3.0)
    talk.type("what time is it")
    model.cancel(0, 1, 2 * OUTPUT_RATE_HZ)
    talk.quiet(4.0)
    resumed = _said(talk.type("continue") + talk.quiet(2.0))
    assert resumed
    assert resumed in _STORY


def test_a_cut_that_is_told_after_the_turn_was_made_is_remembered(model: EmbeddedModel, talk: Talk) -> None:
    talk.type("what can you do")
    outputs = talk.quiet(60.0)
    assert any(output.end_of_turn for output in outputs)
    total = sum(len(output.audio) for _, output in talk.outputs)
    model.cancel(0, 1, total - 2 * OUTPUT_RATE_HZ)
    talk.quiet(0.2)
    assert _said(talk.type("continue") + talk.quiet(4.0)).endswith("at any time.")


def test_what_was_finished_cannot_be_continued(talk: Talk) -> None:
    talk.type("what can you do")
    talk.quiet(60.0)
    assert "nothing to continue" in _said(talk.type("continue") + talk.quiet(3.0))


def test_after_a_cut_turns_get_higher_numbers(model: EmbeddedModel, talk: Talk) -> None:
    talk.type("tell me a story")
    talk.quiet(1.0)
    model.cancel(0, 6, 0)
    assert _turns(talk.type("what time is it") + talk.quiet(1.0)) == [7]


def test_a_cut_of_an_older_turn_leaves_the_newer_one_alone(model: EmbeddedModel, talk: Talk) -> None:
    talk.type("tell me a story")
    talk.quiet(1.0)
    talk.type("tell me a joke")
    model.cancel(0, 1, 1000)
    assert _turns(talk.quiet(1.0)) == [2]


def test_to_continue_while_it_speaks_changes_nothing(talk: Talk) -> None:
    talk.type("tell me a story")
    talk.quiet(1.0)
    outputs = talk.type("go on") + talk.quiet(1.0)
    assert _turns(outputs) == [1]
    assert not any(output.yields for output in outputs)


def test_cancelling_a_closed_row_does_nothing(model: EmbeddedModel) -> None:
    model.cancel(7, 1, 0)


# -- the floor ---------------------------------------------------------------------------------------------------------


def test_a_command_heard_without_the_floor_is_answered_when_speech_is_asked_for(talk: Talk, user: UserVoice) -> None:
    track = noise(3.0)
    place(track, user.say("what time is it"), 0.5)
    heard = talk.give(list(units_of(track, 40, floor=Floor.LISTEN)))
    assert _spoken_s(heard) == 0
    assert [output.heard.text for output in heard if output.heard is not None and output.heard.final] == [
        "what time is it"
    ]
    assert _said(talk.quiet(3.0, Floor.SPEAK)) == "It is 3:05 PM."


def test_speech_is_asked_for_in_the_middle_of_an_utterance(talk: Talk, user: UserVoice) -> None:
    clip = user.say("what time is it")
    track = noise(0.5 + len(clip) / 16000)
    place(track, clip, 0.5)
    talk.give(list(units_of(track, 40, floor=Floor.LISTEN)))
    assert _said(talk.quiet(3.0, Floor.SPEAK)) == "It is 3:05 PM."


def test_a_request_to_speak_is_met_once(talk: Talk) -> None:
    outputs = talk.quiet(8.0, Floor.SPEAK)
    assert _turns(outputs) == [1]
    assert _said(outputs).startswith("Hello!")


def test_a_second_request_to_speak_repeats_the_last_answer(talk: Talk) -> None:
    talk.type("what is 2 plus 2")
    talk.quiet(3.0)
    assert _said(talk.quiet(3.0, Floor.SPEAK)) == "2 plus 2 is 4."


def test_a_turn_survives_one_unit_without_the_floor_and_not_more(talk: Talk) -> None:
    talk.type("tell me a story")
    talk.quiet(1.0)
    assert _spoken_s(talk.quiet(0.04, Floor.LISTEN)) == 0
    assert _turns(talk.quiet(0.4)) == [1]
    outputs = talk.quiet(0.4, Floor.LISTEN)
    assert [output.turn for output in outputs if output.end_of_turn] == [1]
    assert _spoken_s(talk.quiet(1.0)) == 0


def test_goodbye_ends_the_session_with_its_last_sound(talk: Talk) -> None:
    outputs = talk.type("goodbye") + talk.quiet(2.0)
    assert _said(outputs) == "Goodbye."
    assert [output.end_of_turn for output in outputs if output.end_of_session] == [True]


def test_a_typed_text_that_is_no_command_gets_an_apology(talk: Talk) -> None:
    assert "Sorry" in _said(talk.type("write me a poem about trains") + talk.quiet(2.0))


# -- seeing ------------------------------------------------------------------------------------------------------------


def _room() -> np.ndarray:
    dice = np.random.default_rng(5)
    return np.kron(dice.integers(60, 200, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def test_a_covered_camera_is_remarked_upon_once(talk: Talk) -> None:
    talk.show(_room(), 4.0)
    outputs = talk.show(np.full((96, 128, 3), 4, np.uint8), 6.0)
    assert _turns(outputs) == [1]
    assert "cannot see" in _said(outputs)


def test_a_remark_waits_for_silence_and_never_talks_over_the_model(talk: Talk) -> None:
    talk.show(_room(), 4.0)
    talk.type("tell me a story")
    outputs = talk.show(np.full((96, 128, 3), 4, np.uint8), 8.0)
    assert _turns(outputs) == [1]
    assert "cannot see" not in _said(outputs)


def test_movement_is_remarked_upon_only_while_watching(talk: Talk) -> None:
    room, other = _room(), np.roll(_room(), (24, 40), (0, 1))
    talk.show(room, 10.0)
    assert _spoken_s(talk.show(other, 4.0)) == 0
    talk.type("start watching")
    talk.show(room, 30.0)
    said = ""
    for _ in range(3):
        said += _said(talk.show(other, 0.5) + talk.show(room, 0.5))
    assert "moving" in said + _said(talk.show(room, 4.0))


def test_it_describes_the_newest_picture(talk: Talk) -> None:
    talk.show(np.full((96, 128, 3), (200, 20, 20), np.uint8), 3.0)
    assert _said(talk.type("what color is this") + talk.quiet(2.0)) == "It looks red."


# -- rows --------------------------------------------------------------------------------------------------------------


def test_eight_rows_together_hear_and_say_what_each_does_alone(model: EmbeddedModel, user: UserVoice) -> None:
    commands = ["what time is it", "tell me a joke", "spell banana", "my name is anna"]
    scripts = []
    for row in range(8):
        track = noise(4.0, seed=row)
        place(track, user.say(commands[row % 4], SPEAKERS[row // 4]), 0.3 + 0.1 * row)
        scripts.append(list(units_of(track, 40)))
    alone = []
    for script in scripts:
        talk = Talk(model, 0)
        talk.give(script)
        talk.close()
        alone.append(_decisions([output for _, output in talk.outputs]))
    for row in range(8):
        model.open(row, SessionSetup())
    together: list[list[ModelOutput]] = [[] for _ in range(8)]
    for units in zip(*scripts, strict=True):
        for row_output in model.step([RowUnit(row, unit) for row, unit in enumerate(units)]):
            together[row_output.row].append(row_output.output)
    for row in range(8):
        model.close(row)
    assert [_decisions(outputs) for outputs in together] == alone


def _decisions(outputs: Sequence[ModelOutput]) -> list[object]:
    return [output.heard for output in outputs if output.heard is not None] + [_said(outputs)[:12]]
