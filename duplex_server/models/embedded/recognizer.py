"""Command recognition: pocketsphinx with the grammar, and a free phone loop beside it that says what to reject.

A decoder pair is lent to one utterance at a time, so memory follows how many people speak at once and not how many
are connected. Knows nothing about when an utterance starts and ends.
"""

from __future__ import annotations

import functools
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pocketsphinx import Config, Decoder, get_model_path

from duplex_server.errors import ModelLoadError
from duplex_server.models.embedded import grammar
from duplex_server.types import INPUT_RATE_HZ, Pcm

__all__ = ["Channel", "Hypothesis", "Recognition", "Recognizer", "count_phones", "pronunciations"]

_EXTRA_PRONUNCIATIONS = {
    "mhm": ("M HH M", "AH M HH M", "M HH AH M"),
    "uh-huh": ("AH HH AH", "AH HH AO"),
}
"""Sounds that the dictionary in the wheel spells otherwise, or not at all. Phones are those of CMUdict."""

_SEARCH: dict[str, object] = {
    # The second pass over the lattice costs 20 ms at the end of an utterance and mends little in a grammar.
    "bestpath": False,
    # Two Gaussians instead of four for each senone: half the time, no error more.
    "topn": 2,
    # Wider than the defaults (1e-48, 7e-29, 1e-48), with which the right sentence is lost in the silence before it. A
    # word beam of 1e-48 still loses it for one length of that silence in eight; this one costs 5 % more time.
    "beam": 1e-60,
    "wbeam": 1e-60,
    "pbeam": 1e-60,
}
_PHONE_SEARCH: dict[str, object] = {"bestpath": False, "topn": 2, "lw": 2.0, "pip": 0.3}

_USUAL_MEAN = (50.0, -7.2, 0.2, 5.2, -6.5, -2.5, -3.6, -5.6, -4.0, -2.1, 0.8, -1.9, 0.0)
"""Cepstral mean to start a conversation with: speech at −23 dBFS over quiet noise, measured over many voices."""
_PRIOR_FRAMES = 500
"""Weight of the mean that is set, in frames, against those that are heard. Source: CMN_WIN of pocketsphinx's cmn.h."""
_MOST_FRAMES = 300
"""Frames that a mean is taken over; from 800 on, the prior among them, pocketsphinx forgets."""
_SETTLED_SAMPLES = INPUT_RATE_HZ * 9 // 10
"""Sound after which the mean is checked: 0.4 s from before the utterance, and the first half second of it."""
_STRANGE = 6.0
"""Difference of the first cepstral mean, which follows loudness and noise, from which on recognition starts again with
the mean that was found. Between sentences of one voice it varies by 2.4; 15 dB of white noise move it by 14."""
_TRUST, _LEARNING = 0.7, 0.5
"""Weight of a mean found in one second, and in a whole utterance, against the one known before."""

_FLOOR_RMS = 10 ** (-66 / 20)
"""Noise laid under the input: the acoustic model has never heard digital silence, and takes it for anything."""
_FLOOR_SAMPLES = INPUT_RATE_HZ

_IDLE_PAIRS = 4
"""Decoder pairs kept when nobody speaks, 7 MB each; making one takes 20 ms."""

_RATIO_WEIGHT, _EDIT_WEIGHT, _OUTSIDE_WEIGHT, _LENGTH_WEIGHT, _BIAS = 1.1, 3.4, 6.4, 0.27, 9.6
"""A sentence is believed if the weighted sum in :func:`_judge` is at least 0.

A logistic regression over 304 commands, 333 other sentences and 90 backchannels in 13 made-up voices, 20 to 40 dB over
noise; the bias lets 95 % of the correctly recognised commands pass, each voice judged by the others' weights. 0.1 of it
makes up for what the word beam, wider than that of the fit, takes off the ratio in the mean.
"""

_MOST_TIMES_LONGER = 2.7
"""A sentence with so many times more or fewer phones than were heard is none, however well they fit."""

_VOWELS = frozenset(("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"))
_CLASSES = tuple(
    frozenset(group.split()) for group in ("P B T D K G", "F V TH DH S Z SH ZH HH CH JH", "M N NG", "L R W Y")
)
"""Consonants that are mistaken for each other: plosives, fricatives, nasals, glides."""
_PHONES = _VOWELS.union(*_CLASSES)
"""What a free row of phones is made of, besides silence and noises."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What an utterance may have been."""

    text: str
    """Words of the grammar; not always a whole sentence of it. Empty: nothing was recognised."""
    confidence: float
    """At least 0: likely enough to act upon. Comparable between utterances."""


_NOTHING = Hypothesis("", -math.inf)


@dataclass(slots=True)
class Channel:
    """What is known of one conversation's microphone and room, from utterance to utterance."""

    cepstral_mean: tuple[float, ...] = _USUAL_MEAN


@dataclass(frozen=True, slots=True)
class _Pair:
    commands: Decoder
    phones: Decoder


@functools.cache
def pronunciations() -> dict[str, tuple[str, ...]]:
    """Collect the pronunciations of the grammar's words.

    Raises:
        ModelLoadError: the dictionary in the wheel lacks a word.
    """
    vocabulary = grammar.vocabulary()
    found: dict[str, list[str]] = {}
    with Path(get_model_path("en-us/cmudict-en-us.dict")).open(encoding="utf-8") as lines:
        for line in lines:
            spelling, phones = line.rstrip().split(" ", 1)
            word = re.sub(r"\(\d+\)$", "", spelling)
            if word in vocabulary:
                found.setdefault(word, []).append(phones.strip())
    spoken = {word: tuple(variants) for word, variants in found.items()} | _EXTRA_PRONUNCIATIONS
    missing = sorted(vocabulary - spoken.keys())
    if missing:
        raise ModelLoadError(f"The dictionary of pocketsphinx has no pronunciation for: {', '.join(missing)}.")
    return spoken


def count_phones(text: str) -> int:
    """Return how many phones a recognised text has in its words' usual pronunciations."""
    return sum(len(pronunciations()[word][0].split()) for word in text.split())


def _command_decoder() -> Decoder:
    lines = (
        f"{word}{f'({n})' if n > 1 else ''} {phones}\n"
        for word, variants in sorted(pronunciations().items())
        for n, phones in enumerate(variants, start=1)
    )
    # The decoder reads its dictionary from a file only, while it is made.
    with tempfile.NamedTemporaryFile("w", suffix=".dict", encoding="utf-8") as dictionary:
        dictionary.writelines(lines)
        dictionary.flush()
        decoder = Decoder(
            Config(hmm=get_model_path("en-us/en-us"), lm=None, dict=dictionary.name, loglevel="FATAL", **_SEARCH)
        )
    decoder.add_jsgf_string("commands", grammar.jsgf())
    decoder.activate_search("commands")
    return decoder


def _phone_decoder() -> Decoder:
    model = get_model_path("en-us/en-us-phone.lm.bin")
    return Decoder(
        Config(hmm=get_model_path("en-us/en-us"), lm=None, dict=None, allphone=model, loglevel="FATAL", **_PHONE_SEARCH)
    )


def _mean_decoder() -> Decoder:
    """Make a decoder that has next to nothing to search, for what it finds out about the sound on the way."""
    decoder = Decoder(Config(hmm=get_model_path("en-us/en-us"), lm=None, dict=None, loglevel="FATAL", topn=1))
    decoder.add_word("a", "AH", True)
    decoder.add_jsgf_string("nothing", "#JSGF V1.0;\ngrammar nothing;\npublic <nothing> = a;\n")
    decoder.activate_search("nothing")
    return decoder


def _written(mean: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4f}" for value in mean)


def _mixed(known: tuple[float, ...], found: tuple[float, ...], weight: float) -> tuple[float, ...]:
    return tuple((1 - weight) * old + weight * new for old, new in zip(known, found, strict=True))


class Recognition:
    """One utterance being recognised. Ends with :meth:`finish` or :meth:`abandon`, which give the decoders back."""

    def __init__(self, pool: Recognizer, pair: _Pair, channel: Channel) -> None:
        self._pool = pool
        self._pair: _Pair | None = pair
        self._channel = channel
        self._samples = bytearray()  # int16, all of it; an ear ends an utterance after some seconds
        self._settled = False
        self._begin(channel.cepstral_mean)

    def _begin(self, mean: tuple[float, ...]) -> None:
        assert self._pair is not None, "the recognition is over"
        for decoder in (self._pair.commands, self._pair.phones):
            decoder.reinit_feat()  # forgets the noise that it heard in another conversation
            decoder.set_cmn(_written(mean))
            decoder.start_utt()

    def feed(self, pcm: Pcm) -> None:
        """Take the next samples, float32 ``[n]``, 16 kHz. Costs about 0.1 s of CPU per second."""
        start = len(self._samples) // 2
        places = np.arange(start, start + len(pcm)) % len(self._pool.floor)
        samples = (np.clip(pcm + self._pool.floor[places], -1, 1) * 32767).astype("<i2").tobytes()
        self._samples += samples
        self._search(samples)
        if start + len(pcm) >= _SETTLED_SAMPLES:
            self._settle()

    def _search(self, samples: bytes) -> None:
        assert self._pair is not None, "the recognition is over"
        self._pair.commands.process_raw(samples, False, False)
        self._pair.phones.process_raw(samples, False, False)

    def _settle(self) -> None:
        """Start again, once, if the sound is far from what the conversation's mean expects."""
        if self._settled or not self._samples:
            return
        self._settled = True
        found, known = self._pool.mean_of(bytes(self._samples)), self._channel.cepstral_mean
        if abs(found[0] - known[0]) < _STRANGE:
            return
        assert self._pair is not None, "the recognition is over"
        self._pair.commands.end_utt()
        self._pair.phones.end_utt()
        self._begin(_mixed(known, found, _TRUST))
        self._search(bytes(self._samples))

    def partial(self) -> str:
        """Return the words so far."""
        assert self._pair is not None, "the recognition is over"
        hypothesis = self._pair.commands.hyp()
        return str(hypothesis.hypstr) if hypothesis else ""

    def judge(self) -> Hypothesis:
        """Return the words so far and how much they are to be believed; about 1 ms."""
        assert self._pair is not None, "the recognition is over"
        return _judge(self._pair)

    def finish(self) -> Hypothesis:
        """End the utterance and return what it was."""
        self._settle()
        pair = self._end()
        hypothesis = _judge(pair)
        if hypothesis.confidence >= 0:  # the mean of something else is not worth keeping
            found = self._pool.mean_of(bytes(self._samples))
            self._channel.cepstral_mean = _mixed(self._channel.cepstral_mean, found, _LEARNING)
        self._pool.take_back(pair)
        return hypothesis

    def abandon(self) -> None:
        """End the utterance without asking what it was. May be called twice, and after :meth:`finish`."""
        if self._pair is not None:
            self._pool.take_back(self._end())

    def _end(self) -> _Pair:
        assert self._pair is not None, "the recognition is over"
        pair, self._pair = self._pair, None
        pair.commands.end_utt()
        pair.phones.end_utt()
        return pair


class Recognizer:
    """Decoders for all conversations of a worker. Used by one thread.

    Raises:
        ModelLoadError: the acoustic model or the dictionary in the wheel cannot be used.
    """

    def __init__(self, warm: int = 1) -> None:
        """Args: warm: decoder pairs to make at once."""
        dice = np.random.default_rng(0)
        self.floor: Pcm = (dice.standard_normal(_FLOOR_SAMPLES) * _FLOOR_RMS).astype(np.float32)
        self._idle = [self._make() for _ in range(min(warm, _IDLE_PAIRS))]
        self._listener = _mean_decoder()

    def begin(self, channel: Channel) -> Recognition:
        """Start an utterance of a conversation."""
        return Recognition(self, self._idle.pop() if self._idle else self._make(), channel)

    def take_back(self, pair: _Pair) -> None:
        """Keep a pair for the next utterance, or let it go."""
        if len(self._idle) < _IDLE_PAIRS:
            self._idle.append(pair)

    def mean_of(self, samples: bytes) -> tuple[float, ...]:
        """Return the cepstral mean of int16 samples, of three seconds of them at most; 3 ms per second."""
        decoder = self._listener
        decoder.reinit_feat()
        decoder.set_cmn(_written(_USUAL_MEAN))
        decoder.start_utt()
        decoder.process_raw(samples[: 2 * _MOST_FRAMES * INPUT_RATE_HZ // 100], False, False)
        n_frames = max(decoder.n_frames(), 1)
        moved = [float(value) for value in decoder.get_cmn(True).split(",")]
        decoder.end_utt()
        return tuple(
            (value * (_PRIOR_FRAMES + n_frames) - usual * _PRIOR_FRAMES) / n_frames
            for value, usual in zip(moved, _USUAL_MEAN, strict=True)
        )

    @staticmethod
    def _make() -> _Pair:
        try:
            return _Pair(_command_decoder(), _phone_decoder())
        except (RuntimeError, OSError) as error:
            raise ModelLoadError(f"pocketsphinx cannot load its English model: {error}.") from error


def _judge(pair: _Pair) -> Hypothesis:
    """Compare what the grammar made of the sound with what a free row of phones made of it."""
    words, phones = pair.commands.hyp(), pair.phones.hyp()
    if not words or not words.hypstr or not phones:
        return _NOTHING
    heard = [(part.word, part.start_frame, part.end_frame) for part in pair.phones.seg() if part.word in _PHONES]
    said = [(part.word, part.start_frame, part.end_frame) for part in pair.commands.seg() if part.word[0] not in "<("]
    if not heard or not said:
        return _NOTHING
    expected = [phone for word, _, _ in said for phone in _phones_of(word)]
    if max(len(expected), len(heard)) > _MOST_TIMES_LONGER * min(len(expected), len(heard)):
        return Hypothesis(words.hypstr, -math.inf)
    voiced_frames = sum(end - start + 1 for _, start, end in heard)
    log_ratio = math.log(max(words.score, 1e-300)) - math.log(max(phones.score, 1e-300))
    edits = _edit_distance(expected, [phone for phone, _, _ in heard])
    outside = sum(not any(start - 2 <= (a + b) / 2 <= end + 2 for _, start, end in said) for _, a, b in heard)
    confidence = (
        _BIAS
        + _RATIO_WEIGHT * 1000 * log_ratio / voiced_frames
        - _EDIT_WEIGHT * edits / max(len(expected), len(heard))
        - _OUTSIDE_WEIGHT * outside / len(heard)
        - _LENGTH_WEIGHT * len(expected)
    )
    return Hypothesis(words.hypstr, confidence)


def _phones_of(word: str) -> list[str]:
    """Return the phones of a word as the decoder names it, ``"what's(2)"`` being its second pronunciation."""
    spelling, _, number = word.rstrip(")").partition("(")
    return pronunciations()[spelling][int(number or 1) - 1].split()


def _edit_distance(expected: list[str], heard: list[str]) -> float:
    """Count what has to change to make one row of phones the other; likely confusions count less."""
    row = [float(n) for n in range(len(heard) + 1)]
    for n, phone in enumerate(expected, start=1):
        above, row = row, [float(n)]
        for m, other in enumerate(heard, start=1):
            row.append(min(above[m] + 1, row[-1] + 0.8, above[m - 1] + _substitution(phone, other)))
    return row[-1]


@functools.cache
def _substitution(phone: str, other: str) -> float:
    if phone == other:
        return 0.0
    if phone in _VOWELS and other in _VOWELS:
        return 0.4
    return 0.5 if any(phone in group and other in group for group in _CLASSES) else 1.0
