"""A model that says again what it heard: small enough to read in one go, complete enough to test a server with.

The worked example of ``docs/models.md``. Knows nothing about sessions, and of speech only how probable it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from duplex_server.media.resample import resample
from duplex_server.models.base import RowOutput, RowUnit
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Floor, ModelOutput, ModelSpec, Pcm, SessionSetup, Unit

__all__ = ["EchoModel", "build"]

_UNIT_MS = 40
_SPEECH, _SILENCE = 0.5, 0.35
"""Probabilities that start speech and end it. Source: Silero VAD's defaults."""
_PAUSE_UNITS = 500 // _UNIT_MS
"""Silence after which the user is taken to have finished: longer than the pauses within a sentence."""
_PRE_ROLL_UNITS = 240 // _UNIT_MS
"""Sound kept from before the first unit that is certainly speech: a word begins before a detector is sure of it."""
_MAX_UNITS = 60_000 // _UNIT_MS
"""Longest recording; of a longer one the beginning is lost."""
_MAX_TEXTS = 100
"""Most typed messages that wait for an echo to end."""
_LEAD_UNITS = 3
"""How much more than a unit's length of sound the first unit of a turn gives, so that playing never runs dry."""


class _Row:
    """One conversation: what was recorded, and what is being played."""

    def __init__(self) -> None:
        self.turn = 0  # the newest, playing while ``playing`` is not empty
        self.cancelled_turn = 0  # the only attribute that another thread writes
        self.recorded: deque[Pcm] = deque(maxlen=_MAX_UNITS)  # when full the oldest unit goes
        self.spoke = False  # whether there is speech in the recording
        self.pause_units = 0  # units since the last of it
        self.playing: Pcm = np.zeros(0, np.float32)  # what is left of the turn
        self.typed: deque[str] = deque(maxlen=_MAX_TEXTS)  # when full the oldest goes

    def record(self, unit: Unit) -> None:
        """Keep what the user types and says, and a little of what came before it."""
        self.typed.extend(unit.texts)
        self.recorded.append(unit.audio)
        if unit.speech_probability >= (_SILENCE if self.spoke else _SPEECH):
            self.spoke, self.pause_units = True, 0
        elif self.spoke:
            self.pause_units += 1
        else:
            while len(self.recorded) > _PRE_ROLL_UNITS:
                self.recorded.popleft()

    def user_finished(self) -> bool:
        """Whether the user said something and has been silent since."""
        return self.spoke and self.pause_units >= _PAUSE_UNITS

    def take_recording(self) -> Pcm:
        """Return what was said, float32 at 24 kHz, and start a new recording."""
        said = list(self.recorded)[: len(self.recorded) - max(0, self.pause_units - 1)]
        self.recorded.clear()
        self.spoke, self.pause_units = False, 0
        echo: Pcm = np.clip(resample(np.concatenate(said), INPUT_RATE_HZ, OUTPUT_RATE_HZ), -1, 1)
        return echo


class EchoModel:
    """Records while the user speaks and plays it back when they stop; what they type comes back as text, with a tone.

    It listens while it plays, so what is said over an echo is echoed next.
    """

    def __init__(self, rows: int) -> None:
        """Args: rows: how many conversations it holds."""
        self.spec = ModelSpec(
            name="echo",
            unit_ms=_UNIT_MS,
            max_frames=0,
            uses_speech_probability=True,
            languages=("en", "zh"),
            examples=("Say anything, and wait.",),
        )
        self._rows = [_Row() for _ in range(rows)]

    def open(self, row: int, setup: SessionSetup) -> None:  # noqa: ARG002  (part of the protocol)
        """Start with nothing recorded. An echo has no language, voice or instructions: ``setup`` changes nothing."""
        self._rows[row] = _Row()

    def configure(self, row: int, setup: SessionSetup) -> None:
        """Change nothing, see :meth:`open`."""

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        """Record each unit and yield the next 40 ms of each echo."""
        for row_unit in batch:
            row = self._rows[row_unit.row]
            row.record(row_unit.unit)
            for output in self._answer(row, row_unit.unit):
                yield RowOutput(row_unit.row, output)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:  # noqa: ARG002  (part of the protocol)
        """Stop the echo. One assignment of an integer, which :meth:`step` looks at: nothing to be locked."""
        self._rows[row].cancelled_turn = max(turn, self._rows[row].cancelled_turn)

    def close(self, row: int) -> None:
        """Forget what was recorded."""
        self._rows[row] = _Row()

    def _answer(self, row: _Row, unit: Unit) -> Iterator[ModelOutput]:
        if len(row.playing) and (row.turn <= row.cancelled_turn or unit.floor is Floor.LISTEN):
            row.playing = row.playing[:0]
            if row.turn > row.cancelled_turn:
                yield ModelOutput(row.turn, end_of_turn=True)
                return
        if len(row.playing):
            yield self._play(row, "", 1)
        elif unit.floor is Floor.LISTEN:
            yield ModelOutput(0, listening=True)
        elif row.typed:
            yield self._begin(row, row.typed.popleft(), _tone())
        elif row.user_finished() or (unit.floor is Floor.SPEAK and row.spoke):
            said = row.take_recording()
            yield self._begin(row, f"({len(said) / OUTPUT_RATE_HZ:.1f} s of you)", said)
        elif unit.floor is Floor.SPEAK:
            yield self._begin(row, "(nothing to repeat yet)", _tone())
        else:
            yield ModelOutput(0, listening=True)

    def _begin(self, row: _Row, text: str, pcm: Pcm) -> ModelOutput:
        row.turn = max(row.turn, row.cancelled_turn) + 1
        row.playing = pcm
        return self._play(row, text, 1 + _LEAD_UNITS)

    def _play(self, row: _Row, text: str, n_units: int) -> ModelOutput:
        n_samples = n_units * OUTPUT_RATE_HZ * _UNIT_MS // 1000
        pcm, row.playing = row.playing[:n_samples], row.playing[n_samples:]
        return ModelOutput(row.turn, pcm, text, end_of_turn=not len(row.playing))


def _tone() -> Pcm:
    """Return 0.3 s of a soft tone that swells and fades."""
    times_s = np.arange(OUTPUT_RATE_HZ * 3 // 10) / OUTPUT_RATE_HZ
    swell = np.sin(np.pi * times_s / times_s[-1])
    tone: Pcm = (0.2 * swell * np.sin(2 * np.pi * 660 * times_s)).astype(np.float32)
    return tone


def build(rows: int) -> EchoModel:
    """Build the model, as engines do."""
    return EchoModel(rows)
