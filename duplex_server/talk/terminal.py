"""Captions that scroll, above one line that shows what goes on. Knows nothing about conversations."""

from __future__ import annotations

import shutil
import unicodedata
from typing import TextIO

from duplex_server.talk.captions import Caption, Speaker, State

__all__ = ["Terminal", "clipped", "meter"]

_ERASE_LINE = "\r\x1b[2K"
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_BARS = " ▁▂▃▄▅▆▇█"
_QUIETEST_DB = -60.0
_METER_WIDTH = 6
_NAME_WIDTH = 7


def meter(level_db: float) -> str:
    """Return a level as a short bar: empty at −60 dBFS, full at 0."""
    steps = _METER_WIDTH * (len(_BARS) - 1)
    filled = round(min(1.0, max(0.0, 1 - level_db / _QUIETEST_DB)) * steps)
    per_cell = len(_BARS) - 1
    return "".join(_BARS[min(per_cell, max(0, filled - cell * per_cell))] for cell in range(_METER_WIDTH))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clipped(text: str, columns: int) -> str:
    """Return the end of a text that fits into so many columns of a terminal, after an ellipsis if it is cut."""
    if sum(map(_columns, text)) <= columns:
        return text
    kept: list[str] = []
    room = columns - 1
    for character in reversed(text):
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return "…" + "".join(reversed(kept))


class Terminal:
    """Where a person reads along.

    Args:
        out: where to write.
        live: whether ``out`` is a terminal that can rewrite its last line; if not, only captions are written.
    """

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live
        self._status = ""

    def caption(self, caption: Caption) -> None:
        """Add a complete caption above the status line."""
        name = f"{caption.speaker.value}:".ljust(_NAME_WIDTH)
        unheard = f" … {caption.unheard}" if caption.unheard else ""
        if self._live:
            style = _BOLD if caption.speaker is Speaker.USER else ""
            self._print(f"{style}{name}{caption.text}{_PLAIN}{_DIM}{unheard}{_PLAIN}")
        else:
            self._print(f"{name}{caption.text}{' [not heard]' if unheard else ''}{unheard}")

    def notice(self, text: str) -> None:
        """Add a line of the program's own."""
        self._print(f"{_DIM}{text}{_PLAIN}" if self._live else text)

    def show(self, state: State, *, microphone_db: float, model_db: float, partial: str) -> None:
        """Rewrite the status line."""
        if not self._live:
            return
        head = f"mic {meter(microphone_db)}  model {meter(model_db)}  {state.value:<12}"
        columns = shutil.get_terminal_size().columns
        self._status = f"{head} {_DIM}{clipped(partial, max(1, columns - len(head) - 2))}{_PLAIN}"
        self._out.write(_ERASE_LINE + self._status)
        self._out.flush()

    def close(self) -> None:
        """Leave the cursor on an empty line."""
        if self._status:
            self._out.write(_ERASE_LINE)
        self._status = ""
        self._out.flush()

    def _print(self, line: str) -> None:
        self._out.write(f"{_ERASE_LINE if self._status else ''}{line}\n{self._status}")
        self._out.flush()
