"""Tests of the notation in which sentences are written down."""

from __future__ import annotations

import pytest

from duplex_server.models.embedded.pattern import Slot, Tree, expand

_NUMBER = Slot("number", (("one",), ("twenty",), ("twenty", "one")), typed=str.isdigit)
_NAMES = Slot("names", (("anna",), ("bob",)), repeats=3)


def _tree(**patterns: str) -> Tree[str]:
    tree: Tree[str] = Tree((_NUMBER, _NAMES))
    for label, pattern in patterns.items():
        tree.add(pattern, label)
    return tree


def test_options_and_alternatives_are_written_out() -> None:
    assert expand("what (is | was) it [now | then]") == [
        tuple(sentence.split())
        for sentence in (
            "what is it now",
            "what is it then",
            "what is it",
            "what was it now",
            "what was it then",
            "what was it",
        )
    ]


@pytest.mark.parametrize("pattern", ["a (b", "a [b)", "a)", "(a | b]"])
def test_unbalanced_brackets_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"closed|unbalanced"):
        expand(pattern)


def test_an_unknown_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="<colour>"):
        _tree(paint="paint it <colour>")


def test_the_longest_filling_of_a_slot_that_fits_is_found() -> None:
    match, _ = _tree(count="count to <number>").match(["count", "to", "twenty", "one"])
    assert match is not None
    assert match.slots == (("number", ("twenty", "one")),)


def test_a_slot_within_a_sentence_ends_where_the_sentence_goes_on() -> None:
    match, _ = _tree(span="from <number> to <number>").match(["from", "twenty", "one", "to", "one"])
    assert match is not None
    assert [words for _, words in match.slots] == [("twenty", "one"), ("one",)]


def test_a_sentence_that_cannot_go_on_is_closed() -> None:
    assert _tree(stop="stop").match(["stop"])[1] is False


def test_a_sentence_with_a_longer_one_of_another_meaning_is_open() -> None:
    tree = _tree(stop="stop", watch="stop watching")
    assert tree.match(["stop"])[1] is True
    assert tree.match(["stop", "watching"])[1] is False


def test_a_sentence_whose_longer_form_means_the_same_is_closed() -> None:
    assert _tree(time="what time is it [now]").match(["what", "time", "is", "it"])[1] is False


def test_a_slot_that_may_take_one_word_more_keeps_the_sentence_open() -> None:
    tree = _tree(count="count to <number>", call="call <names>")
    assert tree.match(["count", "to", "twenty"])[1] is True
    assert tree.match(["count", "to", "twenty", "one"])[1] is False
    assert tree.match(["call", "anna", "bob"])[1] is True
    assert tree.match(["call", "anna", "bob", "anna"])[1] is False
    assert tree.match(["call", "anna", "bob", "anna", "bob"])[0] is None


def test_a_beginning_has_no_meaning_and_is_open() -> None:
    assert _tree(time="what time is it").match(["what", "time"]) == (None, True)


def test_words_of_no_sentence_have_no_meaning_and_are_closed() -> None:
    assert _tree(time="what time is it").match(["time"]) == (None, False)


def test_only_typed_sentences_may_fill_a_slot_with_other_words() -> None:
    tree = _tree(count="count to <number>")
    assert tree.match(["count", "to", "7"])[0] is None
    match, _ = tree.match(["count", "to", "7"], typed=True)
    assert match is not None
    assert match.slots == (("number", ("7",)),)


def test_a_repeating_slot_becomes_nested_options_in_jsgf() -> None:
    assert _NAMES.jsgf() == "<names_one> = anna | bob;\n<names> = <names_one> [<names_one> [<names_one>]];\n"
