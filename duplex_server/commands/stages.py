"""Loads the duplex model for one conversation or some, and keeps how long its stages take.

Knows nothing about what is done with them.
"""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from duplex_server.errors import ConfigError

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.model import MiniCPMO

__all__ = ["Stages", "load_model"]


class Stages:
    """Seconds by stage, of what happened since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def ended(self, stage: str, seconds: float) -> None:
        """Take note of a stage."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Return what was noted and begin anew."""
        taken, self._seconds = self._seconds, {}
        return taken


def load_model(
    asked: argparse.Namespace, stages: Stages, *, frames_per_unit: int, picture_slices: int = 1, rows: int = 1
) -> MiniCPMO:
    """Load ``asked.checkpoint`` to ``asked.device`` or the GPUs that are found.

    Args:
        asked: with ``checkpoint``, ``device``, ``flow_steps``, ``greedy``, ``seed`` and ``ref_audio``.
        stages: told how long each stage of a step takes.
        frames_per_unit: most pictures a second; 0: the model is loaded without eyes.
        picture_slices: most slices of a picture.
        rows: how many conversations.

    Raises:
        ConfigError: a file that was named is not there.
        ModelLoadError: the checkpoint cannot be used; says why.
    """
    from duplex_server.models.minicpmo.hosting import host
    from duplex_server.models.minicpmo.model import MiniCPMO
    from duplex_server.models.minicpmo.serving import build

    if asked.ref_audio is not None and not asked.ref_audio.is_file():
        raise ConfigError(f"{asked.ref_audio} is not there.")
    options = {
        "frames_per_unit": frames_per_unit,
        "picture_slices": picture_slices,
        "voice_file": str(asked.ref_audio or ""),
        "flow_steps": asked.flow_steps,
        "window_tokens": 4000,
        "greedy": asked.greedy,
        "seed": asked.seed,
    }
    hosting = host(asked.checkpoint, [asked.device] if asked.device else [], rows, options)
    return build(rows, **hosting.options[0], model=functools.partial(MiniCPMO, observe=stages.ended))
