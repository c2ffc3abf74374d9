"""Tests of one turn of speech: pieces, their text, and the place of a cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from duplex_server.models.embedded.speaking import PIECE_SAMPLES, Speech
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

_FOREVER = 10**9


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    with Voice() as opened:
        yield opened


def _speech(*sentences: str, language: str = "en", credit_samples: int = _FOREVER) -> Speech:
    return Speech(1, sentences, language=language, resumable=True, credit_samples=credit_samples)


def _all(speech: Speech, voice: Voice) -> list[tuple[Pcm, str]]:
    return list(speech.emit(voice, rate=1.0, volume=1.0))


def test_pieces_are_short_and_their_texts_make_the_transcript(voice: Voice) -> None:
    speech = _speech('"Well", said the cat, "well."', "It rained for 3 days (or 4).", "The end!")
    pieces = _all(speech, voice)
    assert max(len(pcm) for pcm, _ in pieces) <= PIECE_SAMPLES
    assert "".join(text for _, text in pieces) == '"Well", said the cat, "well." It rained for 3 days (or 4). The end!'
    assert speech.finished
    assert speech.emitted_samples == sum(len(pcm) for pcm, _ in pieces)


def test_chinese_sentences_are_joined_without_blanks(voice: Voice) -> None:
    pieces = _all(_speech("你好。", "我很好。", language="zh"), voice)
    assert "".join(text for _, text in pieces) == "你好。我很好。"


def test_no_more_comes_than_is_credited(voice: Voice) -> None:
    speech = _speech("This sentence takes longer than half a second.", credit_samples=OUTPUT_RATE_HZ // 2)
    assert sum(len(pcm) for pcm, _ in _all(speech, voice)) == OUTPUT_RATE_HZ // 2
    assert not speech.finished
    assert _all(speech, voice) == []
    speech.credit(1000)
    assert sum(len(pcm) for pcm, _ in _all(speech, voice)) == 1000


def test_there_is_a_pause_between_sentences_but_none_at_the_end(voice: Voice) -> None:
    pcm = np.concatenate([pcm for pcm, _ in _all(_speech("One.", "Two."), voice)])
    quiet = np.abs(pcm) < 0.003
    longest, run = 0, 0
    for silent in quiet:
        run = run + 1 if silent else 0
        longest = max(longest, run)
    assert longest >= OUTPUT_RATE_HZ // 5
    assert not quiet[-OUTPUT_RATE_HZ // 10 :].all()


def test_the_rest_starts_at_the_word_that_was_being_heard(voice: Voice) -> None:
    sentences = ("Every evening she lit the lamp.", "Then the cat began to sing.")
    speech = _speech(*sentences)
    position, starts = 0, []
    for pcm, text in _all(speech, voice):
        starts += [(position, word) for word in text.split()]
        position += len(pcm)
    whole = " ".join(sentences)
    for start, _ in starts:
        heard = start + PIECE_SAMPLES
        rest = " ".join(speech.rest(heard))
        assert whole.endswith(rest)
        said_before = len([at for at, _ in starts if at <= heard])
        assert len(whole.split()) - len(rest.split()) in (said_before - 1, said_before, said_before - 2)


def test_nothing_heard_leaves_everything_and_everything_heard_leaves_nothing(voice: Voice) -> None:
    speech = _speech("One, two.", "Three.")
    _all(speech, voice)
    assert speech.rest(0) == ("One, two.", "Three.")
    assert speech.rest(-5) == ("One, two.", "Three.")
    assert speech.rest(speech.emitted_samples) == ()


def test_a_cut_between_sentences_leaves_the_next_ones(voice: Voice) -> None:
    speech = _speech("One.", "Two.", "Three.", credit_samples=1)
    _all(speech, voice)
    assert speech.rest(10 * OUTPUT_RATE_HZ) == ("Two.", "Three.")


def test_a_sentence_without_sound_keeps_its_text_and_its_turn_ends(voice: Voice) -> None:
    speech = _speech("...", "Yes.")
    assert "".join(text for _, text in _all(speech, voice)).split() == ["...", "Yes."]
    assert speech.finished


def test_rate_and_volume_change_the_sound(voice: Voice) -> None:
    def pcm(rate: float, volume: float) -> Pcm:
        said = _speech("Every evening she lit the lamp.").emit(voice, rate=rate, volume=volume)
        return np.concatenate([piece for piece, _ in said])

    normal = pcm(1.0, 1.0)
    assert len(pcm(1.5, 1.0)) < 0.8 * len(normal)
    assert np.square(pcm(1.0, 0.5)).mean() < 0.4 * np.square(normal).mean()
