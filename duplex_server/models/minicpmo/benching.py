"""Measures the duplex model: stages of a unit, encoders, decoding, memory, and how many conversations it holds.

Knows nothing about how figures are shown. Everything heard and seen is made up; what is said is asked for by the floor.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch

from duplex_server.errors import CapacityError, ModelLoadError
from duplex_server.models.base import RowFailure, RowUnit
from duplex_server.models.minicpmo.model import MiniCPMO
from duplex_server.models.minicpmo.options import DuplexOptions
from duplex_server.models.minicpmo.parts import Parts
from duplex_server.models.minicpmo.pictures import slice_picture
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.models.minicpmo.voices import Voice, Voices
from duplex_server.types import Floor, SessionSetup, Unit, VideoFrame

__all__ = [
    "HELD_WITHIN_S",
    "KINDS",
    "UnitFigures",
    "decoding_tokens_per_s",
    "encoding_s",
    "measure_units",
    "model_to_measure",
    "most_that_fit",
    "peak_memory_bytes",
]

_T = TypeVar("_T")

KINDS = ("listening", "speaking", "omni listening", "omni speaking")
"""What conversations do in each unit; omni: with a picture."""
HELD_WITHIN_S = 0.7
"""A unit's answer must be there within so much of its second for a conversation to count as held in real time."""
WARM_UP_UNITS = 2
UNIT_SAMPLES = 16_000
PICTURE_PX = (336, 602)
"""Height and width: about as many patches as any unsliced picture has."""
PROMPT_S = 5
RECORDING_S = 5
CONTEXT_TOKENS = 512
DECODED_TOKENS = 16


class MadeUpVoices:
    """One voice that is no recording, of the usual length: for the time it takes, a voice is as good as another.

    Args:
        parts: with the audio encoder.
    """

    names = ("made up",)

    def __init__(self, parts: Parts) -> None:
        draw = torch.Generator().manual_seed(0)
        codes = torch.randint(0, 6561, (25 * PROMPT_S,), generator=draw)
        prompt = VoicePrompt.of(
            codes, torch.randn(192, generator=draw), torch.randn(2 * len(codes), 80, generator=draw)
        )
        assert parts.audio is not None
        reference = parts.audio.encode(_noise(PROMPT_S, 0))
        self._voice = Voice(reference, prompt if parts.token2wav is not None else None)

    clones = False
    """Nobody sends recordings."""

    def of(self, setup: SessionSetup) -> Voice:  # noqa: ARG002 - there is one
        """Return the voice."""
        return self._voice


def most_that_fit(counts: Sequence[int], make: Callable[[int], _T]) -> tuple[int, _T]:
    """Make something for as many conversations as memory holds.

    Args:
        counts: conversations to try, ascending.
        make: makes it for a number of them.

    Returns:
        the largest number that fits, and what was made for it.

    Raises:
        ModelLoadError: not even the smallest fits.
    """
    for count in reversed(counts):
        try:
            return count, make(count)
        except torch.OutOfMemoryError:
            pass
    raise ModelLoadError(f"there is no memory for {counts[0]} conversations beside the weights")


def model_to_measure(
    parts: Parts, rows: int, observe: Callable[[str, float], None], *, frames: bool, together: bool, recorded: bool
) -> MiniCPMO:
    """Make a model of what was loaded, with a made-up voice, and let it rehearse.

    Args:
        parts: audio encoder included.
        rows: how many conversations.
        observe: told how long each stage of a step takes.
        frames: whether it sees a picture per unit.
        together: whether rows attend in one masked call.
        recorded: whether steps are recorded and replayed.
    """
    options = DuplexOptions(max_frames=int(frames), seed=0, together=together, recorded=recorded)
    model = MiniCPMO(parts, rows, cast(Voices, MadeUpVoices(parts)), options, observe=observe)
    model.rehearse()
    return model


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """What units took.

    Attributes:
        kind: see :data:`KINDS`.
        conversations: at a time.
        p50_s: median time from a unit's sound to the whole answer of all conversations.
        p95_s: 95th percentile.
        stages_s: median of each stage.
        sound_s: speech made in a unit by a conversation, mean.
        failed: conversations that ended for want of memory.
    """

    kind: str
    conversations: int
    p50_s: float
    p95_s: float
    stages_s: Mapping[str, float]
    sound_s: float
    failed: int

    @property
    def held(self) -> bool:
        return not self.failed and self.p95_s <= HELD_WITHIN_S


def measure_units(
    model: MiniCPMO,
    kind: str,
    conversations: int,
    units: int,
    take_stages: Callable[[], Mapping[str, float]],
    *,
    setup: SessionSetup | None = None,
    rest: Callable[[], object] = lambda: None,
) -> UnitFigures:
    """Hold some conversations for some units, all units of a second arriving together.

    Args:
        model: with as many free rows.
        kind: see :data:`KINDS`.
        conversations: how many.
        units: that count; the first two do not.
        take_stages: returns the seconds of each stage since it was last called.
        setup: of each conversation; long instructions make long memories.
        rest: called before each unit.
    """
    rows: list[int] = []
    taken: list[float] = []
    stages: list[Mapping[str, float]] = []
    samples, failed = 0, 0
    try:
        for row in range(conversations):
            try:
                model.open(row, setup or SessionSetup())
                rows.append(row)
            except CapacityError:
                failed += 1
        for index in range(WARM_UP_UNITS + units):
            batch = [RowUnit(row, _unit(kind, index, row)) for row in rows]
            rest()
            take_stages()
            begun_s = time.perf_counter()
            made = list(model.step(batch))
            took_s = time.perf_counter() - begun_s
            failed += sum(isinstance(output, RowFailure) for output in made)
            if index >= WARM_UP_UNITS:
                taken.append(took_s)
                stages.append(take_stages())
                samples += sum(len(output.output.audio) for output in made if not isinstance(output, RowFailure))
    finally:
        for row in rows:
            model.close(row)
    names = dict.fromkeys(name for unit in stages for name in unit)
    return UnitFigures(
        kind,
        conversations,
        float(np.median(taken)),
        float(np.percentile(taken, 95)),
        {name: float(np.median([unit.get(name, 0.0) for unit in stages])) for name in names},
        samples / 24_000 / units / conversations,
        failed,
    )


def encoding_s(parts: Parts) -> Iterator[tuple[str, float]]:
    """Yield what encoding a picture and five seconds of sound takes, seconds, once warm."""
    if parts.vision is not None:
        vision = parts.vision
        picture = np.random.default_rng(0).integers(0, 256, (*PICTURE_PX, 3), np.uint8)
        yield "a picture", _once_warm(lambda: vision.encode(slice_picture(picture, 1)).cpu())
    if parts.audio is not None:
        audio, recording = parts.audio, _noise(RECORDING_S, 1)
        yield f"{RECORDING_S} s of sound", _once_warm(lambda: audio.encode(recording).cpu())


@torch.inference_mode()
def decoding_tokens_per_s(parts: Parts, rows: int, *, together: bool, recorded: bool) -> float:
    """Return how many tokens a second the language model decodes for ``rows`` conversations together."""
    llm = parts.llm
    replays = Replays(llm.devices[0]) if recorded else None
    cache = llm.new_cache(rows, CONTEXT_TOKENS + 2 * DECODED_TOKENS, together=together, replays=replays)
    everyone = list(range(rows))
    ids = [(7919 * place) % llm.config.vocab_size for place in range(CONTEXT_TOKENS)]
    hidden = llm.forward([llm.embed(ids) for _ in everyone], everyone, cache)

    def decode() -> None:
        nonlocal hidden
        for _ in range(DECODED_TOKENS):
            chosen = llm.logits(torch.stack([states[-1] for states in hidden])).argmax(dim=-1)
            hidden = llm.forward(llm.embed(chosen).split(1), everyone, cache)
        hidden[0].cpu()  # until it has been computed

    return rows * DECODED_TOKENS / _once_warm(decode)


def peak_memory_bytes(devices: Sequence[str]) -> int:
    """Return the most memory that was held: of the GPUs, or of this process where there is none."""
    gpus = [device for device in devices if device.startswith("cuda")]
    if gpus:
        return sum(torch.cuda.max_memory_allocated(device) for device in gpus)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _once_warm(work: Callable[[], object]) -> float:
    work()
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _unit(kind: str, index: int, row: int) -> Unit:
    pictures: tuple[VideoFrame, ...] = ()
    if kind.startswith("omni"):
        rgb = np.random.default_rng(row).integers(0, 256, (*PICTURE_PX, 3), np.uint8)
        pictures = (VideoFrame(float(index), rgb),)
    floor = Floor.SPEAK if kind.endswith("speaking") else Floor.LISTEN
    return Unit(index, _noise(1, 1000 * row + index), frames=pictures, floor=floor)


def _noise(seconds: int, seed: int) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(seconds * UNIT_SAMPLES)).astype(np.float32)
