"""Models whose output shows at a glance which unit, turn and conversation it came from, or that fail on demand."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from duplex_server.errors import CapacityError, ClientError, ModelLoadError
from duplex_server.models.base import RowFailure, RowOutput, RowUnit
from duplex_server.types import OUTPUT_RATE_HZ, Floor, ModelOutput, ModelSpec, Pcm, SessionSetup

__all__ = [
    "CommandedModel",
    "CountingModel",
    "GatedModel",
    "commanded",
    "counting",
    "dying_while_loading",
    "hanging_while_loading",
    "refusing_to_load",
    "silence",
]


def silence(spec: ModelSpec) -> Pcm:
    """One unit of nothing."""
    return np.zeros(spec.unit_samples, np.float32)


@dataclass
class _Speaker:
    turn: int = 0
    speaking: bool = False
    cancelled_turn: int = 0
    setup: SessionSetup = field(default_factory=SessionSetup)


class CountingModel:
    """Unit k is answered by one unit of audio of value k + 1, so order, loss and cuts show in the waveform.

    It speaks while it has the floor: ``LISTEN`` ends a turn, and so does a cancel, after which a new turn begins at
    once. ``calls`` records what the engine asked of it.
    """

    def __init__(self, rows: int, unit_ms: int = 40, pieces: int = 1) -> None:
        self.spec = ModelSpec(name="counting", unit_ms=unit_ms)
        self.calls: list[tuple[object, ...]] = []
        self._pieces = pieces
        self._speakers: list[_Speaker | None] = [None] * rows

    def open(self, row: int, setup: SessionSetup) -> None:
        assert self._speakers[row] is None, "opened twice"
        self._speakers[row] = _Speaker(setup=setup)
        self.calls.append(("open", row))

    def configure(self, row: int, setup: SessionSetup) -> None:
        self._speaker(row).setup = setup
        self.calls.append(("configure", row, setup.instructions))

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        rows = [row_unit.row for row_unit in batch]
        assert len(set(rows)) == len(rows), "two units of one row in a batch"
        self.calls.append(("step", *((row_unit.row, row_unit.unit.index) for row_unit in batch)))
        for row_unit in batch:
            for output in self._answer(self._speaker(row_unit.row), row_unit):
                yield RowOutput(row_unit.row, output)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        speaker = self._speaker(row)
        speaker.cancelled_turn = max(speaker.cancelled_turn, turn)
        self.calls.append(("cancel", row, turn, played_samples))

    def close(self, row: int) -> None:
        self._speaker(row)
        self._speakers[row] = None
        self.calls.append(("close", row))

    def _speaker(self, row: int) -> _Speaker:
        speaker = self._speakers[row]
        assert speaker is not None, "not open"
        return speaker

    def _answer(self, speaker: _Speaker, row_unit: RowUnit) -> Iterator[ModelOutput]:
        if speaker.speaking and speaker.turn <= speaker.cancelled_turn:
            speaker.speaking = False
        speaker.turn = max(speaker.turn, speaker.cancelled_turn)
        if row_unit.unit.floor is Floor.LISTEN:
            if speaker.speaking:
                speaker.speaking = False
                yield ModelOutput(turn=speaker.turn, end_of_turn=True)
            yield ModelOutput(turn=0, listening=True)
            return
        if not speaker.speaking:
            speaker.speaking = True
            speaker.turn += 1
        index = row_unit.unit.index
        n_samples = OUTPUT_RATE_HZ * self.spec.unit_ms // 1000
        audio = np.full(n_samples, index + 1, np.float32)
        for number, piece in enumerate(np.array_split(audio, self._pieces)):
            text = f"{speaker.setup.instructions}{index} " if number == 0 else ""
            yield ModelOutput(turn=speaker.turn, audio=piece, text=text)


class GatedModel:
    """Each step says "before", waits for :attr:`gate`, and says "after"."""

    def __init__(self, rows: int, unit_ms: int = 40) -> None:
        self.spec = ModelSpec(name="gated", unit_ms=unit_ms)
        self.gate = threading.Event()
        self.cancelled: list[tuple[int, int, int]] = []

    def open(self, row: int, setup: SessionSetup) -> None: ...

    def configure(self, row: int, setup: SessionSetup) -> None: ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        for word in ("before", "after"):
            for row_unit in batch:
                yield RowOutput(row_unit.row, ModelOutput(turn=1, text=f"{word} {row_unit.unit.index}"))
            self.gate.wait()

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        self.cancelled.append((row, turn, played_samples))

    def close(self, row: int) -> None: ...


class CommandedModel:
    """Does what the text of a unit says; listens where there is none. Everything it says is one ``text``.

    ``fail`` fails its conversation alone, ``pid``, ``child`` (starts a program, says its pid), ``log``, ``flood N``,
    ``until cancelled``, ``hang``, ``raise``, ``exit``, ``kill``, ``segfault``, ``wrong dtype``; any other text is
    repeated.
    """

    def __init__(self, rows: int, unit_ms: int = 40) -> None:
        self.spec = ModelSpec(name="commanded", unit_ms=unit_ms)
        self._cancelled = threading.Event()
        self._last_cancel = ""

    def open(self, row: int, setup: SessionSetup) -> None:
        match setup.instructions:
            case "raise":
                raise ValueError("told to raise in open")
            case "refuse":
                raise CapacityError(7)
            case "refuse instructions":
                raise ClientError("told to refuse them", param="session.instructions")

    def configure(self, row: int, setup: SessionSetup) -> None: ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput | RowFailure]:
        for row_unit in batch:
            for text in row_unit.unit.texts:
                if text == "fail":
                    yield RowFailure(row_unit.row, CapacityError(7))
                    break
                yield from (RowOutput(row_unit.row, said) for said in self._obey(text))
            if not row_unit.unit.texts:
                yield RowOutput(row_unit.row, ModelOutput(turn=0, listening=True))

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        if turn == 666:
            raise ValueError("told to raise in cancel")
        self._last_cancel = f"cancelled turn {turn} after {played_samples} samples"
        self._cancelled.set()

    def close(self, row: int) -> None: ...

    def _obey(self, text: str) -> Iterator[ModelOutput]:
        word, _, argument = text.partition(" ")
        if text == "wrong dtype":
            yield ModelOutput(turn=1, audio=np.zeros(3, np.float64))
        elif text == "until cancelled":
            yield ModelOutput(turn=1, text="waiting")
            self._cancelled.wait()
            yield ModelOutput(turn=1, text=self._last_cancel)
        elif text == "hang":
            yield ModelOutput(turn=1, text="hanging")
            threading.Event().wait()
        elif word == "flood":
            for number in range(int(argument)):
                yield ModelOutput(turn=1, text=str(number))
        elif text in _CRASHES:
            _CRASHES[text]()
        else:
            yield ModelOutput(turn=1, text=_ANSWERS.get(text, lambda: text)())


def _start_child() -> str:
    return str(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid)


def _log() -> str:
    import logging

    logging.getLogger("tests.commanded").warning("told to log %s", "this")
    return "logged"


def _raise() -> NoReturn:
    raise ValueError("told to raise")


_ANSWERS: dict[str, Callable[[], str]] = {"pid": lambda: str(os.getpid()), "child": _start_child, "log": _log}
_CRASHES: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
}


def counting(rows: int, **options: int) -> CountingModel:
    """A factory for a process engine."""
    return CountingModel(rows, **options)


def commanded(rows: int, **options: int) -> CommandedModel:
    """A factory for a process engine."""
    return CommandedModel(rows, **options)


def refusing_to_load(rows: int, message: str) -> NoReturn:
    """A factory that fails in an orderly way."""
    raise ModelLoadError(message)


def dying_while_loading(rows: int) -> NoReturn:
    """A factory whose process dies."""
    os._exit(9)


def hanging_while_loading(rows: int) -> NoReturn:
    """A factory that never returns."""
    while True:
        threading.Event().wait()
