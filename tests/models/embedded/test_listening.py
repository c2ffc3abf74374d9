"""Tests of the ear: when an utterance begins and ends, in media time, by given probabilities and real speech."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_server.media.resample import resample
from duplex_server.models.embedded.grammar import Intent
from duplex_server.models.embedded.listening import UNIT_MS, Ear, Utterance
from duplex_server.models.embedded.recognizer import Recognizer
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import Pcm, Unit
from tests.helpers.speech import SPEAKERS, UserVoice, noise, place, units_of


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer()


@pytest.fixture
def ear(recognizer: Recognizer) -> Iterator[Ear]:
    opened = Ear(recognizer)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def user() -> Iterator[UserVoice]:
    with Voice() as voice:
        yield UserVoice(voice)


def _hear(ear: Ear, probabilities: Sequence[float], track: Pcm | None = None) -> list[tuple[int, Utterance]]:
    """Give units; returns the utterances with the number of the unit that ended each."""
    sound = noise(len(probabilities) * UNIT_MS / 1000) if track is None else track
    ended = []
    for number, probability in enumerate(probabilities):
        utterance = ear.hear(Unit(number, sound[number * 640 : (number + 1) * 640], probability))
        if utterance is not None:
            ended.append((number, utterance))
    return ended


def _spoken(clip: Pcm, after_units: int) -> tuple[Pcm, list[float], int]:
    """Return a track that starts with the clip after 480 ms, exact probabilities, and the unit it ends in."""
    n_units = 12 + -(-len(clip) // 640) + after_units
    track = noise(n_units * UNIT_MS / 1000)
    place(track, clip, 0.48)
    last = 12 + (len(clip) - 1) // 640
    return track, [0.95 if 12 <= n <= last else 0.02 for n in range(n_units)], last


def test_one_loud_unit_is_no_utterance(ear: Ear) -> None:
    assert _hear(ear, [0.0] * 5 + [0.9] + [0.0] * 20) == []
    assert not ear.speaking


def test_two_of_three_units_begin_an_utterance(ear: Ear) -> None:
    _hear(ear, [0.0, 0.9, 0.0])
    assert not ear.speaking
    _hear(ear, [0.9])
    assert ear.speaking


def test_what_is_no_command_ends_after_520_ms_of_silence(ear: Ear) -> None:
    ((ended, utterance),) = _hear(ear, [0.0] * 10 + [0.9] * 15 + [0.0] * 30)
    assert ended == 24 + 13
    assert utterance.command is None
    assert utterance.text == ""


def test_a_pause_within_speech_does_not_end_it(ear: Ear) -> None:
    assert len(_hear(ear, [0.0] * 5 + [0.9] * 10 + [0.0] * 9 + [0.9] * 10 + [0.0] * 20)) == 1


def test_a_command_that_nothing_can_follow_ends_after_80_ms(ear: Ear, user: UserVoice) -> None:
    track, probabilities, last = _spoken(user.say("tell me a joke"), 20)
    ((ended, utterance),) = _hear(ear, probabilities, track)
    assert utterance.command is not None
    assert utterance.command.intent is Intent.JOKE
    assert last + 2 <= ended <= last + 4


def test_a_command_that_may_go_on_gets_200_ms(ear: Ear, user: UserVoice) -> None:
    track, probabilities, last = _spoken(user.say("tell me a story"), 20)
    ((ended, utterance),) = _hear(ear, probabilities, track)
    assert utterance.command is not None
    assert utterance.command.intent is Intent.STORY
    assert last + 5 <= ended <= last + 7


def test_an_utterance_is_measured(ear: Ear, user: UserVoice) -> None:
    clip = user.say("tell me a joke")
    track, probabilities, _ = _spoken(clip, 20)
    ((_, utterance),) = _hear(ear, probabilities, track)
    assert utterance.voiced_s == pytest.approx(len(clip) / 16000, abs=0.1)
    assert utterance.share_voiced > 0.9
    assert -24 < utterance.level_db < -15


def test_a_stop_word_is_known_before_the_utterance_ends(ear: Ear, user: UserVoice) -> None:
    clip = user.say("stop talking", SPEAKERS[1])
    track, probabilities, last = _spoken(clip, 0)
    known = None
    for number, probability in enumerate(probabilities):
        assert ear.hear(Unit(number, track[number * 640 : (number + 1) * 640], probability)) is None
        known = number if known is None and ear.stop_heard else known
    assert known is not None
    assert known <= last


def test_a_stop_word_of_which_little_is_a_users_voice_is_not_believed(ear: Ear, user: UserVoice) -> None:
    """The server calls the rest of it the model's own echo; a word found in that is nobody's."""
    track, probabilities, last = _spoken(user.say("stop talking", SPEAKERS[1]), 0)
    first = next(number for number, probability in enumerate(probabilities) if probability > 0.5)
    echoed = [
        probability if number < first + 2 or (number - first) % 3 == 0 else 0.0
        for number, probability in enumerate(probabilities)
    ]
    for number, probability in enumerate(echoed[: last + 1]):
        ear.hear(Unit(number, track[number * 640 : (number + 1) * 640], probability))
        assert not ear.stop_heard


def test_no_stop_word_is_heard_in_another_sentence(ear: Ear, user: UserVoice) -> None:
    track, probabilities, _ = _spoken(user.say("I forgot my keys on the kitchen table"), 20)
    for number, probability in enumerate(probabilities):
        ear.hear(Unit(number, track[number * 640 : (number + 1) * 640], probability))
        assert not ear.stop_heard


def test_recorded_speech_of_strangers_holds_no_command(ear: Ear, speech_folder: Path) -> None:
    utterances = []
    for path in sorted(speech_folder.glob("*.wav")):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        recording = resample(np.ascontiguousarray(samples[: 8 * rate_hz, 0]), rate_hz, 16000)
        for unit in units_of(np.concatenate([recording, noise(1.0)]), UNIT_MS):
            utterance = ear.hear(unit)
            utterances += [] if utterance is None else [utterance]
    assert utterances
    commands = {utterance.command.intent for utterance in utterances if utterance.command is not None}
    assert commands <= {Intent.BACKCHANNEL}


def test_captions_come_while_the_user_speaks(ear: Ear, user: UserVoice) -> None:
    track, probabilities, last = _spoken(user.say("what is seven plus eight"), 20)
    captions = []
    for number, probability in enumerate(probabilities):
        ear.hear(Unit(number, track[number * 640 : (number + 1) * 640], probability))
        captions += [(number, ear.caption)] if ear.caption is not None else []
    assert captions
    assert captions[0][0] < last
    assert captions[-1][1] == "what is seven plus eight"


def test_endless_speech_gives_its_decoders_back_and_ends_with_the_next_pause(recognizer: Recognizer) -> None:
    ear = Ear(recognizer)
    n_idle = len(recognizer._idle)
    assert _hear(ear, [0.9] * 200) == []
    assert ear.speaking
    assert len(recognizer._idle) == max(n_idle, 1)
    ((_, utterance),) = _hear(ear, [0.0] * 20)
    assert utterance.command is None
    assert not ear.speaking


def test_an_utterance_can_be_ended_by_hand(ear: Ear, user: UserVoice) -> None:
    track, probabilities, _ = _spoken(user.say("tell me a joke"), 0)
    assert _hear(ear, probabilities, track) == []
    utterance = ear.finish()
    assert utterance is not None
    assert utterance.text == "tell me a joke"
    assert ear.finish() is None


def test_the_end_of_one_command_is_not_heard_again_in_the_next(ear: Ear, user: UserVoice) -> None:
    track, probabilities, _ = _spoken(user.say("tell me a joke"), 4)
    again, more, _ = _spoken(user.say("stop talking"), 20)
    both = np.concatenate([track, again[12 * 640 :]])
    utterances = _hear(ear, [*probabilities, *more[12:]], both)
    assert [utterance.text for _, utterance in utterances] == ["tell me a joke", "stop talking"]


def test_silence_since_the_last_voice_is_counted(ear: Ear) -> None:
    _hear(ear, [0.9, 0.0, 0.0, 0.0])
    assert ear.quiet_units == 3
