"""One conversation's ear: when an utterance starts and ends, and what it was.

Ends an utterance sooner, the more certain it is that nothing will follow. Knows nothing about answers.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from duplex_server.media.pcm import SILENCE_DB, level_db
from duplex_server.models.embedded.grammar import STOP_INTENTS, Command, Intent, parse
from duplex_server.models.embedded.recognizer import Channel, Recognition, Recognizer
from duplex_server.types import Pcm, Unit

__all__ = ["UNIT_MS", "Ear", "Utterance"]

UNIT_MS = 40
"""The model's unit: two session ticks, so that a decision waits 20 ms for its unit on average."""

_SPEECH, _SILENCE = 0.5, 0.35
"""Probabilities that start speech and end it. Source: Silero VAD's defaults."""
_ONSET_UNITS, _ONSET_WINDOW = 2, 3
"""Units above _SPEECH, of the newest, that make an onset: one alone is a click."""
_PRE_ROLL_UNITS = 400 // UNIT_MS
"""Sound from before the onset was noticed: soft first sounds last up to 200 ms, and the decoder wants some silence."""
_CLOSED_UNITS = 80 // UNIT_MS
"""Silence that ends a command which nothing can follow: the stops within a word are shorter."""
_OPEN_UNITS = 200 // UNIT_MS
"""Silence that ends a command which may go on, as in "count to twenty … one"."""
_UNKNOWN_UNITS = 520 // UNIT_MS
"""Silence that ends anything else: longer than the pauses within a sentence."""
_STABLE_UNITS = 2
"""Units for which a partial result must stay the same to be acted upon: 80 ms."""
_LONGEST_UNITS = 7_000 // UNIT_MS
"""Longer speech is no command: the longest takes four seconds. Its decoders are better lent to others."""
_STOP_UNITS = 200 // UNIT_MS
"""Voice that a request to be silent has at least: "stop" has 240 ms of it. The model's own echo, of which the server
lets a few windows pass for voice, makes words of its own."""
_STOP_SHARE = 0.6
"""Of the utterance's length, so much must be voice for it to be a request to be silent."""
_SHOWN_CONFIDENCE = -1.0
"""Partial results below this are not shown: most are wrong."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the user said, from onset to endpoint."""

    text: str
    """Recognised words; empty if they were rejected."""
    command: Command | None
    confidence: float
    """At least 0 if there is a command; the higher, the surer."""
    voiced_s: float
    """How much of it was voice."""
    share_voiced: float
    """The share of its length, up to the last voice, that was voice."""
    level_db: float
    """Level of its loudest unit of voice, dBFS. Of a faint voice only loud parts are found, so a mean says little."""


class Ear:
    """Hears one conversation. Used by one thread; :meth:`close` gives the decoders back."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._channel = Channel()
        self._pre_roll: deque[Pcm] = deque(maxlen=_PRE_ROLL_UNITS)  # when full the oldest goes
        self._recent: deque[bool] = deque(maxlen=_ONSET_WINDOW)  # the same
        self._recognition: Recognition | None = None
        self._overlong = False
        self.quiet_units = 1_000_000
        """Units since the last that may have held speech."""
        self._begin_count()

    def _begin_count(self) -> None:
        self._n_units = self._voiced_units = self._voiced_span_units = 0
        self._peak_db = SILENCE_DB
        self._partial = ""
        self._stable_units = 0
        self._stop_units = 0
        self.caption: str | None = None
        """A partial result worth showing that is new since the unit before."""
        self.stop_heard = False
        """Whether the utterance under way has become a request to be silent."""

    @property
    def speaking(self) -> bool:
        """Whether the user is in an utterance."""
        return self._recognition is not None or self._overlong

    @property
    def level_db(self) -> float:
        """Level of the loudest unit of voice in the utterance under way, dBFS."""
        return self._peak_db

    def hear(self, unit: Unit) -> Utterance | None:
        """Take the next unit; returns the utterance that ended with it, if one did."""
        voiced = unit.speech_probability >= (_SILENCE if self.speaking else _SPEECH)
        self.quiet_units = 0 if voiced else self.quiet_units + 1
        self._recent.append(unit.speech_probability > _SPEECH)
        self._pre_roll.append(unit.audio)
        self.caption = None
        if self._overlong:
            return self._wait_for_pause(unit, voiced)
        if self._recognition is None:
            if sum(self._recent) < _ONSET_UNITS:
                return None
            self._begin_count()
            self._recognition = self._recognizer.begin(self._channel)
            for pcm in self._pre_roll:
                self._recognition.feed(pcm)
            self._voiced_units = sum(self._recent) - 1
        else:
            self._recognition.feed(unit.audio)
        self._count(unit, voiced)
        if self._n_units >= _LONGEST_UNITS:
            self._recognition.abandon()
            self._recognition = None
            self._overlong = True
            return None
        self._read_partial()
        return self.finish() if self._is_over() else None

    def finish(self) -> Utterance | None:
        """End the utterance under way, if there is one, and return it."""
        if self._recognition is None:
            return None
        hypothesis = self._recognition.finish()
        self._recognition = None
        command = parse(hypothesis.text).command if hypothesis.confidence >= 0 else None
        if command is not None and command.intent is Intent.OTHER:
            command = None
        text = hypothesis.text if command is not None else ""
        return self._conclude(text, command, hypothesis.confidence)

    def close(self) -> None:
        """Give the decoders back."""
        if self._recognition is not None:
            self._recognition.abandon()
            self._recognition = None

    def _count(self, unit: Unit, voiced: bool) -> None:
        self._n_units += 1
        if voiced:
            self._voiced_units += 1
            self._voiced_span_units = self._n_units
            self._peak_db = max(self._peak_db, level_db(unit.audio))

    def _read_partial(self) -> None:
        assert self._recognition is not None, "an utterance is under way"
        partial = self._recognition.partial()
        self._stable_units = self._stable_units + 1 if partial == self._partial else 0
        changed, self._partial = partial != self._partial, partial
        command = parse(partial).command
        stops = command is not None and command.intent in STOP_INTENTS
        if not stops and not (changed and " " in partial):
            self._stop_units = 0
            return
        confidence = self._recognition.judge().confidence
        said = self._voiced_units >= max(_STOP_UNITS, _STOP_SHARE * self._n_units)
        self._stop_units = self._stop_units + 1 if stops and said and confidence >= 0 else 0
        self.stop_heard = self.stop_heard or self._stop_units > _STABLE_UNITS
        if changed and confidence >= _SHOWN_CONFIDENCE:
            self.caption = partial

    def _is_over(self) -> bool:
        if self.quiet_units >= _UNKNOWN_UNITS:
            return True
        if self.quiet_units < _CLOSED_UNITS or self._stable_units < _STABLE_UNITS:
            return False
        parsed = parse(self._partial)
        if parsed.command is None or (parsed.open and self.quiet_units < _OPEN_UNITS):
            return False
        assert self._recognition is not None, "an utterance is under way"
        return self._recognition.judge().confidence >= 0

    def _wait_for_pause(self, unit: Unit, voiced: bool) -> Utterance | None:
        self._count(unit, voiced)
        if self.quiet_units < _UNKNOWN_UNITS:
            return None
        self._overlong = False
        return self._conclude("", None, -math.inf)

    def _conclude(self, text: str, command: Command | None, confidence: float) -> Utterance:
        self._pre_roll.clear()
        self._recent.clear()
        self.stop_heard = False
        voiced = max(self._voiced_units, 1)
        return Utterance(
            text=text,
            command=command,
            confidence=confidence,
            voiced_s=self._voiced_units * UNIT_MS / 1000,
            share_voiced=min(1.0, voiced / max(self._voiced_span_units, 1)),
            level_db=self._peak_db,
        )
