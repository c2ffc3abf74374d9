"""The comparison of media servers: its parts do what they say, and a small run against our own transport is true."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.media_call import Call
from benchmarks.media_echo import _Echo
from benchmarks.media_load import Plan, measure, said_s
from benchmarks.media_loss import Endured, words_share
from benchmarks.media_mirror import MirrorModel
from benchmarks.media_report import Outcome, capacity_rows, loss_rows, markdown, plot
from benchmarks.media_servers import SERVERS, CannotInstall, Server, environment, started
from benchmarks.media_speech import Track, as_browser, decoded
from benchmarks.media_steps import Step
from benchmarks.speech import Mouth
from duplex_server.models.base import RowUnit
from duplex_server.types import Pcm, SessionSetup, Unit


def babble(seconds: float, rate_hz: int = 24_000) -> Pcm:
    """Noise whose level goes up and down like syllables."""
    dice = np.random.default_rng(3)
    n, syllable = round(seconds * rate_hz), rate_hz // 10
    swell = np.interp(np.arange(n), np.arange(0, n + syllable, syllable), dice.uniform(0.1, 1, n // syllable + 1))
    return (0.1 * swell * dice.standard_normal(n)).astype(np.float32)


def test_two_callers_of_our_transport_hear_themselves_soon_and_without_gaps() -> None:
    track = Track(as_browser(babble(4.0)), 1.0)
    with started(SERVERS["ours"], Path(sys.executable), None) as (url, process):
        step = asyncio.run(measure(url, process, SERVERS["ours"].door, 2, Plan(track, 1.5, 0.5)))
    assert step.n_connected == 2, step.trouble
    assert step.delay_p50_s is not None and 0.005 < step.delay_p50_s < 1.0
    assert step.gap_share < 0.5, "sound came back, on whatever machine"
    assert step.cpu_ms > 0 and step.connect_s > 0 and step.load_share > 0


def test_what_a_caller_said_is_counted_by_what_left() -> None:
    async def main() -> None:
        call = Call(listens=False, first=3)
        call.departures_s.extend(10 + 0.02 * number for number in range(20))
        active = np.array([0.02, 0.0, 0.0, 0.02])
        assert said_s(call, active, 10.0, 10.2) == pytest.approx(0.02 * 6)
        assert said_s(call, active, 10.001, 10.05) == pytest.approx(0.02)
        assert said_s(call, active, 11.0, 12.0) == 0
        await call.close()

    asyncio.run(main())


def test_what_a_browser_sends_is_the_sound_again() -> None:
    pcm = babble(1.0)
    packets = as_browser(pcm)
    assert len(packets) == pytest.approx(50, abs=1)
    frames = decoded([*packets, b""], 24_000)
    assert {len(frame) for frame in frames} == {480}
    heard, shift = np.concatenate(frames), 156  # 6.5 ms of the encoder's own
    alike = np.corrcoef(heard[shift : shift + 20_000], pcm[:20_000])[0, 1]
    assert alike > 0.5
    assert not frames[-1].any(), "what is no packet is silent"


def test_the_echo_sends_ticks_and_nothing_in_a_pause() -> None:
    echo = _Echo()
    loud, quiet = 0.2 * np.ones(320, np.float32), np.zeros(320, np.float32)
    ticks = [tick for _ in range(50) for tick in echo.ticks(loud[:319])]
    assert {tick.shape for tick in ticks} == {(480,)} and len(ticks) == 49
    paused = [len(echo.ticks(quiet)) for _ in range(40)]
    assert sum(paused) in (5, 6, 7) and not any(paused[10:])
    assert echo.ticks(np.tile(loud, 3))


def mirrored(model: MirrorModel, audio: Pcm, number: int) -> tuple[int, Pcm, bool]:
    (output,) = [output.output for output in model.step([RowUnit(0, Unit(number, audio))])]
    return output.turn, output.audio, output.end_of_turn


def test_a_mirror_speaks_while_it_hears() -> None:
    model = MirrorModel(1)
    model.open(0, SessionSetup())
    loud, quiet = 0.2 * np.ones(640, np.float32), np.zeros(640, np.float32)
    assert mirrored(model, quiet, 0)[0] == 0
    turn, pcm, ended = mirrored(model, loud, 1)
    assert (turn, ended) == (1, False) and len(pcm) == pytest.approx(1920, abs=32)
    assert not pcm[:900].any() and pcm[-900:] == pytest.approx(0.2, abs=0.02)
    ends = [mirrored(model, quiet, 2 + number)[2] for number in range(3)]
    assert ends == [False, False, True]
    assert mirrored(model, quiet, 10)[0] == 0
    assert mirrored(model, loud, 11)[0] == 2
    model.cancel(0, 2, 0)
    assert mirrored(model, loud, 12)[0] == 3, "what is heard after a cut is a new turn"


def test_words_are_counted_as_they_are_recognised() -> None:
    with Mouth() as mouth:
        clip = mouth.say("tell me a story")
    assert words_share(["tell me a story"], [clip]) == 1.0
    assert words_share(["tell me a story"], [np.zeros_like(clip)]) == 0.0


def test_a_server_that_cannot_be_installed_is_named(tmp_path: Path) -> None:
    server = Server("nobody's", ("-c", "pass"), SERVERS["aiortc"].door, pins=("nothing==1",))
    taken = tmp_path / "no folder"
    taken.touch()
    said: list[str] = []
    with pytest.raises(CannotInstall, match="no folder"):
        environment("nobody", server, taken, said.append)
    assert len(said) == 1 and "nothing==1" in said[0]
    assert environment("ours", SERVERS["ours"], tmp_path, said.append) == Path(sys.executable)


def step(n: int, *, gaps: float = 0.0) -> Step:
    return Step(n, n, 10.0, gaps, gaps, 0.1, 0.2, 0.5, 500 / n, 1.0, 20.0, 0.1, 0.3, 0.001)


def test_results_are_shown(tmp_path: Path) -> None:
    outcomes = {
        "a": Outcome("first", "1.0", steps=[step(8), step(12), step(16, gaps=0.03)]),
        "b": Outcome("second", "2.0", steps=[step(8)]),
        "c": Outcome("third", error="could not be installed"),
    }
    assert [row[2] for row in capacity_rows(outcomes)] == ["12", "≥ 8", "could not be installed"]
    outcomes["a"].endured = [
        Endured("1 % loss", 0.011, 0.999, 0.05, 0.07, 0.06, 1.0),
        Endured("2 s outage", 1.0, 0.0, 0.05, None, 0.3, 0.5),
    ]
    assert [row[6] for row in loss_rows(outcomes["a"].endured)] == ["yes", "NO"]
    text = markdown(outcomes, "a machine")
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert widths == [11] * 5 + [9] * 4
    plot(tmp_path / "plots" / "media.png", outcomes, "a title")
    assert (tmp_path / "plots" / "media.png").stat().st_size > 10_000
