"""Sentence patterns: one notation that becomes both a JSGF grammar for the recogniser and a parser for its result.

A pattern is JSGF's right-hand side without weights: ``what (is | what's) the time [now]``. A name in angle brackets,
``<number>``, stands for a :class:`Slot`, whose words are the pattern's variable part. Knows nothing about what a
sentence means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Match", "Slot", "Tree", "expand"]

_TOKEN = re.compile(r"<\w+>|[\[\]()|]|[^\s\[\]()|<>]+")

Label = TypeVar("Label")


@dataclass(frozen=True, slots=True)
class Slot:
    """The variable part of a pattern."""

    name: str
    """As it stands in a pattern, without the brackets."""
    phrases: tuple[tuple[str, ...], ...]
    """The phrases, each a tuple of words, that may fill it."""
    repeats: int = 1
    """How many of the phrases may follow each other."""
    typed: Callable[[str], bool] | None = None
    """Which single words may fill it besides, if the sentence was typed and not recognised."""

    def jsgf(self) -> str:
        """Write the slot as a JSGF rule; repetition becomes nested options, which keeps the search small."""
        once = " | ".join(" ".join(phrase) for phrase in self.phrases)
        if self.repeats == 1:
            return f"<{self.name}> = {once};\n"
        chain = f"<{self.name}_one>" + f" [<{self.name}_one>" * (self.repeats - 1) + "]" * (self.repeats - 1)
        return f"<{self.name}_one> = {once};\n<{self.name}> = {chain};\n"


@dataclass(frozen=True, slots=True)
class Match(Generic[Label]):
    """What a row of words may be."""

    label: Label
    slots: tuple[tuple[str, tuple[str, ...]], ...]
    """Slot name and the words in it, in the order of the sentence."""


def expand(pattern: str) -> list[tuple[str, ...]]:
    """Write out every sentence of a pattern; slots stay as ``<name>``.

    Raises:
        ValueError: brackets do not close.
    """
    tokens = _TOKEN.findall(pattern)
    sentences, end = _alternatives(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"unbalanced brackets in pattern {pattern!r}")
    return sentences


def _alternatives(tokens: Sequence[str], start: int) -> tuple[list[tuple[str, ...]], int]:
    sentences: list[tuple[str, ...]] = []
    branch: list[tuple[str, ...]] = [()]
    at = start
    while at < len(tokens) and tokens[at] not in ")]":
        mark = tokens[at]
        if mark == "|":
            sentences += branch
            branch = [()]
        elif mark in "([":
            inner, at = _alternatives(tokens, at + 1)
            if at == len(tokens) or tokens[at] != {"(": ")", "[": "]"}[mark]:
                raise ValueError(f"{mark} is not closed")
            choices = [*inner, ()] if mark == "[" else inner
            branch = [head + tail for head in branch for tail in choices]
        else:
            branch = [(*head, mark) for head in branch]
        at += 1
    return sentences + branch, at


@dataclass(slots=True)
class _Node(Generic[Label]):
    words: dict[str, _Node[Label]] = field(default_factory=dict)
    slots: dict[str, _Node[Label]] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)

    def changes(self, label: Label) -> bool:
        """Tell whether a longer sentence means something else than ``label``, or has a slot more."""
        if self.slots:
            return True
        return any(set(node.labels) - {label} or node.changes(label) for node in self.words.values())


class Tree(Generic[Label]):
    """All sentences of many patterns, sharing their beginnings.

    Args:
        slots: the slots that the patterns name.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = {slot.name: slot for slot in slots}
        self._fillers = {name: frozenset(slot.phrases) for name, slot in self._slots.items()}
        self._beginnings = {
            name: frozenset(phrase[:n] for phrase in slot.phrases for n in range(1, len(phrase)))
            for name, slot in self._slots.items()
        }
        self._root: _Node[Label] = _Node()

    def add(self, pattern: str, label: Label) -> None:
        """Let every sentence of ``pattern`` mean ``label``; of several meanings the first added wins.

        Raises:
            ValueError: the pattern is malformed or names an unknown slot.
        """
        for sentence in expand(pattern):
            node = self._root
            for token in sentence:
                if not token.startswith("<"):
                    node = node.words.setdefault(token, _Node())
                elif token[1:-1] in self._slots:
                    node = node.slots.setdefault(token[1:-1], _Node())
                else:
                    raise ValueError(f"pattern {pattern!r} names the unknown slot {token}")
            node.labels.append(label)

    def match(self, words: Sequence[str], *, typed: bool = False) -> tuple[Match[Label] | None, bool]:
        """Find what a whole row of words means.

        Args:
            words: lower-case words.
            typed: whether slots may hold the words that :attr:`Slot.typed` allows.

        Returns:
            The meaning, or None; and whether a longer sentence that begins with these words has another.
        """
        ends = list(self._walk(self._root, tuple(words), (), typed))
        best = next(
            (Match(node.labels[0], filled) for node, filled, inside in ends if node.labels and not inside), None
        )
        if best is None:
            return None, any(inside or node.words or node.slots for node, _, inside in ends)
        return best, any(inside or node.changes(best.label) for node, _, inside in ends)

    def _walk(
        self,
        node: _Node[Label],
        rest: tuple[str, ...],
        filled: tuple[tuple[str, tuple[str, ...]], ...],
        typed: bool,
    ) -> Iterator[tuple[_Node[Label], tuple[tuple[str, tuple[str, ...]], ...], bool]]:
        """Yield every node that ``rest`` leads to, what fills the slots, and whether it ends inside a slot."""
        if not rest:
            yield node, filled, False
            return
        if rest[0] in node.words:
            yield from self._walk(node.words[rest[0]], rest[1:], filled, typed)
        for name, after in node.slots.items():
            for n_words, goes_on in self._fill(name, rest, typed):
                taken = (*filled, (name, rest[:n_words]))
                if n_words:
                    yield from self._walk(after, rest[n_words:], taken, typed)
                if goes_on:
                    yield node, filled, True

    def _fill(self, name: str, rest: tuple[str, ...], typed: bool) -> Iterator[tuple[int, bool]]:
        """Yield how many words of ``rest`` may fill the slot (0: none yet), and whether it could take more than all."""
        slot = self._slots[name]
        ends = [0]
        for repeat in range(slot.repeats):
            next_ends = []
            for end in ends:
                for n_words in range(1, len(rest) - end + 1):
                    phrase = rest[end : end + n_words]
                    free = typed and slot.typed is not None and n_words == 1 and slot.typed(phrase[0])
                    if phrase in self._fillers[name] or free:
                        whole = end + n_words == len(rest)
                        yield end + n_words, whole and repeat + 1 < slot.repeats
                        next_ends.append(end + n_words)
                    if end + n_words == len(rest) and phrase in self._beginnings[name]:
                        yield 0, True
            ends = next_ends
