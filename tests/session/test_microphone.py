"""Sound on its way into the timeline: long appends come second by second, and are what short ones would have been."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.errors import ClientError, LimitExceeded
from duplex_server.session.microphone import Microphone
from duplex_server.session.timeline import InputTimeline
from duplex_server.types import INPUT_RATE_HZ, Pcm
from duplex_server.wire.requests import AppendAudio

RATE_HZ = 24_000


class Line:
    """A microphone, and what it has brought."""

    def __init__(self, ahead_s: float = 60.0) -> None:
        self.timeline = InputTimeline(int(ahead_s * INPUT_RATE_HZ))
        self.told: list[ClientError] = []
        self.refused_s: list[float] = []
        self.microphone = Microphone(self.timeline, ahead_s, self.told.append, self.refused_s.append)

    def put(self, pcm: Pcm) -> None:
        self.microphone.put(AppendAudio(pcm, RATE_HZ))

    @property
    def brought_s(self) -> float:
        return self.timeline.statistics.buffered / INPUT_RATE_HZ

    def all_of_it(self) -> Pcm:
        return np.concatenate(list(self.timeline._waiting))


def noise(duration_s: float) -> Pcm:
    return np.random.default_rng(0).uniform(-0.5, 0.5, int(duration_s * RATE_HZ)).astype(np.float32)


def test_a_long_append_is_brought_second_by_second() -> None:
    line = Line()
    line.put(noise(10.3))
    assert line.brought_s == 0
    for n_ticks in range(1, 11):
        line.microphone.digest()
        assert line.brought_s == pytest.approx(n_ticks, abs=0.01)
    line.microphone.digest()
    line.microphone.digest()
    assert line.brought_s == pytest.approx(10.3, abs=0.01)


def test_it_is_what_short_ones_would_have_been_and_what_follows_comes_after_it() -> None:
    sound, at_once, bit_by_bit = noise(5.0), Line(), Line()
    at_once.put(sound[: 4 * RATE_HZ])
    for start in range(4 * RATE_HZ, 5 * RATE_HZ, 480):
        at_once.put(sound[start : start + 480])
    for _ in range(6):
        at_once.microphone.digest()
    for start in range(0, len(sound), 480):
        bit_by_bit.put(sound[start : start + 480])
    np.testing.assert_allclose(at_once.all_of_it(), bit_by_bit.all_of_it(), atol=1e-6)


def test_what_waits_counts_against_what_may_wait_and_is_refused_in_one_word() -> None:
    line = Line(ahead_s=10.0)
    for _ in range(4):
        line.put(noise(4.0))
    assert line.refused_s == [4.0, 4.0]
    (told,) = line.told
    assert isinstance(told, LimitExceeded) and told.error_code == "input_backpressure"
    for _ in range(9):
        line.microphone.digest()
    assert line.brought_s == pytest.approx(8, abs=0.01) and len(line.refused_s) == 2


def test_what_is_cleared_is_not_brought() -> None:
    line = Line(ahead_s=10.0)
    line.put(noise(8.0))
    line.microphone.digest()
    line.microphone.clear()
    line.microphone.digest()
    assert line.brought_s == 0
    line.put(noise(8.0))
    assert not line.told
