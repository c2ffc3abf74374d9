"""A tiny checkpoint that has a voice, and a model of it that decides by what it hears: random weights would decide
anything. All that it says, and how it sounds, comes from the weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from duplex_server.models.base import RowUnit
from duplex_server.models.minicpmo.hosting import host
from duplex_server.models.minicpmo.mel import MelChunk
from duplex_server.models.minicpmo.model import MiniCPMO
from duplex_server.models.minicpmo.serving import build
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import UnitInput
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.types import Floor, Pcm, SessionSetup
from tests.helpers.minicpmo_checkpoint import cached_checkpoint, tiny_config

__all__ = [
    "CHECKPOINT_VARIABLE",
    "OPTIONS",
    "ScriptedMiniCPMO",
    "build_scripted",
    "serve_scripted",
    "speaking_checkpoint",
]

CHECKPOINT_VARIABLE = "MINICPMO_TEST_CHECKPOINT"
OPTIONS: dict[str, Any] = {
    "dtype": "auto",
    "window": "basic",
    "window_tokens": 500,
    "flow_steps": 2,
    "frames_per_unit": 1,
    "picture_slices": 1,
    "voice_file": "",
}
"""Of :func:`duplex_server.models.minicpmo.serving.build`."""

VOICE_S = 2
LOUD_RMS = 0.01
"""Above this a unit is something to be answered."""
SAYS = ("one two", " three four", " five six")
"""In the units of an answer."""


def speaking_checkpoint(folder: Path) -> Path:
    """Lay out the tiny checkpoint with a recorded voice, and its features, which spares the networks for them."""
    made = cached_checkpoint(tiny_config())
    folder.mkdir(parents=True, exist_ok=True)
    for path in made.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    shutil.copytree(made / "assets", folder / "assets")
    voice = np.random.default_rng(0).normal(0, 0.1, 16_000 * VOICE_S).astype(np.float32)
    soundfile.write(folder / "assets" / "somebody.wav", voice, 16_000)
    generator = torch.Generator().manual_seed(0)
    prompt = VoicePrompt.of(
        torch.randint(6561, (25 * VOICE_S,), generator=generator),
        torch.randn(192, generator=generator),
        torch.randn(50 * VOICE_S, 80, generator=generator) - 6,
    )
    prompt.save(folder / "assets" / "somebody.npz")
    return folder


class ScriptedMiniCPMO(MiniCPMO):
    """Listens while it is loud, then says what :data:`SAYS` in three units, and listens again.

    An answer that is interrupted is not gone on with.
    """

    def open(self, row: int, setup: SessionSetup) -> None:
        super().open(row, setup)
        self._quiet = {**getattr(self, "_quiet", {}), row: len(SAYS)}
        self._given_up_turn = {**getattr(self, "_given_up_turn", {}), row: 0}

    def _perceived(self, batch: Sequence[RowUnit], chunks: Sequence[MelChunk]) -> list[UnitInput]:
        perceived = super()._perceived(batch, chunks)
        return [
            replace(given, script=self._script(given, came.unit.audio))
            for given, came in zip(perceived, batch, strict=True)
        ]

    def _script(self, given: UnitInput, audio: Pcm) -> Sequence[int] | None:
        row = given.row
        if given.floor is Floor.SPEAK:
            return None
        interrupted = given.floor is Floor.LISTEN or self._loop.cancelled_turn(row) > self._given_up_turn[row]
        self._given_up_turn[row] = self._loop.cancelled_turn(row)
        said = self._quiet[row]
        if float(np.sqrt(np.mean(audio**2))) > LOUD_RMS:
            self._quiet[row] = 0
            return [SPECIAL.listen]
        if interrupted or said >= len(SAYS):
            self._quiet[row] = len(SAYS)
            return [SPECIAL.listen]
        self._quiet[row] += 1
        ending = SPECIAL.turn_eos if self._quiet[row] == len(SAYS) else SPECIAL.chunk_eos
        return [SPECIAL.speak, *self._parts.tokenizer.encode(SAYS[said]), ending]


def build_scripted(rows: int, **options: Any) -> MiniCPMO:
    """A factory for a process engine."""
    torch.set_num_threads(1)
    return build(rows, model=ScriptedMiniCPMO, **options)


def serve_scripted(rows: int) -> MiniCPMO:
    """A factory for a server: the checkpoint's folder is in the environment, as its command takes no options."""
    hosting = host(Path(os.environ[CHECKPOINT_VARIABLE]), ["cpu"], rows, OPTIONS)
    return build_scripted(rows, **hosting.options[0], seed=1)
