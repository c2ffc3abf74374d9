"""Captions scroll above one status line."""

from __future__ import annotations

import io
import re

import pytest

from duplex_server.talk.captions import Caption, Speaker, State
from duplex_server.talk.terminal import Terminal, clipped, meter


def screen(written: str) -> list[str]:
    """Return the lines that a terminal would show, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    return [line.split("\r\x1b[2K")[-1] for line in plain.split("\n")]


def test_a_caption_goes_above_the_status_line() -> None:
    out = io.StringIO()
    terminal = Terminal(out, live=True)
    terminal.show(State.SPEAKING, microphone_db=-100, model_db=-20, partial="It is")
    terminal.caption(Caption(Speaker.USER, "what time is it"))
    lines = screen(out.getvalue())
    assert lines[0] == "you:   what time is it"
    assert "speaking" in lines[1]
    assert lines[1].endswith("It is")


def test_what_was_not_heard_is_marked() -> None:
    out = io.StringIO()
    Terminal(out, live=False).caption(Caption(Speaker.MODEL, "Once upon", unheard="a time"))
    assert out.getvalue() == "model: Once upon [not heard] … a time\n"


def test_without_a_terminal_there_is_no_status_line_and_no_colour() -> None:
    out = io.StringIO()
    terminal = Terminal(out, live=False)
    terminal.show(State.SPEAKING, microphone_db=-20, model_db=-20, partial="It is")
    terminal.notice("Connected.")
    terminal.close()
    assert out.getvalue() == "Connected.\n"


def test_closing_removes_the_status_line() -> None:
    out = io.StringIO()
    terminal = Terminal(out, live=True)
    terminal.show(State.LISTENING, microphone_db=-100, model_db=-100, partial="")
    terminal.close()
    assert screen(out.getvalue()) == [""]


@pytest.mark.parametrize(
    ("level_db", "bar"), [(-100, "      "), (-60, "      "), (-30, "███   "), (0, "██████"), (6, "██████")]
)
def test_a_meter_shows_60_db(level_db: float, bar: str) -> None:
    assert meter(level_db) == bar


def test_a_long_line_keeps_its_end() -> None:
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdefg", 6) == "…cdefg"


def test_chinese_characters_take_two_columns() -> None:
    assert clipped("现在几点", 8) == "现在几点"
    assert clipped("现在几点", 7) == "…在几点"
    assert clipped("现在几点", 6) == "…几点"
