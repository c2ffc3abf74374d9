"""A model that says what it hears at once, without end: it lets a whole server do the work of an echo.

The echo of ``docs/models.md`` waits until its user has finished, so nothing could be said of the delay from wire to
wire, and the two would never speak at the same time. Knows nothing about sessions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from duplex_server.media.resample import StreamResampler
from duplex_server.models.base import RowOutput, RowUnit
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Floor, ModelOutput, ModelSpec, Pcm, SessionSetup, Unit

__all__ = ["QUIET_RMS", "MirrorModel", "build"]

_UNIT_MS = 40
QUIET_RMS = 10 ** (-50 / 20)
"""A unit below this is a pause, in which nothing is said."""
_PAUSE_UNITS = 3
"""Pause after which a turn is over: 120 ms, longer than most within a sentence."""
_LEAD: Pcm = np.zeros(OUTPUT_RATE_HZ * _UNIT_MS // 1000, np.float32)
"""Put before the first unit of each turn, so that playing does not run dry when a unit comes a little late."""


class _Row:
    def __init__(self) -> None:
        self.resampler = StreamResampler(INPUT_RATE_HZ, OUTPUT_RATE_HZ)
        self.turn = 0
        self.cancelled_turn = 0  # the only attribute that another thread writes
        self.speaking = False
        self.quiet_units = 0


class MirrorModel:
    """Repeats each unit in the next moment; see the module."""

    def __init__(self, rows: int) -> None:
        """Args: rows: how many conversations it holds."""
        self.spec = ModelSpec(
            name="mirror", unit_ms=_UNIT_MS, max_frames=1, uses_speech_probability=True, languages=("en",)
        )
        self._rows = [_Row() for _ in range(rows)]

    def open(self, row: int, setup: SessionSetup) -> None:  # noqa: ARG002  (part of the protocol)
        """Start anew."""
        self._rows[row] = _Row()

    def configure(self, row: int, setup: SessionSetup) -> None:
        """Change nothing: a mirror has no language or voice."""

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        """Yield each unit again."""
        for row_unit in batch:
            yield RowOutput(row_unit.row, self._answer(self._rows[row_unit.row], row_unit.unit))

    def cancel(self, row: int, turn: int, played_samples: int) -> None:  # noqa: ARG002  (see above)
        """End the turn: what is heard next is a new one."""
        self._rows[row].cancelled_turn = max(turn, self._rows[row].cancelled_turn)

    def close(self, row: int) -> None:
        """Forget the row."""
        self._rows[row] = _Row()

    def _answer(self, row: _Row, unit: Unit) -> ModelOutput:
        pcm = row.resampler.push(unit.audio)
        quiet = unit.floor is Floor.LISTEN or float(unit.audio @ unit.audio) < QUIET_RMS**2 * len(unit.audio)
        row.quiet_units = row.quiet_units + 1 if quiet else 0
        if row.speaking and row.turn <= row.cancelled_turn:
            row.speaking = False
        if not row.speaking:
            if quiet:
                return ModelOutput(0, listening=True)
            row.turn = max(row.turn, row.cancelled_turn) + 1
            row.speaking = True
            return ModelOutput(row.turn, np.concatenate([_LEAD, pcm]))
        row.speaking = row.quiet_units < _PAUSE_UNITS
        return ModelOutput(row.turn, pcm, end_of_turn=not row.speaking)


def build(rows: int) -> MirrorModel:
    """Build the model, as engines do."""
    return MirrorModel(rows)
