"""Input becomes an even stream: nothing drifts, nothing is lost that came, silence stands where nothing did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.session.timeline import TICK_SAMPLES, InputTimeline, UnitCutter
from duplex_server.types import INPUT_RATE_HZ, Floor, ModelSpec, Pcm, VideoFrame

SECOND_TICKS = INPUT_RATE_HZ // TICK_SAMPLES


def tone(n_samples: int, value: float = 0.5) -> Pcm:
    """Alternating samples: loud, and told apart by their value."""
    signs = np.where(np.arange(n_samples) % 2, -1, 1)
    return (signs * value).astype(np.float32)


def take(timeline: InputTimeline, n_ticks: int) -> Pcm:
    """What is heard in a number of ticks of time."""
    heard = [tick for _ in range(n_ticks) for tick in timeline.take()]
    assert all(tick.shape == (TICK_SAMPLES,) and tick.dtype == np.float32 for tick in heard)
    return np.concatenate(heard) if heard else np.zeros(0, np.float32)


def loud(pcm: Pcm) -> np.ndarray:
    return np.flatnonzero(np.abs(pcm) > 0.1)


def test_input_at_real_time_pace_is_handed_out_unchanged() -> None:
    timeline, heard = InputTimeline(INPUT_RATE_HZ), []
    for tick in range(50):
        timeline.put(tone(TICK_SAMPLES, (tick + 1) / 100))
        heard += timeline.take()
    assert [round(float(tick[0]), 2) for tick in heard] == [round((tick + 1) / 100, 2) for tick in range(50)]
    assert timeline.statistics.missing == 0


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=60))
def test_every_tick_has_its_length_and_every_sample_comes_once(sizes: list[int]) -> None:
    timeline, sent, heard = InputTimeline(10**6), 0, []
    for size in sizes:
        timeline.put(tone(size))
        sent += size
        heard.append(take(timeline, 1))
    while timeline.statistics.buffered:
        heard.append(take(timeline, 1))
    assert len(loud(np.concatenate(heard))) == sent


def test_two_seconds_of_nothing_are_two_seconds_of_silence() -> None:
    timeline = InputTimeline(10**6)
    timeline.put(tone(INPUT_RATE_HZ))
    heard = [take(timeline, SECOND_TICKS), take(timeline, 2 * SECOND_TICKS)]
    timeline.put(tone(INPUT_RATE_HZ))
    heard.append(take(timeline, SECOND_TICKS))
    assert [len(loud(part)) for part in heard] == [INPUT_RATE_HZ, 0, INPUT_RATE_HZ]


def test_a_lost_packet_leaves_silence_where_it_was() -> None:
    timeline = InputTimeline(10**6)
    timeline.put(tone(TICK_SAMPLES), 0)
    timeline.put(tone(TICK_SAMPLES), 2 * TICK_SAMPLES)
    heard = take(timeline, 3)
    assert loud(heard).tolist() == [*range(TICK_SAMPLES), *range(2 * TICK_SAMPLES, 3 * TICK_SAMPLES)]
    assert timeline.statistics.missing == TICK_SAMPLES


def test_a_packet_received_twice_is_heard_once() -> None:
    timeline = InputTimeline(10**6)
    for position in (0, 0, TICK_SAMPLES):
        timeline.put(tone(TICK_SAMPLES), position)
    assert len(loud(take(timeline, 4))) == 2 * TICK_SAMPLES
    assert timeline.statistics.overlapping == TICK_SAMPLES


def test_silence_already_handed_out_for_a_gap_is_not_put_in_again() -> None:
    timeline = InputTimeline(10**6)
    timeline.put(tone(TICK_SAMPLES), 0)
    take(timeline, 11)  # a pause of ten ticks, in which the sender's clock went on
    timeline.put(tone(TICK_SAMPLES), 11 * TICK_SAMPLES)
    assert len(loud(take(timeline, 1))) == TICK_SAMPLES


@pytest.mark.parametrize("chunk_ticks", [1, 2, 5])
@pytest.mark.parametrize("late_ticks", [1, 5, 9])
def test_a_word_whose_sound_comes_late_has_no_hole(late_ticks: int, chunk_ticks: int) -> None:
    timeline, sent, heard = InputTimeline(10**6), 0, []
    for tick in range(100):
        stalled = 30 <= tick < 30 + late_ticks
        while not stalled and sent <= tick * TICK_SAMPLES:
            timeline.put(tone(chunk_ticks * TICK_SAMPLES))
            sent += chunk_ticks * TICK_SAMPLES
        heard.append(take(timeline, 1))
    assert len(loud(np.concatenate(heard))) == sum(map(len, heard)) == 100 * TICK_SAMPLES
    assert timeline.statistics.missing == 0


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=120))
def test_time_that_is_not_handed_out_yet_is_no_more_than_late_input_is_waited_for(sizes: list[int]) -> None:
    timeline = InputTimeline(10**6)
    for n_beats, size in enumerate(sizes, 1):
        timeline.put(tone(size))
        taken = timeline.statistics.taken + len(take(timeline, 1))
        assert taken == timeline.statistics.taken
        assert n_beats * TICK_SAMPLES - INPUT_RATE_HZ // 5 <= taken <= n_beats * TICK_SAMPLES


def test_a_peer_that_stops_sending_is_heard_to_be_silent_after_a_while_and_at_once_from_then_on() -> None:
    timeline = InputTimeline(10**6)
    timeline.put(tone(TICK_SAMPLES))
    assert [len(take(timeline, 1)) // TICK_SAMPLES for _ in range(14)] == [1, *[0] * 10, 11, 1, 1]


def test_a_sender_whose_clock_runs_slow_gets_its_silence_in_pauses() -> None:
    timeline = InputTimeline(10**6)
    owed, heard = 0.0, []
    for tick in range(2 * 60 * SECOND_TICKS):
        owed += TICK_SAMPLES * (1 - 2000e-6)  # 240 ms in two minutes
        speaks = tick % SECOND_TICKS < 30
        timeline.put(tone(int(owed)) if speaks else np.zeros(int(owed), np.float32))
        owed -= int(owed)
        heard.append(take(timeline, 1))
    assert timeline.statistics.missing >= 8 * TICK_SAMPLES
    changes = np.flatnonzero(np.diff((np.abs(np.concatenate(heard)) > 0.1).astype(np.int8)))
    words = np.diff(changes[1:])[::2], np.diff(changes)[::2]
    assert min(map(np.min, words)) > 0.3 * INPUT_RATE_HZ, "neither a word nor a pause was cut in two"


def hiccup(*, pauses: bool, seconds: int = 12) -> tuple[InputTimeline, int]:
    """Half a second arrives late in one burst; afterwards speech goes on, with or without pauses."""
    timeline = InputTimeline(10**6)
    withheld: list[Pcm] = []
    n_loud = 0
    for tick in range(seconds * SECOND_TICKS):
        speaks = not pauses or tick % SECOND_TICKS < 35
        part = tone(TICK_SAMPLES) if speaks else np.zeros(TICK_SAMPLES, np.float32)
        n_loud += TICK_SAMPLES if speaks else 0
        withheld.append(part)
        if not 50 <= tick < 75:
            for late in withheld:
                timeline.put(late)
            withheld.clear()
        n_loud -= len(loud(take(timeline, 1)))
    return timeline, n_loud


def test_a_burst_after_a_hiccup_is_heard_late_and_the_delay_is_made_up_for_in_pauses() -> None:
    timeline, unheard = hiccup(pauses=True)
    assert timeline.statistics.skipped >= 0.4 * INPUT_RATE_HZ
    assert timeline.statistics.buffered <= 0.1 * INPUT_RATE_HZ
    assert unheard <= timeline.statistics.buffered


def test_speech_without_pauses_is_never_skipped() -> None:
    timeline, _ = hiccup(pauses=False)
    assert timeline.statistics.skipped == 0
    assert timeline.statistics.refused == 0


@pytest.mark.parametrize("ppm", [200, -200])
def test_a_clock_that_runs_wrong_builds_up_no_delay(ppm: int) -> None:
    timeline = InputTimeline(10**6)
    owed, worst, sent_loud, heard_loud = 0.0, 0, 0, 0
    for tick in range(30 * 60 * SECOND_TICKS):  # half an hour: 360 ms of drift
        owed += TICK_SAMPLES * (1 + ppm * 1e-6)
        part = tone(int(owed)) if tick % SECOND_TICKS < 35 else np.zeros(int(owed), np.float32)
        owed -= int(owed)
        sent_loud += len(part) if tick % SECOND_TICKS < 35 else 0
        timeline.put(part)
        heard_loud += len(loud(take(timeline, 1)))
        worst = max(worst, timeline.statistics.buffered)
    assert worst <= 0.1 * INPUT_RATE_HZ
    assert sent_loud - heard_loud <= worst, "no speech was dropped"


def test_a_recording_sent_at_once_is_heard_at_real_time_pace_and_unabridged() -> None:
    timeline = InputTimeline(10**6)
    recording = np.concatenate([tone(8000), np.zeros(16000, np.float32), tone(8000), np.zeros(16000, np.float32)] * 3)
    timeline.put(recording)
    assert np.array_equal(take(timeline, len(recording) // TICK_SAMPLES), recording)
    assert timeline.statistics.skipped == 0


def test_more_than_the_buffer_holds_is_refused_and_counted() -> None:
    timeline = InputTimeline(1000)
    assert timeline.put(tone(900))
    assert not timeline.put(tone(200))
    assert timeline.statistics.refused == 200
    assert len(loud(take(timeline, 20))) == 900


def test_cleared_input_is_not_heard() -> None:
    timeline = InputTimeline(10**6)
    timeline.put(tone(5000))
    timeline.clear()
    assert not len(loud(take(timeline, 20)))


def picture(captured_s: float) -> VideoFrame:
    return VideoFrame(captured_s, np.zeros((2, 2, 3), np.uint8))


def test_a_unit_holds_its_ticks_the_newest_pictures_and_the_texts() -> None:
    cutter = UnitCutter(ModelSpec(name="m", unit_ms=60, max_frames=2))
    for captured_s in (0.1, 0.3, 0.2):
        cutter.add_frame(picture(captured_s))
    cutter.add_text("hello")
    assert cutter.push(tone(TICK_SAMPLES), 0.2, Floor.FREE) is None
    assert cutter.push(tone(TICK_SAMPLES), 0.9, Floor.FREE) is None
    unit = cutter.push(tone(TICK_SAMPLES), 0.1, Floor.LISTEN)
    assert unit is not None
    assert (unit.index, len(unit.audio), unit.speech_probability) == (0, 960, 0.9)
    assert [frame.captured_s for frame in unit.frames] == [0.2, 0.3]
    assert (unit.texts, unit.floor, cutter.n_frames_dropped) == (("hello",), Floor.LISTEN, 1)


def test_units_follow_each_other_without_gaps_and_carry_nothing_over() -> None:
    cutter = UnitCutter(ModelSpec(name="m", unit_ms=20))
    cutter.add_frame(picture(0.0))
    units = [cutter.push(tone(TICK_SAMPLES), 0.5, Floor.FREE) for _ in range(3)]
    assert [unit.index for unit in units if unit] == [0, 1, 2]
    assert [len(unit.frames) for unit in units if unit] == [1, 0, 0]


def test_a_blind_model_is_given_no_pictures() -> None:
    cutter = UnitCutter(ModelSpec(name="m", unit_ms=20, max_frames=0))
    cutter.add_frame(picture(0.0))
    unit = cutter.push(tone(TICK_SAMPLES), 0.0, Floor.FREE)
    assert unit is not None and unit.frames == ()
