"""A recorded clip as if live: its units into a duplex model, second by second, and what the model said on one timeline.

Knows nothing about files, nor which model it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from duplex_server.errors import DuplexError, ModelError
from duplex_server.models.base import Model, RowFailure, RowUnit
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, ModelOutput, Pcm, SessionSetup, Unit, VideoFrame

__all__ = ["Reply", "UnitReply", "replay", "units_of"]

ROW = 0


@dataclass(slots=True)
class UnitReply:
    """What the model made of one unit.

    Attributes:
        unit: its number.
        decision: ``listen`` or ``speak``.
        turn: of what is said; 0 while it listens.
        text: what it says in this unit.
        end_of_turn: whether its turn ends.
        begin_s: when the unit's sound begins on the timeline of the clip; None without sound.
        sound_s: how long it lasts.
        latency_s: from the unit's end until all of its answer was there; while not live, the computing alone.
        stages_ms: how long each stage took.
    """

    unit: int
    decision: str = "listen"
    turn: int = 0
    text: str = ""
    end_of_turn: bool = False
    begin_s: float | None = None
    sound_s: float = 0.0
    latency_s: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """What was said, on the timeline of the clip.

    Attributes:
        sounds: where each piece begins, in samples at 24 kHz, and its samples; none overlaps another.
        ends: where the last one ends.
        failure: why the conversation ended before the clip; None where it did not.
    """

    sounds: list[tuple[int, Pcm]] = field(default_factory=list)
    ends: int = 0
    failure: DuplexError | None = None

    def put(self, sound: Pcm, at_s: float) -> float:
        """Append sound that is there at ``at_s``: after what is still sounding. Returns when it begins, seconds."""
        begin = max(self.ends, round(at_s * OUTPUT_RATE_HZ))
        self.sounds.append((begin, sound))
        self.ends = begin + len(sound)
        return begin / OUTPUT_RATE_HZ

    def timeline(self, at_least: int) -> Pcm:
        """Return float32 ``[samples]`` at 24 kHz, silent where nothing was said, ``at_least`` samples of it."""
        whole = np.zeros(max(self.ends, at_least), np.float32)
        for begin, sound in self.sounds:
            whole[begin : begin + len(sound)] = sound
        return whole


def units_of(
    pcm: Pcm, frames: Iterator[VideoFrame], unit_ms: int, frames_per_unit: int, extra_units: int
) -> Iterator[Unit]:
    """Cut a clip into units; the last one is filled up with silence.

    Args:
        pcm: float32 at 16 kHz.
        frames: ``frames_per_unit`` for each unit, in order; may end early.
        unit_ms: length of a unit.
        frames_per_unit: see above; 0: the model sees nothing.
        extra_units: silent units after the clip's end, in which the model may finish.
    """
    size = INPUT_RATE_HZ * unit_ms // 1000
    n_units = -(-len(pcm) // size) + extra_units
    for index in range(n_units):
        heard = np.zeros(size, np.float32)
        part = pcm[index * size : (index + 1) * size]
        heard[: len(part)] = part
        seen = tuple(frame for _ in range(frames_per_unit) if (frame := next(frames, None)) is not None)
        yield Unit(index, heard, frames=seen)


async def replay(
    model: Model,
    setup: SessionSetup,
    units: Iterator[Unit],
    stages: Callable[[], Mapping[str, float]],
    reply: Reply,
    *,
    live: bool,
    tell: Callable[[UnitReply], None],
) -> None:
    """Hold the conversation. Cancelled, it closes the model's row; what ``reply`` holds and was told so far stands.

    Args:
        model: with a free row 0.
        setup: of the conversation.
        units: in order.
        stages: returns the seconds of each stage since it was last called.
        reply: empty; takes what is said, and why the conversation ended early, or did not begin.
        live: wait for each unit as if it were being recorded; else go on at once, as if computing took no time.
        tell: called with every unit's answer.
    """
    loop = asyncio.get_running_loop()
    try:
        model.open(ROW, setup)
    except DuplexError as error:
        reply.failure = error
        return
    stages()
    began_s, unit_s = loop.time(), model.spec.unit_ms / 1000
    try:
        for unit in units:
            end_s = (unit.index + 1) * unit_s
            if live:
                await asyncio.sleep(began_s + end_s - loop.time())
            step_s = loop.time()
            said = UnitReply(unit.index)
            for made in model.step([RowUnit(ROW, unit)]):
                if isinstance(made, RowFailure):
                    reply.failure = made.error
                    return
                there_s = loop.time() - began_s if live else end_s
                _take(said, made.output, reply, there_s)
            said.latency_s = loop.time() - began_s - end_s if live else loop.time() - step_s
            said.stages_ms = {name: round(1000 * seconds, 2) for name, seconds in stages().items()}
            tell(said)
    except ModelError as error:
        reply.failure = error
    finally:
        model.close(ROW)


def _take(said: UnitReply, output: ModelOutput, reply: Reply, there_s: float) -> None:
    if output.listening:
        return
    said.decision, said.turn = "speak", output.turn
    said.text += output.text
    said.end_of_turn |= output.end_of_turn
    if len(output.audio):
        begin_s = reply.put(output.audio, there_s)
        said.begin_s = begin_s if said.begin_s is None else said.begin_s
        said.sound_s += len(output.audio) / OUTPUT_RATE_HZ
