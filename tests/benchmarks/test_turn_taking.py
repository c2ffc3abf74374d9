"""What the turn-taking benchmark plans to do, and the voices it does it with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.analysis import AUDIBLE, active_level_db
from benchmarks.noise import at_intervals
from benchmarks.speech import BACKCHANNELS, RATE_HZ, USER_DB, VOICES, Mouth
from benchmarks.turn_taking import TARGETS, plan


@pytest.fixture(scope="module")
def mouth() -> Iterator[Mouth]:
    with Mouth() as mouth:
        yield mouth


@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_speaks_at_the_users_level_from_its_first_sample_to_its_last(mouth: Mouth, voice: str) -> None:
    clip = mouth.say("what time is it", voice)
    assert active_level_db(clip, RATE_HZ) == pytest.approx(USER_DB, abs=0.5)
    assert 0.5 < len(clip) / RATE_HZ < 1.5
    assert np.abs(clip[[0, -1]]).min() >= AUDIBLE


@pytest.mark.parametrize("voice", VOICES)
def test_backchannels_are_as_short_as_those_of_people(mouth: Mouth, voice: str) -> None:
    for text, pace in BACKCHANNELS:
        assert 0.25 < len(mouth.say(text, voice, words_per_minute=pace)) / RATE_HZ < 0.5


def test_an_unknown_voice_is_refused(mouth: Mouth) -> None:
    with pytest.raises(ValueError, match="no voice"):
        mouth.say("hello", "gmw/martian")


def test_the_plan_has_every_scenario_and_no_job_twice(mouth: Mouth) -> None:
    full, quick = plan(mouth, quick=False), plan(mouth, quick=True)
    names = [job.name for job in full]
    assert len(set(names)) == len(names)
    assert {job.name for job in quick} <= {*names}
    scenarios = {"interruption", "backchannel", "aside", "response", "stop word", "immediate", "noise", "echo"}
    for jobs in (full, quick):
        assert {name for name in scenarios if any(job.name.startswith(name) for job in jobs)} == scenarios
        assert {job.policy for job in jobs} == {"guarded", "immediate"}
        assert all((job.echo is not None) == job.name.startswith("echo") for job in jobs)
    assert sum(job.name.startswith("noise: ") for job in full) == 10


def test_no_figure_has_two_targets_for_one_statistic() -> None:
    aims = [(target.name, target.statistic) for target in TARGETS]
    assert len(set(aims)) == len(aims)


def test_sounds_at_intervals_keep_to_their_own() -> None:
    track = at_intervals([np.ones(240, np.float32)], 10.0, 2.0)
    starts = np.flatnonzero(np.diff(track, prepend=0) > 0) / RATE_HZ
    assert [int(start // 2) for start in starts] == [0, 1, 2, 3, 4]
