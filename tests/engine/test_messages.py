"""Tests of what passes between the event loop and a worker, as bytes."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.engine.messages import (
    Boot,
    CancelTurn,
    CloseRow,
    Command,
    Died,
    Loaded,
    LoadFailed,
    Logged,
    OpenRow,
    Report,
    RowClosed,
    RowOpened,
    Said,
    Stepped,
    TakeUnit,
    decode_boot,
    decode_cancels,
    decode_commands,
    decode_reports,
    encode,
)
from duplex_server.types import Floor, Heard, ModelOutput, ModelSpec, SessionSetup, Unit, VideoFrame


def test_reports_survive_the_journey() -> None:
    spec = ModelSpec(name="m", unit_ms=40, voices=("a", "b"), examples=("say this",))
    reports: list[Report] = [
        Loaded(spec),
        LoadFailed("no weights"),
        RowOpened(1),
        RowClosed(2),
        Stepped((1, 2, 3), 0.25),
        Died("why"),
        Logged("logger", 30, "words"),
    ]
    assert decode_reports(memoryview(encode(reports))[4:]) == reports


def test_an_output_survives_the_journey() -> None:
    audio = np.linspace(-1, 1, 960, dtype=np.float32)
    sent = ModelOutput(3, audio, "words", end_of_turn=True, yields=True, heard=Heard("what", final=True))
    (report,) = decode_reports(memoryview(encode([Said(7, sent)]))[4:])
    assert isinstance(report, Said)
    assert report.conversation == 7
    assert (report.output.text, report.output.heard, report.output.yields) == ("words", sent.heard, True)
    np.testing.assert_array_equal(report.output.audio, audio)
    assert report.output.audio.dtype == np.float32


def test_a_unit_survives_the_journey_and_its_arrays_can_be_written_to() -> None:
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1]
    unit = Unit(5, np.arange(640, dtype=np.float32), 0.5, (VideoFrame(1.5, rgb),), ("typed",), Floor.SPEAK)
    setup = SessionSetup(instructions="be brief", voice_reference=np.ones(3, np.float32))
    commands: list[Command] = [OpenRow(1, 2, setup), TakeUnit(2, unit, setup), CloseRow(2)]
    opened, taken, closed = decode_commands(memoryview(encode(commands))[4:])
    assert isinstance(opened, OpenRow)
    assert opened.setup.voice_reference is not None
    np.testing.assert_array_equal(opened.setup.voice_reference, np.ones(3))
    assert isinstance(taken, TakeUnit)
    assert (taken.unit.index, taken.unit.texts, taken.unit.floor) == (5, ("typed",), Floor.SPEAK)
    np.testing.assert_array_equal(taken.unit.audio, unit.audio)
    np.testing.assert_array_equal(taken.unit.frames[0].rgb, rgb)
    assert taken.unit.audio.flags.writeable
    assert taken.unit.frames[0].rgb.flags.writeable
    assert closed == CloseRow(2)


def test_a_cancel_and_a_boot_survive_the_journey() -> None:
    cancel = CancelTurn(3, 4, 2400)
    assert decode_cancels(memoryview(encode([cancel]))[4:]) == [cancel]
    boot = Boot("model-0", "a.b:c", 16, {"rate": 1.5, "names": ["x"]}, 20)
    assert decode_boot(memoryview(encode([boot]))[4:]) == [boot]


@pytest.mark.parametrize(
    "audio", [np.zeros(3, np.float64), np.zeros((3, 2), np.float32), np.zeros((2, 2, 3), np.float32)]
)
def test_an_array_of_another_kind_is_refused(audio: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    with pytest.raises(TypeError, match="audio is float32"):
        encode([Said(1, ModelOutput(1, audio))])


def test_an_option_that_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        encode([Boot("w", "f", 1, {"thing": object()}, 0)])
