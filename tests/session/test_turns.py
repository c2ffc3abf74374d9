"""Who has the floor: onsets are held, confirmed, or ignored; echo, hums, far voices and clicks do not interrupt."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from duplex_server.media.vad import WINDOW_SAMPLES, VoiceWindow
from duplex_server.session.turns import Hold, Ignore, Interrupt, SpeechStarted, SpeechStopped, TurnEvent, Turns
from duplex_server.types import InterruptionPolicy
from duplex_server.wire.requests import TurnTaking

WINDOW_MS = 32
RNG = np.random.default_rng(0)
VOICE = (RNG.standard_normal(WINDOW_SAMPLES) * 0.1).astype(np.float32)  # broad-band, hence no hum
HUM = (0.14 * np.sin(2 * np.pi * 250 * np.arange(WINDOW_SAMPLES) / 16000)).astype(np.float32)


class Ear:
    """Feeds windows to Turns and keeps what it decides."""

    def __init__(self, policy: InterruptionPolicy = InterruptionPolicy.GUARDED, confirm_ms: int = 480) -> None:
        self.turns = Turns(TurnTaking(policy=policy), confirm_ms=confirm_ms)
        self.events: list[TurnEvent] = []
        self.end = 0

    def hear(
        self,
        pattern: str,
        *,
        audible: bool,
        level_db: float = -25.0,
        pcm: np.ndarray = VOICE,
    ) -> list[type[TurnEvent]]:
        """Hear one window per letter: v voiced, . silent, e the model's echo; return what was decided."""
        before = len(self.events)
        for letter in pattern:
            self.end += WINDOW_SAMPLES
            voiced = letter in "ve"
            window = VoiceWindow(self.end, 0.9 if voiced else 0.05, level_db if voiced else -70.0, pcm)
            self.events += self.turns.hear(window, echo=letter == "e", model_audible=audible)
        return kinds(self.events[before:])


def kinds(events: Iterable[TurnEvent]) -> list[type[TurnEvent]]:
    return [type(event) for event in events]


def test_speech_is_reported_with_its_onset_and_its_end() -> None:
    ear = Ear()
    assert ear.hear("..........vvvvvvvvvv", audible=False) == [SpeechStarted]
    assert ear.hear("." * 20, audible=False) == [SpeechStopped]
    started, stopped = ear.events
    assert abs(started.at_samples - 10 * WINDOW_SAMPLES) <= WINDOW_SAMPLES
    assert stopped.at_samples == 20 * WINDOW_SAMPLES


def test_clicks_are_no_speech() -> None:
    assert Ear().hear("v....v...vv....v.....", audible=False) == []


def test_a_pause_within_a_sentence_does_not_end_it() -> None:
    assert Ear().hear("vvvvvv..........vvvvvv", audible=False) == [SpeechStarted]


def test_an_onset_over_the_model_is_held_within_64_ms() -> None:
    ear = Ear()
    assert ear.hear("...vv", audible=True) == [Hold]
    assert ear.events[0].at_samples == 3 * WINDOW_SAMPLES


def test_speech_that_goes_on_interrupts_with_the_true_onset() -> None:
    ear = Ear()
    assert ear.hear("..." + "v" * 15, audible=True) == [Hold, SpeechStarted, Interrupt]
    assert {event.at_samples for event in ear.events} == {3 * WINDOW_SAMPLES}
    assert ear.turns.must_listen


def test_speech_is_confirmed_through_the_closures_within_words() -> None:
    assert Interrupt in Ear().hear("vvvvvv..vvv...vvvvvvvv", audible=True)


@pytest.mark.parametrize("n_voiced", range(2, 14))
def test_a_backchannel_is_ignored(n_voiced: int) -> None:
    ear = Ear()
    assert ear.hear("v" * n_voiced + "." * 10, audible=True) == [Hold, Ignore]
    assert not ear.turns.must_listen


def test_a_detector_that_rings_on_does_not_prolong_a_backchannel() -> None:
    ear = Ear()
    ear.hear("v" * 12, audible=True)
    ear.hear("vvvv", audible=True, level_db=-45.0)
    ear.hear("......", audible=True)
    assert kinds(ear.events) == [Hold, Ignore]


def test_the_voice_is_raised_again_within_300_ms_of_a_false_onset() -> None:
    ear = Ear()
    ear.hear("vvvv", audible=True)
    waited = 0
    while Ignore not in kinds(ear.events):
        ear.hear(".", audible=True)
        waited += WINDOW_MS
    assert waited <= 200


def test_the_models_echo_never_interrupts() -> None:
    assert Ear().hear("e" * 100, audible=True) == []


def test_a_user_over_the_echo_interrupts() -> None:
    assert Interrupt in Ear().hear("eeeee" + "v" * 16, audible=True)


def test_a_long_hum_does_not_interrupt() -> None:
    assert Interrupt not in Ear().hear("v" * 40 + "......", audible=True, pcm=HUM)


def test_somebody_far_from_the_microphone_does_not_interrupt() -> None:
    ear = Ear()
    ear.hear("v" * 30 + "." * 20, audible=False, level_db=-25.0)  # the user's usual level
    assert ear.hear("v" * 40, audible=True, level_db=-42.0) == []
    assert Interrupt in ear.hear("v" * 20, audible=True, level_db=-30.0)


def test_speech_that_outlasts_the_model_is_plain_speech() -> None:
    ear = Ear()
    ear.hear("vvvvv", audible=True)
    assert ear.hear("vvv", audible=False) == [Ignore, SpeechStarted]


def test_listening_is_forced_until_the_user_pauses() -> None:
    ear = Ear()
    ear.hear("v" * 20, audible=True)
    ear.hear("vvvv", audible=False)
    assert ear.turns.must_listen
    ear.hear("......", audible=False)
    assert not ear.turns.must_listen


def test_policy_immediate_interrupts_at_the_onset() -> None:
    ear = Ear(InterruptionPolicy.IMMEDIATE)
    assert ear.hear("...vvv", audible=True) == [SpeechStarted, Interrupt]


@pytest.mark.parametrize("policy", [InterruptionPolicy.MODEL, InterruptionPolicy.PUSH_TO_TALK])
def test_policies_that_leave_it_to_others_report_nothing_while_the_model_speaks(policy: InterruptionPolicy) -> None:
    ear = Ear(policy)
    assert ear.hear("v" * 50, audible=True) == []
    assert ear.hear("vvv", audible=False) == [SpeechStarted]


def test_a_model_that_yields_counts_as_interrupted_from_the_held_onset() -> None:
    ear = Ear()
    ear.hear("..vvvv", audible=True)
    events = ear.turns.model_yielded(ear.end)
    assert kinds(events) == [SpeechStarted, Interrupt]
    assert events[0].at_samples == 2 * WINDOW_SAMPLES


def test_a_client_that_interrupts_is_not_told_that_somebody_spoke() -> None:
    assert kinds(Ear().turns.client_interrupted(0)) == [Interrupt]


def test_when_the_model_takes_the_floor_the_users_speech_is_over() -> None:
    ear = Ear()
    ear.hear("v" * 10, audible=False)
    assert kinds(ear.turns.model_began()) == [SpeechStopped]
    assert ear.turns.model_began() == []
    assert ear.hear("..." + "v" * 16, audible=True) == [Hold, SpeechStarted, Interrupt]
