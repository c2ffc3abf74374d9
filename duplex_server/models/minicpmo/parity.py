"""Compares this engine with recorded runs of the official code: every stage, every golden that a folder holds.

Knows nothing about how results are shown. The format of goldens is that of ``tests/goldens/minicpmo/README.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import MiniCPMOConfig, read_config
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.speech_loading import load_speech_decoder, load_token2wav
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.vision import VisionTower
from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module

__all__ = ["LIMITS", "Engine", "Golden", "Stage", "Tally", "compare_all", "load_engine"]

LIMITS = {
    "mel": 5e-5,
    "picture embeddings": 1e-5,
    "audio embeddings": 1e-5,
    "hidden states": 5e-5,
    "logits": 1e-4,
    "keys and values": 1e-4,
    "speech conditions": 1e-5,
    "flow caches": 1e-4,
    "mel of speech": 1e-4,
    "waveform": 1e-3,
    "mel of a voice": 2e-5,
    "tables": 2e-6,
    "token ids": 0.0,
    "speech codes": 0.0,
    "decisions": 0.0,
    "text": 0.0,
}
"""Largest difference of each stage that is rounding, in float32: sums are made in another order here than there.
The official spectra are computed in float32, whose rounding shows in their quiet bins, ours in float64."""


@dataclass(slots=True)
class Stage:
    """What was found of one stage in one golden.

    Attributes:
        golden: its name.
        stage: a key of :data:`LIMITS`.
        compared: numbers, ids or texts.
        worst: largest difference of numbers; infinite where shapes differ.
        differing: ids or texts that differ.
        where: the first of these, or the worst.
    """

    golden: str
    stage: str
    compared: int = 0
    worst: float = 0.0
    differing: int = 0
    where: str = ""

    @property
    def fits(self) -> bool:
        return self.worst <= LIMITS[self.stage] and not self.differing


@dataclass(slots=True)
class Tally:
    """Counts what a golden's stages come to, in the order in which they first come."""

    golden: str
    stages: dict[str, Stage] = field(default_factory=dict)

    def numbers(self, stage: str, key: str, found: Tensor, expected: Tensor) -> None:
        """Compare two tensors."""
        kept = self._of(stage)
        kept.compared += expected.numel()
        if found.shape != expected.shape:
            worst = float("inf")
        else:
            difference = (found.detach().cpu().double() - expected.double()).abs()
            worst = difference.max().item() if expected.numel() else 0.0
        if worst > kept.worst or worst != worst:
            kept.worst, kept.where = (worst if worst == worst else float("inf")), key

    def sequences(self, stage: str, key: str, found: list[int], expected: list[int]) -> None:
        """Compare two sequences of ids."""
        kept = self._of(stage)
        kept.compared += len(expected)
        differing = sum(a != b for a, b in zip(found, expected, strict=False)) + abs(len(found) - len(expected))
        if differing and not kept.differing:
            kept.where = key
        kept.differing += differing

    def facts(self, stage: str, key: str, found: object, expected: object) -> None:
        """Compare two values of any kind."""
        kept = self._of(stage)
        kept.compared += 1
        if found != expected:
            kept.where = kept.where or f"{key}: {found!r}, not {expected!r}"
            kept.differing += 1

    def _of(self, stage: str) -> Stage:
        return self.stages.setdefault(stage, Stage(self.golden, stage))


@dataclass(frozen=True, slots=True)
class Golden:
    """Files of one name.

    Attributes:
        name: what stands behind ``golden_``.
        inputs: arrays of ``inputs_NAME.npz``.
        arrays: of ``golden_NAME.npz``.
        told: what ``golden_NAME.json`` holds; None where there is none.
        scenario: what ``scenario_NAME.json`` holds; None where the golden is no conversation.
        folder: where they are.
    """

    name: str
    inputs: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    told: Any
    scenario: dict[str, Any] | None
    folder: Path

    @classmethod
    def read(cls, folder: Path, name: str) -> Golden:
        """Read the files of a name; all but ``golden_NAME.npz`` may be missing.

        Raises:
            ModelLoadError: one cannot be read.
        """
        try:
            return cls(
                name,
                _arrays(folder / f"inputs_{name}.npz"),
                _arrays(folder / f"golden_{name}.npz"),
                _told(folder / f"golden_{name}.json"),
                _told(folder / f"scenario_{name}.json"),
                folder,
            )
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"the golden {name} in {folder} cannot be read: {error}") from error

    def tensor(self, key: str) -> Tensor:
        """Return one of the arrays."""
        return torch.from_numpy(self.arrays[key])

    def sound(self, key: str) -> np.ndarray:
        """Return sound among the inputs, float32; 16-bit samples are scaled to ±1."""
        found = self.inputs[key]
        return found.astype(np.float32) / 32768 if found.dtype == np.int16 else found


def _arrays(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


def _told(file: Path) -> Any:
    return json.loads(file.read_bytes()) if file.is_file() else None


@dataclass(frozen=True, slots=True)
class Engine:
    """All parts of a checkpoint, in float32, in the official ways."""

    folder: Path
    config: MiniCPMOConfig
    tokenizer: Tokenizer
    llm: Qwen3
    vision: VisionTower
    audio: AudioEncoder
    decoder: SpeechDecoder
    token2wav: Token2Wav | None


def load_engine(folder: Path, device: torch.device, flow_steps: int) -> Engine:
    """Load a checkpoint folder; token2wav may be missing.

    Raises:
        ModelLoadError: it is incomplete otherwise, or broken.
    """
    config = read_config(folder)
    source = SafetensorsSource(read_checkpoint(folder))
    with torch.device("meta"):
        llm, vision, audio = Qwen3(config.llm), VisionTower(config), AudioEncoder(config)
    load_module(llm, source, "llm.", device=device, dtype=torch.float32)
    for whole in (vision, audio):
        for name, part in whole.named_children():
            load_module(part, source, f"{name}.", device=device, dtype=torch.float32)
    decoder = load_speech_decoder(folder, config.tts, device=device, dtype=torch.float32, strict=True)
    token2wav = None
    if (folder / "assets" / "token2wav").is_dir():
        token2wav = load_token2wav(folder, device=device, steps=flow_steps, strict=True)
    return Engine(folder, config, Tokenizer(folder), llm, vision, audio, decoder, token2wav)


def compare_all(checkpoint: Path, goldens: Path, device: str = "cpu", only: str | None = None) -> Iterator[Stage]:
    """Compare everything in a folder, golden by golden.

    Args:
        checkpoint: that the goldens were made with.
        goldens: folder of ``golden_NAME`` files.
        device: to compute on, as torch spells it.
        only: name of one golden; None: all.

    Yields:
        what was found of each stage.

    Raises:
        ModelLoadError: the checkpoint cannot be loaded, or there is no golden.
    """
    from duplex_server.models.minicpmo import parity_components, parity_scenario, parity_sound

    names = sorted(file.stem.removeprefix("golden_") for file in goldens.glob("golden_*.npz"))
    names = [name for name in names if only in (None, name)]
    if not names:
        raise ModelLoadError(f"{goldens} holds no golden_{only or 'NAME'}.npz")
    recorded_voice = parity_sound.RecordedVoice.find(goldens)
    steps = {flow_steps_of(goldens, name) for name in names} - {None}
    engine = load_engine(
        checkpoint, torch.device(device), flow_steps=max((s for s in steps if s), default=recorded_voice.steps)
    )
    recorded_voice.lend_noise(engine)
    kinds: dict[str, Callable[[Engine, Golden, Tally], None]] = {
        "components": parity_components.compare,
        "token2wav": parity_sound.compare,
    }
    for name in names:
        golden = Golden.read(goldens, name)
        tally = Tally(name)
        if golden.scenario is not None:
            parity_scenario.compare(engine, golden, tally, recorded_voice)
        elif name in kinds:
            kinds[name](engine, golden, tally)
        yield from tally.stages.values()


def flow_steps_of(goldens: Path, name: str) -> int | None:
    """Return the solver's steps that a scenario was recorded with; None where it is no scenario."""
    scenario = _told(goldens / f"scenario_{name}.json")
    return scenario["flow_steps"] if scenario else None
