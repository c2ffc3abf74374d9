"""One turn of speech: sentences made into sound one by one, cut into short pieces, with the place of every word.

Knows nothing about who may speak, or why something is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from duplex_server.models.embedded.voice import Utterance, Voice
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["PIECE_SAMPLES", "Speech"]

PIECE_SAMPLES = OUTPUT_RATE_HZ // 10
"""Longest piece: 100 ms, so that captions and a stop are exact to the syllable."""
_PAUSE_SAMPLES = OUTPUT_RATE_HZ // 4
"""Silence between sentences, 250 ms: heard as a full stop, too short to be taken for the end."""


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A sentence that was made into sound."""

    sentence: str
    utterance: Utterance
    start_samples: int
    """Where it starts in the turn."""
    n_samples: int
    """With the pause behind it."""


class Speech:
    """One turn. Used by one thread."""

    def __init__(
        self, turn: int, sentences: Sequence[str], *, language: str, resumable: bool, credit_samples: int
    ) -> None:
        """Plan a turn.

        Args:
            turn: its number.
            sentences: what is said, each made into sound when the one before is nearly over.
            language: of the sentences; those in plain ASCII letters are read as English.
            resumable: whether it is worth going on with after an interruption.
            credit_samples: how much may be emitted at once; see :meth:`credit`.
        """
        self.turn = turn
        self.resumable = resumable
        self.emitted_samples = 0
        self._credit_samples = credit_samples
        self._language = language
        self._waiting = list(sentences)
        self._spoken: list[_Spoken] = []
        self._pcm: Pcm = np.zeros(0, np.float32)  # of the sentence being emitted
        self._texts: list[tuple[int, str]] = []  # what of its text starts where, in samples of the turn
        self._end_samples = 0  # of everything made into sound

    @property
    def finished(self) -> bool:
        """Whether everything has been emitted."""
        return not self._waiting and not self._texts and self.emitted_samples >= self._end_samples

    def credit(self, n_samples: int) -> None:
        """Allow so much more to be emitted: time has passed."""
        self._credit_samples += n_samples

    def emit(self, voice: Voice, *, rate: float, volume: float) -> Iterator[tuple[Pcm, str]]:
        """Yield the next pieces with the text that starts in each: float32 ``[<= PIECE_SAMPLES]``, 24 kHz.

        Args:
            voice: makes the sound; blocks a few milliseconds at the start of each sentence.
            rate: speaking rate, 1 is normal.
            volume: 1 is normal.

        Raises:
            ModelError: the voice failed.
        """
        while self._credit_samples > 0 and not self.finished:
            at = len(self._pcm) - (self._end_samples - self.emitted_samples)
            if at >= len(self._pcm) and not self._texts:
                self._render(voice, rate, volume)
                continue
            piece = self._pcm[at : at + min(self._credit_samples, PIECE_SAMPLES)]
            self.emitted_samples += len(piece)
            self._credit_samples -= len(piece)
            due = [text for start, text in self._texts if start < self.emitted_samples or not len(piece)]
            del self._texts[: len(due)]
            yield piece, "".join(due)

    def rest(self, played_samples: int) -> tuple[str, ...]:
        """Return what has not been heard after ``played_samples`` of the turn, from the word that was cut on."""
        for number, spoken in enumerate(self._spoken):
            if played_samples >= spoken.start_samples + len(spoken.utterance.pcm):
                continue
            heard = [w for w in spoken.utterance.words if spoken.start_samples + w.start_samples <= played_samples]
            cut = spoken.sentence[heard[-1].text_start :] if len(heard) > 1 else spoken.sentence
            return (cut, *(later.sentence for later in self._spoken[number + 1 :]), *self._waiting)
        return tuple(self._waiting)

    def _render(self, voice: Voice, rate: float, volume: float) -> None:
        sentence = self._waiting.pop(0)
        english = sentence.isascii() and any(letter.isalpha() for letter in sentence)
        utterance = voice.speak(sentence, language="en" if english else self._language, rate=rate, volume=volume)
        pause = np.zeros(_PAUSE_SAMPLES if self._waiting else 0, np.float32)
        self._pcm = np.concatenate([utterance.pcm, pause])
        start = self._end_samples
        self._end_samples += len(self._pcm)
        glue = " " if self._spoken and english else ""
        # The text before the first word belongs to it, the text behind a word too.
        cuts = [0, *(word.text_start for word in utterance.words[1:]), len(sentence)]
        starts = [0, *(word.start_samples for word in utterance.words[1:])]
        self._texts = [
            (start + at, (glue if number == 0 else "") + sentence[cuts[number] : cuts[number + 1]])
            for number, at in enumerate(starts)
        ]
        self._spoken.append(_Spoken(sentence, utterance, start, len(self._pcm)))
