"""What is concluded from a track and a log, on conversations whose truth is known."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import pytest

from benchmarks import scenarios
from benchmarks.analysis import first_audible_s
from benchmarks.participant import Participant
from benchmarks.results import Figures
from benchmarks.scene import Span
from benchmarks.speech import RATE_HZ
from duplex_server.types import Pcm
from duplex_server.wire.events import OverlapDecision, ResponseCreated, ResponseDone, ServerEvent
from duplex_server.wire.objects import Response

Event = TypeVar("Event")


def voice(duration_s: float, gain_db: float = 0.0) -> Pcm:
    """A steady voice, with a pitch and no pauses."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (0.3 * 10 ** (gain_db / 20) * np.sign(np.sin(2 * np.pi * 120 * time_s))).astype(np.float32)


def silence(duration_s: float) -> Pcm:
    return np.zeros(round(duration_s * RATE_HZ), np.float32)


class Witness:
    """A participant whose conversation is over: only what it heard is left."""

    def __init__(self, parts: list[Pcm], log: list[tuple[float, ServerEvent]], concealed_ms: float = 0.0) -> None:
        self.track = np.concatenate(parts)
        self.log = log
        self.now_s = len(self.track) / RATE_HZ
        self.player = type("Heard", (), {"concealed_ms": concealed_ms})()

    first = Participant.first
    all = Participant.all


def someone(*parts: Pcm, log: list[tuple[float, ServerEvent]], concealed_ms: float = 0.0) -> Participant:
    return cast(Participant, Witness(list(parts), log, concealed_ms))


def done(status: Any, generated_ms: int = 0) -> ResponseDone:
    return ResponseDone(response=Response(id="r1", status=status, generated_ms=generated_ms))


STORY = scenarios._Story(began_s=1.0, concealed_ms=0.0)
FOLLOWING = ResponseCreated(response=Response(id="r2"))


def figures_of(figures: Figures) -> dict[str, float]:
    return {name: values[-1] for name, values in figures.values.items()}


def test_an_interruption_that_is_obeyed() -> None:
    heard = someone(
        silence(1.0),
        voice(4.0),
        voice(0.2),  # from the onset at 5.0 on
        voice(0.3, gain_db=-18),
        silence(2.5),
        voice(1.0),  # the answer
        log=[(5.5, done("cancelled")), (7.8, FOLLOWING)],
    )
    figures = Figures()
    assert scenarios._judge_interruption(heard, STORY, Span(5.0, 6.0), figures, "interruption", "x")
    found = figures_of(figures)
    assert found["interruption_obeyed"] == 1
    assert found["interruption_silent_s"] == pytest.approx(0.5, abs=0.005)
    assert found["interruption_down_s"] == pytest.approx(0.2, abs=0.025)


def test_an_interruption_that_is_missed() -> None:
    heard = someone(silence(1.0), voice(7.0), log=[])
    figures = Figures()
    assert scenarios._judge_interruption(heard, STORY, Span(5.0, 6.0), figures, "interruption", "x")
    assert figures_of(figures) == {"interruption_obeyed": 0}


def test_a_story_that_ended_by_itself_was_not_interrupted() -> None:
    heard = someone(silence(1.0), voice(4.2), silence(3.0), log=[(5.2, done("completed"))])
    figures = Figures()
    assert not scenarios._judge_interruption(heard, STORY, Span(5.0, 6.0), figures, "interruption", "x")
    assert not figures.values


def test_a_disturbance_after_which_the_voice_is_back() -> None:
    heard = someone(
        silence(1.0), voice(4.0), voice(0.2), voice(0.4, gain_db=-18), voice(4.0), log=[(9.6, done("completed"))]
    )
    figures = Figures()
    assert scenarios._judge_disturbance(heard, STORY, Span(5.0, 5.35), figures, "backchannel", "x")
    found = figures_of(figures)
    assert found["backchannel_false_interruption"] == 0
    assert found["backchannel_back_s"] == pytest.approx(0.25, abs=0.03)


def test_a_disturbance_that_ends_the_story() -> None:
    heard = someone(silence(1.0), voice(4.5), silence(4.0), log=[(5.5, done("cancelled"))])
    figures = Figures()
    assert scenarios._judge_disturbance(heard, STORY, Span(5.0, 5.35), figures, "backchannel", "x")
    assert figures_of(figures) == {"backchannel_false_interruption": 1}


def test_a_story_that_ends_during_a_disturbance_teaches_nothing() -> None:
    heard = someone(silence(1.0), voice(4.2), silence(4.0), log=[(5.2, done("completed"))])
    figures = Figures()
    assert not scenarios._judge_disturbance(heard, STORY, Span(5.0, 5.35), figures, "backchannel", "x")
    assert not figures.values


@pytest.mark.parametrize(
    ("heard_s", "concealed_ms", "lost_s"), [(8.0, 0.0, 0.0), (7.7, 0.0, 0.3), (8.0, 40.0, 0.04), (8.5, 0.0, -0.5)]
)
def test_what_was_generated_and_not_heard_is_lost(heard_s: float, concealed_ms: float, lost_s: float) -> None:
    end = (1.0 + heard_s, done("completed", generated_ms=8000))
    heard = someone(silence(1.0), voice(heard_s), silence(1.0), log=[end], concealed_ms=concealed_ms)
    assert first_audible_s(heard.track, RATE_HZ, 0.0) == pytest.approx(STORY.began_s, abs=0.001)
    figures = Figures()
    scenarios._note_loss(heard, STORY, end, figures, "noise", "x")
    assert figures_of(figures)["noise_lost_s"] == pytest.approx(lost_s, abs=0.001)


def test_lowering_is_counted_within_the_story() -> None:
    def decision(time_s: float, action: str) -> tuple[float, ServerEvent]:
        return time_s, OverlapDecision(policy="guarded", action=action)

    log = [decision(0.5, "hold"), decision(2.0, "hold"), decision(2.4, "ignore"), decision(4.0, "hold")]
    assert scenarios._times_lowered(someone(silence(5.0), log=log), STORY) == 2
