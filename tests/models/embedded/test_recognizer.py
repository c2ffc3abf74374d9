"""Tests of command recognition with real speech: what is believed, and that conversations do not touch each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_server.models.embedded import grammar
from duplex_server.models.embedded.grammar import parse
from duplex_server.models.embedded.recognizer import Channel, Hypothesis, Recognizer, pronunciations
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import Pcm
from tests.helpers.speech import SPEAKERS, UserVoice, noise, place

_GOLDENS = Path(__file__).resolve().parents[2] / "goldens" / "embedded"
"""Sound as it reached the model."""


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer()


@pytest.fixture(scope="module")
def user() -> Iterator[UserVoice]:
    with Voice() as voice:
        yield UserVoice(voice)


def _scene(clip: Pcm, noise_db: float = -60.0) -> Pcm:
    track = noise(0.4 + len(clip) / 16000 + 0.2, noise_db)
    place(track, clip, 0.4)
    return track


def _recognise(recognizer: Recognizer, track: Pcm, channel: Channel | None = None) -> Hypothesis:
    recognition = recognizer.begin(channel or Channel())
    for start in range(0, len(track), 640):
        recognition.feed(track[start : start + 640])
    return recognition.finish()


def test_every_word_of_the_grammar_has_a_pronunciation() -> None:
    assert pronunciations().keys() == grammar.vocabulary()
    assert all(variants and all(variants) for variants in pronunciations().values())


@pytest.mark.parametrize(
    ("text", "speaker"),
    [
        ("stop talking", SPEAKERS[0]),
        ("tell me a joke", SPEAKERS[1]),
        ("what is seven plus eight", SPEAKERS[2]),
        ("what do you see", SPEAKERS[3]),
        ("okay", SPEAKERS[0]),
    ],
)
def test_a_command_is_recognised_and_believed(recognizer: Recognizer, user: UserVoice, text: str, speaker: str) -> None:
    hypothesis = _recognise(recognizer, _scene(user.say(text, speaker)))
    assert parse(hypothesis.text).command == parse(text).command
    assert hypothesis.confidence >= 0


def test_a_sentence_is_recognised_whatever_the_length_of_the_silence_before_it(recognizer: Recognizer) -> None:
    """This one, as it came out of a browser, was taken for "who are you" after 300 ms of silence, and rejected."""
    clip, rate_hz = soundfile.read(_GOLDENS / "tell_me_a_story.flac", dtype="float32")
    assert rate_hz == 16000
    for n_frames in range(24, 32):  # of 10 ms, the decoder's
        track = np.concatenate([np.zeros(n_frames * 160, np.float32), clip, np.zeros(3200, np.float32)])
        hypothesis = _recognise(recognizer, track)
        assert hypothesis.text == "tell me a story", f"after {n_frames} frames"
        assert hypothesis.confidence >= 0, f"after {n_frames} frames"


@pytest.mark.parametrize("speaker", SPEAKERS[:2])
@pytest.mark.parametrize("text", ["who wrote the book about the two towers", "I forgot my keys on the kitchen table"])
def test_another_sentence_is_not_believed(recognizer: Recognizer, user: UserVoice, text: str, speaker: str) -> None:
    assert _recognise(recognizer, _scene(user.say(text, speaker))).confidence < 0


@pytest.mark.parametrize("level_db", [-60.0, -25.0])
def test_noise_is_not_believed(recognizer: Recognizer, level_db: float) -> None:
    assert _recognise(recognizer, noise(1.5, level_db)).confidence < 0
    assert _recognise(recognizer, np.zeros(16000, np.float32)).confidence < 0


def test_nothing_at_all_is_nothing(recognizer: Recognizer) -> None:
    assert recognizer.begin(Channel()).finish().confidence < 0


def test_partial_results_grow_into_the_sentence(recognizer: Recognizer, user: UserVoice) -> None:
    recognition = recognizer.begin(Channel())
    track = _scene(user.say("what is seven plus eight"))
    partials = []
    for start in range(0, len(track), 640):
        recognition.feed(track[start : start + 640])
        partials.append(recognition.partial())
    assert "what is" in partials[len(partials) * 2 // 3]
    assert partials[-1] == recognition.finish().text


def test_noise_in_one_conversation_changes_nothing_in_the_next(user: UserVoice) -> None:
    recognizer = Recognizer(warm=1)
    track = _scene(user.say("what time is it", SPEAKERS[1]))
    alone = _recognise(recognizer, track)
    _recognise(recognizer, noise(2.0, -20.0))
    assert _recognise(recognizer, track) == alone


def test_a_noisy_sentence_is_recognised_from_the_first_one_on(recognizer: Recognizer, user: UserVoice) -> None:
    hypothesis = _recognise(recognizer, _scene(user.say("tell me a joke", SPEAKERS[0]), noise_db=-38.0))
    assert hypothesis.text == "tell me a joke"


def test_a_channel_learns_from_what_was_believed_and_from_nothing_else(recognizer: Recognizer, user: UserVoice) -> None:
    channel = Channel()
    usual = channel.cepstral_mean
    _recognise(recognizer, noise(1.0, -30.0), channel)
    assert channel.cepstral_mean == usual
    _recognise(recognizer, _scene(user.say("stop talking")), channel)
    assert channel.cepstral_mean != usual


def test_decoders_come_back_and_only_a_few_are_kept() -> None:
    recognizer = Recognizer(warm=1)
    lent = [recognizer.begin(Channel()) for _ in range(6)]
    assert len(recognizer._idle) == 0
    for recognition in lent:
        recognition.abandon()
        recognition.abandon()
    assert len(recognizer._idle) == 4
