"""Tests of the table of sentences: that everything made from it agrees."""

from __future__ import annotations

import pytest

from duplex_server.models.embedded import grammar
from duplex_server.models.embedded.grammar import Command, Intent, parse, parse_typed
from duplex_server.models.embedded.pattern import expand

_FILLERS = {
    "<number>": ("forty two", 42),
    "<name>": ("julia", "julia"),
    "<word>": ("banana", "banana"),
    "<phrase>": ("happy robot", "happy robot"),
    "<topic>": ("the moon", "the moon"),
    "<tongue>": ("mandarin", "mandarin"),
}


def _sentences() -> list[tuple[str, Command]]:
    """Every sentence of every form, with one filling of its slots, and what it means."""
    found = []
    for form in grammar.FORMS:
        for sentence in expand(form.pattern):
            text = " ".join(_FILLERS[word][0] if word in _FILLERS else word for word in sentence)
            values = [_FILLERS[word][1] for word in sentence if word in _FILLERS]
            numbers = tuple(value for value in values if isinstance(value, int))
            words = tuple(value for value in values if isinstance(value, str))
            found.append((text, Command(form.intent, numbers, words)))
    return found


@pytest.mark.parametrize(("text", "command"), _sentences(), ids=lambda value: str(value) if value is str else None)
def test_every_sentence_of_every_form_means_what_its_form_says(text: str, command: Command) -> None:
    assert parse(text).command == command
    assert parse_typed(f"  {text.capitalize()}! ") == command


def test_every_intent_can_be_said() -> None:
    assert {form.intent for form in grammar.FORMS} == set(Intent)


@pytest.mark.parametrize("form", [form for form in grammar.FORMS if form.example], ids=lambda form: form.example)
def test_every_example_is_understood_and_can_be_spoken(form: grammar.Form) -> None:
    command = parse_typed(form.example)
    assert command is not None
    assert command.intent is form.intent
    recognised = form.example.lower().replace(":", "").rstrip(".?!")
    assert parse(recognised).command == command


def test_requests_may_be_polite() -> None:
    for text in ("please tell me a joke", "could you tell me a joke please", "can you tell me a joke"):
        assert parse(text).command == Command(Intent.JOKE)
    assert parse("can you what time is it").command is None


def test_please_alone_is_no_command() -> None:
    assert parse("please").command == Command(Intent.BACKCHANNEL)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("what time is it", False),
        ("tell me a joke", False),
        ("stop", True),
        ("stop talking", False),
        ("count to twenty", True),
        ("count to twenty one", False),
        ("count to ten", False),
        ("tell me a story", True),
        ("repeat after me happy robot", True),
    ],
)
def test_only_a_sentence_that_may_go_on_to_mean_something_else_is_open(text: str, is_open: bool) -> None:
    assert parse(text).open is is_open


@pytest.mark.parametrize(
    ("words", "value"), [("zero", 0), ("seventeen", 17), ("ninety nine", 99), ("a hundred", 100), ("1000", 1000)]
)
def test_numbers_are_read(words: str, value: int) -> None:
    assert grammar.number(tuple(words.split())) == value


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("what's 12-5?", Command(Intent.SUBTRACT, (12, 5))),
        ("What’s 12 − 5", Command(Intent.SUBTRACT, (12, 5))),
        ("what is 2+3", Command(Intent.ADD, (2, 3))),
        ("what is 6 × 7?", Command(Intent.MULTIPLY, (6, 7))),
        ("My name is Björn.", Command(Intent.MY_NAME_IS, words=("björn",))),
        ("I'm 小明", Command(Intent.MY_NAME_IS, words=("小明",))),
        ("spell Donaudampfschiff", Command(Intent.SPELL, words=("donaudampfschiff",))),
        ("Repeat after me: I like long trains", Command(Intent.REPEAT_AFTER_ME, words=("i like long trains",))),
        ("What colour is this?", Command(Intent.COLOUR)),
        ("hi", Command(Intent.GREETING)),
        ("MM-HM", Command(Intent.BACKCHANNEL)),
    ],
)
def test_typed_sentences_may_hold_digits_signs_and_any_word(text: str, command: Command) -> None:
    assert parse_typed(text) == command


@pytest.mark.parametrize(
    "text", ["", "   ", "?!", "hello world", "count to 100000", "spell " + "x" * 100, "你好", "a " * 5000, "<number>"]
)
def test_other_typed_texts_are_not_understood(text: str) -> None:
    assert parse_typed(text) is None


def test_the_grammar_names_every_word_of_the_vocabulary() -> None:
    jsgf = grammar.jsgf()
    assert jsgf.startswith("#JSGF V1.0;")
    assert all(word in jsgf for word in grammar.vocabulary())


def test_the_help_names_fewer_sentences_than_the_page() -> None:
    assert set(grammar.spoken_examples()) < set(grammar.examples())
