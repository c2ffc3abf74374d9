"""Tests of the answers, without any sound."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from duplex_server.models.embedded.grammar import Command, Intent, examples, parse_typed
from duplex_server.models.embedded.sight import Look
from duplex_server.models.embedded.skills import After, Memory, Reply, answer, greeting, misunderstood, said_again
from duplex_server.models.embedded.stories import STORIES

_NOW = datetime(2026, 3, 8, 15, 5, tzinfo=UTC)
_BRIGHT_RED = Look(light=0.8, covered=False, motion=0.0, colour="red", colour_share=0.9, faces=2)


def _ask(text: str, memory: Memory | None = None, look: Look | None = None, now: datetime = _NOW) -> Reply:
    command = parse_typed(text)
    assert command is not None
    return answer(command, memory or Memory(), look=look, now=now)


def _said(text: str, memory: Memory | None = None, look: Look | None = None, now: datetime = _NOW) -> str:
    return " ".join(_ask(text, memory, look, now).sentences)


_CHINESE = Memory(language="zh")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("example", examples())
def test_every_example_is_answered_in_every_language(example: str, language: str) -> None:
    reply = _ask(example, Memory(language=language), _BRIGHT_RED)
    assert reply.sentences or reply.nothing_to_resume
    assert all(sentence.strip() for sentence in reply.sentences)


@pytest.mark.parametrize("intent", [intent for intent in Intent if intent not in (Intent.BACKCHANNEL, Intent.OTHER)])
def test_every_intent_has_an_answer(intent: Intent) -> None:
    words = ("english",) if intent is Intent.SPEAK_LANGUAGE else () if intent is Intent.STORY else ("banana",)
    reply = answer(Command(intent, (3, 5), words), Memory(), look=None, now=_NOW)
    assert reply.sentences or reply.nothing_to_resume


def test_a_backchannel_is_not_answered() -> None:
    assert _ask("mm-hm").sentences == ()


@pytest.mark.parametrize(
    ("hour", "minute", "english", "chinese"),
    [
        (15, 5, "It is 3:05 PM.", "现在是下午3点零5分。"),
        (0, 0, "It is 12 AM.", "现在是凌晨12点整。"),
        (12, 30, "It is 12:30 PM.", "现在是下午12点30分。"),
        (23, 59, "It is 11:59 PM.", "现在是晚上11点59分。"),
    ],
)
def test_the_time_is_told(hour: int, minute: int, english: str, chinese: str) -> None:
    now = _NOW.replace(hour=hour, minute=minute)
    assert _said("what time is it", now=now) == english
    assert _said("what time is it", _CHINESE, now=now) == chinese


def test_the_date_is_told() -> None:
    assert _said("what day is it") == "Today is Sunday, March 8."
    assert _said("what day is it", _CHINESE) == "今天是3月8日，星期日。"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("count to 3", [1, 2, 3]),
        ("count to 0", [1, 0]),
        ("count from 8 to 11", [8, 9, 10, 11]),
        ("count from 5 to 2", [5, 4, 3, 2]),
        ("count down from 3", [3, 2, 1, 0]),
    ],
)
def test_it_counts(text: str, numbers: list[int]) -> None:
    said = " ".join(_ask(text).sentences)
    assert [int(word.strip(",.")) for word in said.split()] == numbers


def test_long_counts_come_in_short_sentences_and_end() -> None:
    counted = _ask("count to 1000").sentences
    assert all(len(sentence.split()) <= 5 for sentence in counted)
    assert len(counted) == 40


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("what is 7 plus 8", "7 plus 8 is 15.", "7加8等于15。"),
        ("what is 3 minus 8", "3 minus 8 is minus 5.", "3减8等于负5。"),
        ("what is 6 times 7", "6 times 7 is 42.", "6乘以7等于42。"),
    ],
)
def test_it_does_sums(text: str, english: str, chinese: str) -> None:
    assert _said(text) == english
    assert _said(text, _CHINESE) == chinese


def test_it_spells_and_repeats() -> None:
    assert _said("spell Banana") == "B, A, N, A, N, A."
    assert _said("repeat after me the robot is happy") == "The robot is happy."


def test_it_says_the_last_answer_again() -> None:
    reply = _ask("what is 1 plus 1")
    assert said_again(reply.memory).sentences == ("1 plus 1 is 2.",)
    assert _ask("say that again", reply.memory).sentences == ("1 plus 1 is 2.",)


def test_an_apology_is_not_what_is_said_again() -> None:
    memory = _ask("what is 1 plus 1").memory
    assert said_again(misunderstood(memory).memory).sentences == ("1 plus 1 is 2.",)


def test_stories_take_turns_and_can_be_chosen() -> None:
    memory, told = Memory(), []
    for _ in range(len(STORIES["en"]) + 1):
        reply = _ask("tell me a story", memory)
        memory = reply.memory
        told.append(reply.sentences)
    assert len(set(told)) == len(STORIES["en"])
    assert told[0] == told[-1]
    assert _ask("tell me a story about the moon").sentences == told[2]


def test_jokes_take_turns() -> None:
    first = _ask("tell me a joke")
    assert _ask("tell me another joke", first.memory).sentences != first.sentences


def test_it_says_what_it_sees() -> None:
    assert "red" in _said("what do you see", look=_BRIGHT_RED)
    assert _said("what color is this", look=_BRIGHT_RED) == "It looks red."
    assert _said("how many people do you see", look=_BRIGHT_RED) == "I see 2 faces."
    assert _said("is it dark", look=replace(_BRIGHT_RED, light=0.05)) == "Yes, it is rather dark."
    assert _said("is it bright", look=_BRIGHT_RED) == "It is bright."
    assert "红" in _said("what color is this", _CHINESE, _BRIGHT_RED)


@pytest.mark.parametrize("text", ["what do you see", "what color is this", "is it dark", "is anybody there"])
def test_without_a_picture_it_says_so(text: str) -> None:
    assert "picture" in _said(text)


def test_a_covered_camera_has_no_colour() -> None:
    assert "cannot see" in _said("what color is this", look=replace(_BRIGHT_RED, covered=True))


def test_where_faces_cannot_be_counted_it_says_so() -> None:
    assert "cannot count" in _said("how many people do you see", look=replace(_BRIGHT_RED, faces=None))


def test_it_remembers_a_name() -> None:
    assert "do not know" in _said("what is my name")
    memory = _ask("my name is julia").memory
    assert _said("what is my name", memory) == "Your name is Julia."
    assert _said("hello", memory) == "Hello, Julia!"


def test_it_changes_its_language_and_says_that_commands_stay_english() -> None:
    reply = _ask("speak chinese")
    assert reply.memory.language == "zh"
    assert "英语" in reply.sentences[0]
    assert _ask("speak english", reply.memory).memory.language == "en"


@pytest.mark.parametrize(
    ("text", "setting", "more"),
    [("louder", "volume", True), ("softer", "volume", False), ("faster", "rate", True), ("slower", "rate", False)],
)
def test_settings_move_one_step_and_stop_at_a_limit(text: str, setting: str, more: bool) -> None:
    reply = _ask(text)
    assert (getattr(reply.memory, setting) > 1) is more
    assert reply.after is After.RESUME
    for _ in range(10):
        before, reply = reply, _ask(text, reply.memory)
    assert getattr(before.memory, setting) == getattr(reply.memory, setting)
    assert "as far as" in reply.sentences[0]


def test_it_watches_until_told_not_to() -> None:
    watching = _ask("start watching", look=_BRIGHT_RED)
    assert watching.memory.watching
    assert "camera" in _said("start watching")
    assert not _ask("stop watching", watching.memory).memory.watching


def test_stop_is_answered_quietly_and_goodbye_ends_the_session() -> None:
    assert _ask("stop").quiet
    assert _ask("goodbye").after is After.GOODBYE


def test_continue_resumes_and_says_so_if_there_is_nothing() -> None:
    reply = _ask("continue")
    assert reply.after is After.RESUME
    assert reply.sentences == ()
    assert reply.nothing_to_resume


def test_the_help_is_made_of_sentences_that_are_understood() -> None:
    introduction, *shown, _ = _ask("what can you do").sentences
    assert "say" in introduction
    assert shown
    assert all(parse_typed(sentence) for sentence in shown)


def test_it_greets_in_its_language() -> None:
    assert greeting(Memory()).sentences[0] == "Hello!"
    assert greeting(_CHINESE).sentences[0] == "你好！"
