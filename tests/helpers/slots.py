"""A model's place as a test plays it: what the session pushes is recorded, what the model says is scripted.

For sessions in virtual time. Knows nothing about engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import numpy as np

from duplex_server.engine.base import UnitDone
from duplex_server.media.pcm import level_db
from duplex_server.media.vad import WINDOW_SAMPLES, VoiceWindow
from duplex_server.types import OUTPUT_RATE_HZ, ModelOutput, Pcm, SessionSetup, Unit

__all__ = ["LoudnessDetector", "ScriptedSlot", "speech"]

Script = Callable[[Unit], Iterable[ModelOutput]]
"""What the model says once it has taken a unit."""


class ScriptedSlot:
    """A :class:`~duplex_server.engine.base.Slot` that answers each unit by a script."""

    def __init__(self, script: Script | None = None) -> None:
        self.units: list[Unit] = []
        self.cancelled: list[tuple[int, int]] = []
        self.setups: list[SessionSetup] = []
        self.closed = False
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None  # an engine that is behind, until it is set
        self.on_unit: Callable[[UnitDone], None] | None = None
        self._script = script
        self._outputs: asyncio.Queue[ModelOutput | Exception | None] = asyncio.Queue()

    async def push(self, unit: Unit) -> None:
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        self.units.append(unit)
        for output in self._script(unit) if self._script else ():
            self._outputs.put_nowait(output)

    def say(self, output: ModelOutput) -> None:
        """Let the model yield something now."""
        self._outputs.put_nowait(output)

    def break_down(self, error: Exception) -> None:
        """Let the model fail now."""
        self.error = error
        self._outputs.put_nowait(error)

    async def outputs(self) -> AsyncIterator[ModelOutput]:
        while (output := await self._outputs.get()) is not None:
            if isinstance(output, Exception):
                raise output
            yield output

    def watch(self, on_unit: Callable[[UnitDone], None] | None) -> None:
        self.on_unit = on_unit

    def cancel(self, turn: int, played_samples: int) -> None:
        self.cancelled.append((turn, played_samples))

    def configure(self, setup: SessionSetup) -> None:
        self.setups.append(setup)

    async def aclose(self) -> None:
        self.closed = True
        self._outputs.put_nowait(None)


class LoudnessDetector:
    """Takes what is loud for speech, so that a test's tones have exact onsets."""

    def __init__(self) -> None:
        self._carry = np.zeros(0, np.float32)
        self._end_samples = 0

    def push(self, pcm: Pcm) -> list[VoiceWindow]:
        waiting = np.concatenate([self._carry, pcm])
        windows = []
        while len(waiting) >= WINDOW_SAMPLES:
            window, waiting = waiting[:WINDOW_SAMPLES], waiting[WINDOW_SAMPLES:]
            self._end_samples += WINDOW_SAMPLES
            level = level_db(window)
            windows.append(VoiceWindow(self._end_samples, 1.0 if level > -40 else 0.0, level, window))
        self._carry = waiting
        return windows


def speech(duration_s: float, *, turn: int = 1, text: str = "", end: bool = True, value: float = 0.5) -> ModelOutput:
    """One turn of constant loudness in one piece."""
    audio = np.full(int(duration_s * OUTPUT_RATE_HZ), value, np.float32)
    return ModelOutput(turn, audio, text, end_of_turn=end)
