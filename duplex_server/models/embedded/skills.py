"""What is answered to a command: words and settings, without sound.

Pure: command, memory and the time go in, a reply and the new memory come out. Knows nothing about turns or rows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime

from duplex_server.models.embedded import phrases
from duplex_server.models.embedded.grammar import Command, Intent, spoken_examples
from duplex_server.models.embedded.sight import Look, describe
from duplex_server.models.embedded.stories import JOKES, STORIES, TOPICS, sentences

__all__ = ["After", "Memory", "Reply", "answer", "greeting", "misunderstood", "said_again"]

_RATE_STEP, _SLOWEST, _FASTEST = 1.25, 0.5, 1.9
_VOLUME_STEP, _SOFTEST, _LOUDEST = 1.6, 0.15, 2.6
"""Each step is about 4 dB: clearly heard, and five of them cover what is useful."""
_NUMBERS_A_SENTENCE = 5
_MOST_NUMBERS = 200
"""Counting further than a listener will."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one conversation has settled so far."""

    language: str = "en"
    """``"en"`` or ``"zh"``: what is spoken. Commands are English always."""
    rate: float = 1.0
    volume: float = 1.0
    user_name: str = ""
    watching: bool = False
    n_stories: int = 0
    n_jokes: int = 0
    last_said: tuple[str, ...] = ()
    """Sentences of the last reply, to be said again."""


class After(enum.Enum):
    """What follows a reply's sentences."""

    NOTHING = enum.auto()
    RESUME = enum.auto()
    """What was interrupted goes on; if nothing was, :attr:`Reply.nothing_to_resume` is said."""
    GOODBYE = enum.auto()
    """The session ends."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say, and what to remember."""

    sentences: tuple[str, ...]
    memory: Memory
    after: After = After.NOTHING
    nothing_to_resume: str = ""
    quiet: bool = False
    """The sentences are dropped if the command has just silenced the model: its silence says enough."""


def answer(command: Command, memory: Memory, *, look: Look | None, now: datetime) -> Reply:
    """Answer a command.

    Args:
        command: what the user asked for.
        memory: what the conversation has settled.
        look: what the camera shows, if there is one.
        now: local time.
    """
    words = phrases.of(memory.language)
    match command.intent:
        case Intent.COUNT_TO | Intent.COUNT_FROM_TO | Intent.COUNT_DOWN:
            return _reply(memory, *_count(command, memory.language))
        case Intent.ADD | Intent.SUBTRACT | Intent.MULTIPLY:
            return _reply(memory, words.sum(command.intent.name.lower(), *command.numbers))
        case Intent.SPELL:
            return _reply(memory, words.spelling(command.words[0]))
        case Intent.REPEAT_AFTER_ME:
            return _reply(memory, command.words[0].capitalize() + words.stop)
        case Intent.SAY_AGAIN:
            return said_again(memory)
        case Intent.STORY:
            return _story(command, memory)
        case Intent.JOKE:
            jokes = JOKES[memory.language]
            told = replace(memory, n_jokes=memory.n_jokes + 1)
            return _reply(told, *sentences(jokes[memory.n_jokes % len(jokes)]))
        case Intent.LOOK | Intent.COLOUR | Intent.PEOPLE | Intent.LIGHT:
            return _reply(memory, *_seen(command.intent, memory.language, look))
        case Intent.STOP:
            return replace(_reply(memory, words.okay), quiet=True)
        case Intent.CONTINUE:
            return Reply((), memory, After.RESUME, nothing_to_resume=words.nothing_to_continue)
        case Intent.GOODBYE:
            return replace(_reply(memory, words.goodbye(memory.user_name)), after=After.GOODBYE)
        case Intent.LOUDER | Intent.SOFTER | Intent.FASTER | Intent.SLOWER | Intent.SPEAK_LANGUAGE:
            return _setting(command, memory)
        case Intent.WATCH | Intent.STOP_WATCHING | Intent.MY_NAME_IS:
            return _remembering(command, memory, look)
        case Intent.BACKCHANNEL:
            return Reply((), memory)
        case _:
            return _small_talk(command.intent, memory, now)


def greeting(memory: Memory) -> Reply:
    """Begin the conversation."""
    return _reply(memory, *phrases.of(memory.language).greeting)


def misunderstood(memory: Memory) -> Reply:
    """Say that something was not understood; what was said last stays what "say that again" repeats."""
    return Reply(sentences(phrases.of(memory.language).misunderstood), memory)


def said_again(memory: Memory) -> Reply:
    """Repeat the last answer."""
    return Reply(memory.last_said or (phrases.of(memory.language).nothing_said,), memory)


def _reply(memory: Memory, *said: str) -> Reply:
    return Reply(said, replace(memory, last_said=said))


def _count(command: Command, language: str) -> tuple[str, ...]:
    first, last = {
        Intent.COUNT_TO: (1, command.numbers[0]),
        Intent.COUNT_FROM_TO: command.numbers[:2],
        Intent.COUNT_DOWN: (command.numbers[0], 0),
    }[command.intent]
    step = 1 if last >= first else -1
    numbers = [str(n) for n in range(first, last + step, step)][:_MOST_NUMBERS]
    comma, stop = ("，", "。") if language == "zh" else (", ", ".")
    chunks = [numbers[at : at + _NUMBERS_A_SENTENCE] for at in range(0, len(numbers), _NUMBERS_A_SENTENCE)]
    return tuple(comma.join(chunk) + stop for chunk in chunks)


def _story(command: Command, memory: Memory) -> Reply:
    stories = STORIES[memory.language]
    number = TOPICS.index(command.words[0]) if command.words else memory.n_stories % len(stories)
    return _reply(replace(memory, n_stories=number + 1), *sentences(stories[number]))


def _seen(intent: Intent, language: str, look: Look | None) -> tuple[str, ...]:
    words = phrases.of(language)
    if look is None:
        return (words.no_picture,)
    if intent is Intent.LOOK or look.covered:
        return sentences(describe(look, language))
    if intent is Intent.COLOUR:
        return (words.colour(look.colour, look.colour_share),)
    if intent is Intent.LIGHT:
        return (words.light(look.light),)
    return (words.cannot_count,) if look.faces is None else (words.people(look.faces),)


def _setting(command: Command, memory: Memory) -> Reply:
    if command.intent is Intent.SPEAK_LANGUAGE:
        language = "en" if command.words[0] == "english" else "zh"
        return _reply(replace(memory, language=language), phrases.of(language).language_chosen)
    step, at_limit = 1.0, False
    changed = memory
    if command.intent in (Intent.FASTER, Intent.SLOWER):
        step = _RATE_STEP if command.intent is Intent.FASTER else 1 / _RATE_STEP
        changed = replace(memory, rate=min(max(memory.rate * step, _SLOWEST), _FASTEST))
        at_limit = changed.rate == memory.rate
    else:
        step = _VOLUME_STEP if command.intent is Intent.LOUDER else 1 / _VOLUME_STEP
        changed = replace(memory, volume=min(max(memory.volume * step, _SOFTEST), _LOUDEST))
        at_limit = changed.volume == memory.volume
    words = phrases.of(memory.language)
    said = words.at_limit if at_limit else words.changed(command.intent.name.lower())
    # A story whose volume was changed goes on.
    return Reply((said,), changed, After.RESUME)


def _remembering(command: Command, memory: Memory, look: Look | None) -> Reply:
    words = phrases.of(memory.language)
    if command.intent is Intent.MY_NAME_IS:
        name = command.words[0].title()
        return _reply(replace(memory, user_name=name), words.nice_to_meet(name))
    watching = command.intent is Intent.WATCH
    changed = replace(memory, watching=watching)
    if not watching:
        return _reply(changed, words.watching_stopped)
    return _reply(changed, words.watching if look is not None else words.watching_blind)


def _small_talk(intent: Intent, memory: Memory, now: datetime) -> Reply:
    words = phrases.of(memory.language)
    match intent:
        case Intent.TIME:
            return _reply(memory, words.time(now))
        case Intent.DATE:
            return _reply(memory, words.date(now))
        case Intent.HELP:
            return _reply(memory, *words.help(spoken_examples()))
        case Intent.GREETING:
            return _reply(memory, words.hello(memory.user_name))
        case Intent.HOW_ARE_YOU:
            return _reply(memory, *sentences(words.how_are_you))
        case Intent.WHO_ARE_YOU:
            return _reply(memory, *sentences(words.who_are_you))
        case Intent.THANKS:
            return _reply(memory, words.welcome)
        case Intent.MY_NAME:
            return _reply(memory, words.your_name(memory.user_name))
        case _:
            raise AssertionError(f"no answer to {intent}")
