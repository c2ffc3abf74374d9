"""The sentences that the embedded model understands: one table for the recogniser, the parser, the help and the page.

Knows nothing about sound or about what is done on a command.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass

from duplex_server.models.embedded.pattern import Match, Slot, Tree, expand
from duplex_server.models.embedded.stories import TOPICS

__all__ = [
    "FORMS",
    "SLOTS",
    "STOP_INTENTS",
    "Command",
    "Form",
    "Intent",
    "Parse",
    "examples",
    "jsgf",
    "number",
    "parse",
    "parse_typed",
    "spoken_examples",
    "vocabulary",
]


class Intent(enum.Enum):
    """What a sentence asks for."""

    GREETING = enum.auto()
    HOW_ARE_YOU = enum.auto()
    TIME = enum.auto()
    DATE = enum.auto()
    COUNT_TO = enum.auto()
    COUNT_FROM_TO = enum.auto()
    COUNT_DOWN = enum.auto()
    SPELL = enum.auto()
    REPEAT_AFTER_ME = enum.auto()
    SAY_AGAIN = enum.auto()
    ADD = enum.auto()
    SUBTRACT = enum.auto()
    MULTIPLY = enum.auto()
    STORY = enum.auto()
    JOKE = enum.auto()
    LOOK = enum.auto()
    COLOUR = enum.auto()
    PEOPLE = enum.auto()
    LIGHT = enum.auto()
    WATCH = enum.auto()
    STOP_WATCHING = enum.auto()
    MY_NAME_IS = enum.auto()
    MY_NAME = enum.auto()
    SPEAK_LANGUAGE = enum.auto()
    LOUDER = enum.auto()
    SOFTER = enum.auto()
    FASTER = enum.auto()
    SLOWER = enum.auto()
    STOP = enum.auto()
    CONTINUE = enum.auto()
    HELP = enum.auto()
    WHO_ARE_YOU = enum.auto()
    THANKS = enum.auto()
    GOODBYE = enum.auto()
    OTHER = enum.auto()
    """Not understood: short sentences that would be taken for commands if the recogniser did not know them."""
    BACKCHANNEL = enum.auto()
    """Says only "I am listening", or nothing at all: never answered, never an interruption."""


STOP_INTENTS = frozenset({Intent.STOP})
"""What ends the model's speech as soon as a partial result says it, before the sentence is over."""


@dataclass(frozen=True, slots=True)
class Command:
    """A sentence, understood."""

    intent: Intent
    numbers: tuple[int, ...] = ()
    """The numbers in it, in their order; how many is fixed by the intent."""
    words: tuple[str, ...] = ()
    """What fills the other slots: a word to spell, a name, a topic …"""


@dataclass(frozen=True, slots=True)
class Parse:
    """What a row of words is, complete or not."""

    command: Command | None
    open: bool
    """Whether a longer sentence that begins with these words means something else, so that it pays to wait."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way, or several, to say one thing."""

    intent: Intent
    pattern: str
    example: str = ""
    """A sentence for people to try; empty: not worth showing."""
    spoken: bool = False
    """Whether the example is part of what the model says when asked what it can do."""
    request: bool = True
    """Whether "please", "can you" and the like may stand around it."""
    typed: str = ""
    """A pattern understood only when typed: too short, or too free, to be recognised by ear."""


_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def _number_phrases() -> dict[tuple[str, ...], int]:
    phrases: dict[tuple[str, ...], int] = {(word,): n for n, word in enumerate(f"zero {_ONES} {_TEENS}".split())}
    for n, tens in enumerate(_TENS.split(), start=2):
        phrases[tens,] = 10 * n
        phrases |= {(tens, ones): 10 * n + m for m, ones in enumerate(_ONES.split(), start=1)}
    phrases["one", "hundred"] = phrases["a", "hundred"] = 100
    return phrases


_NUMBERS = _number_phrases()

NAMES = (
    "alice anna alex ben bob chen daniel david eva george henry jack james john julia kevin laura leo linda lisa "
    "lucy maria mary max michael ming oliver paul peter robert sam sarah sophie susan thomas tom wang wei yang"
)
"""Names that can be recognised; typed ones may be any."""

WORDS = (
    "apple banana beautiful beijing butterfly camera chocolate coffee computer dinosaur elephant flower garden happy "
    "house knowledge london mississippi morning mountain music orange purple rhythm river robot shanghai spaghetti "
    "summer sunshine tomorrow umbrella university water window winter yellow"
)
"""Words that can be recognised one by one, to be spelt or repeated; typed ones may be any."""


_TYPED_WORD = re.compile(r"[^\W_]+(?:['\-][^\W_]+)*")


def _any_word(word: str) -> bool:
    return len(word) <= 40 and _TYPED_WORD.fullmatch(word) is not None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word[:6]) <= 1000


def _single(words: str) -> tuple[tuple[str, ...], ...]:
    return tuple((word,) for word in words.split())


SLOTS = (
    Slot("number", tuple(_NUMBERS), typed=_is_number),
    Slot("name", _single(NAMES), typed=_any_word),
    Slot("word", _single(WORDS), typed=_any_word),
    Slot("phrase", _single(WORDS), repeats=4, typed=_any_word),
    Slot("topic", tuple(tuple(topic.split()) for topic in TOPICS)),
    Slot("tongue", _single("english chinese mandarin")),
)

FORMS = (
    Form(Intent.HELP, "what can you do | what can i say | help [me]", "What can you do?", request=False),
    Form(
        Intent.TIME,
        "(what is | what's) the time | what time is it [now]",
        "What time is it?",
        spoken=True,
        request=False,
    ),
    Form(Intent.TIME, "tell me the time"),
    Form(
        Intent.DATE,
        "what day is it [today] | (what is | what's) (the date [today] | today's date)",
        "What is the date?",
        request=False,
    ),
    Form(Intent.COUNT_TO, "count [up] to <number>", "Count to ten.", spoken=True),
    Form(Intent.COUNT_FROM_TO, "count from <number> to <number>", "Count from five to fifteen."),
    Form(Intent.COUNT_DOWN, "count down from <number>", "Count down from ten."),
    Form(Intent.SPELL, "spell <word>", "Spell banana.", spoken=True),
    Form(Intent.REPEAT_AFTER_ME, "repeat after me <phrase>", "Repeat after me: happy purple elephant."),
    Form(Intent.SAY_AGAIN, "say that again | repeat that", "Say that again."),
    Form(Intent.SAY_AGAIN, "what did you say", request=False, typed="pardon | again"),
    Form(
        Intent.ADD, "(what is | what's) <number> plus <number>", "What is seven plus eight?", spoken=True, request=False
    ),
    Form(Intent.SUBTRACT, "(what is | what's) <number> minus <number>", "What is twenty minus six?", request=False),
    Form(Intent.MULTIPLY, "(what is | what's) <number> times <number>", "What is six times seven?", request=False),
    Form(
        Intent.STORY,
        "(tell | read) me a [long] story | tell me another story | tell me a story about <topic>",
        "Tell me a story.",
        spoken=True,
        typed="story",
    ),
    Form(Intent.JOKE, "tell me (a | another) joke", "Tell me a joke.", typed="joke"),
    Form(Intent.LOOK, "what (do | can) you see", "What do you see?", spoken=True, request=False),
    Form(Intent.LOOK, "look at this | describe the picture"),
    Form(
        Intent.COLOUR,
        "what color is (this | it) | what color do you see",
        "What color is this?",
        spoken=True,
        request=False,
    ),
    Form(
        Intent.PEOPLE,
        "how many (people | faces) (do | can) you see | how many people are there | is anybody there",
        "How many people do you see?",
        request=False,
    ),
    Form(Intent.LIGHT, "is it (dark | bright) [in here]", "Is it dark?", request=False),
    Form(
        Intent.WATCH, "start watching | keep watching | watch the room", "Start watching.", spoken=True, typed="watch"
    ),
    Form(Intent.STOP_WATCHING, "stop watching", "Stop watching."),
    Form(Intent.MY_NAME_IS, "my name is <name>", "My name is Anna.", request=False, typed="(i am | i'm) <name>"),
    Form(Intent.MY_NAME_IS, "call me <name>"),
    Form(
        Intent.MY_NAME,
        "(what is | what's) my name | do you know my name",
        "What is my name?",
        request=False,
    ),
    Form(Intent.SPEAK_LANGUAGE, "speak <tongue>", "Speak Chinese.", spoken=True, typed="switch to <tongue> | <tongue>"),
    Form(Intent.LOUDER, "[speak] louder | speak up", "Speak louder."),
    Form(Intent.SOFTER, "[speak] softer | [speak] quieter", "Speak softer."),
    Form(Intent.FASTER, "[speak] faster", "Speak faster."),
    Form(Intent.SLOWER, "[speak] slower | slow down", "Speak slower."),
    Form(
        Intent.STOP,
        "stop [talking] | stop it | be quiet | (that's | that is) enough | wait [a minute] | hold on",
        "Stop.",
        spoken=True,
    ),
    Form(Intent.CONTINUE, "continue | go on | carry on | keep going", "Continue.", spoken=True),
    Form(Intent.WHO_ARE_YOU, "who are you | (what is | what's) your name", "Who are you?", request=False),
    Form(
        Intent.GREETING,
        "hello [there] | hi there | good (morning | afternoon | evening)",
        "Hello.",
        request=False,
        typed="hi | hey",
    ),
    Form(Intent.HOW_ARE_YOU, "how are you [today]", "How are you?", request=False),
    Form(Intent.THANKS, "thank you [very much] | thanks [a lot]", "Thank you.", request=False),
    Form(Intent.GOODBYE, "goodbye | bye bye | see you later", "Goodbye.", spoken=True, request=False, typed="bye"),
    Form(
        Intent.OTHER,
        "start | what | why | where | who | when | not now | later | maybe | of course | come here | how old are you | "
        "what do you think | where do you live | let's go home | i don't know | i am (tired | busy | fine) | "
        "that was (funny | good | nice) | i like it | give me that",
        request=False,
    ),
    Form(
        Intent.BACKCHANNEL,
        "mhm | uh-huh | yeah | yes | no | okay | right | all right | sure | i see | oh | hmm | really | wow | please",
        request=False,
        typed="ok | good | nice | cool",
    ),
)
"""Everything the model understands. The order is that of the help."""

_POLITE = "please | can you | could you"

_REWRITES = {"colour": "color", "grey": "gray", "mm-hm": "mhm", "whats": "what's", "good-bye": "goodbye"}
_SIGNS = {"+": " plus ", "*": " times ", "×": " times "}

MAX_TYPED_CHARACTERS = 200
"""Of a typed text, no more is read: the longest command is far shorter, and what is typed is not to be trusted."""


@functools.cache
def _tree(typed: bool) -> Tree[Intent]:
    tree: Tree[Intent] = Tree(SLOTS)
    for form in FORMS:
        patterns = [form.pattern, form.typed] if typed and form.typed else [form.pattern]
        for pattern in patterns:
            tree.add(f"[{_POLITE}] ({pattern})" if form.request else pattern, form.intent)
    return tree


def _without_please(words: list[str]) -> list[str]:
    """Drop a "please" at the end, which changes nothing; alone it is a sentence."""
    return words[:-1] if len(words) > 1 and words[-1] == "please" else words


def parse(text: str) -> Parse:
    """Understand a recognised sentence: words of :func:`vocabulary` with single spaces between them."""
    match, more = _tree(typed=False).match(_without_please(text.split()))
    return Parse(None if match is None else _command(match), more)


def parse_typed(text: str) -> Command | None:
    """Understand a typed sentence. Digits, signs, capitals and punctuation may be in it, and slots take any word."""
    lowered = text[:MAX_TYPED_CHARACTERS].lower().replace("’", "'")
    lowered = re.sub(r"(?<=\d)\s*[-−]\s*(?=\d)", " minus ", lowered)
    for sign, word in _SIGNS.items():
        lowered = lowered.replace(sign, word)
    words = [_REWRITES.get(word, word) for word in _TYPED_WORD.findall(lowered)]
    match, _ = _tree(typed=True).match(_without_please(words), typed=True)
    return None if match is None else _command(match)


def _command(match: Match[Intent]) -> Command:
    numbers = tuple(number(words) for name, words in match.slots if name == "number")
    others = tuple(" ".join(words) for name, words in match.slots if name != "number")
    return Command(match.label, numbers, others)


def number(words: tuple[str, ...]) -> int:
    """Read a number written in words, or one word of digits.

    Raises:
        KeyError: it is neither.
    """
    return int(words[0]) if _is_number(words[0]) else _NUMBERS[words]


def vocabulary() -> frozenset[str]:
    """Collect every word that can be recognised."""
    sentences = (sentence for form in FORMS for sentence in expand(f"{form.pattern} | {_POLITE}"))
    literal = {word for sentence in sentences for word in sentence if not word.startswith("<")}
    return frozenset(literal.union(word for slot in SLOTS for phrase in slot.phrases for word in phrase))


def jsgf() -> str:
    """Write the grammar for the recogniser, in the Java Speech Grammar Format."""
    kinds: dict[str, list[str]] = {"request": [], "question": [], "aside": []}
    for form in FORMS:
        if form.intent in (Intent.BACKCHANNEL, Intent.OTHER):
            kinds["aside"].append(form.pattern)
        else:
            kinds["request" if form.request else "question"].append(form.pattern)
    rules = "".join(f"<{kind}> = {' | '.join(patterns)};\n" for kind, patterns in kinds.items())
    slots = "".join(slot.jsgf() for slot in SLOTS)
    return (
        "#JSGF V1.0;\ngrammar commands;\n"
        f"{slots}{rules}<polite> = {_POLITE};\n"
        "public <sentence> = [<polite>] <request> [please] | <question> [please] | <aside>;\n"
    )


def examples() -> tuple[str, ...]:
    """List a sentence to try for each thing the model can do."""
    return tuple(form.example for form in FORMS if form.example)


def spoken_examples() -> tuple[str, ...]:
    """List the examples that the model names when asked what it can do."""
    return tuple(form.example for form in FORMS if form.example and form.spoken)
