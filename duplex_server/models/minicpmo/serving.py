"""Builds the duplex model in a worker, from plain values. Knows nothing about the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.model import MiniCPMO
from duplex_server.models.minicpmo.options import DuplexOptions
from duplex_server.models.minicpmo.parts import DTYPES, Parts, best_dtype, check_device, choose_kernels, load_parts
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.sampling import SamplingOptions
from duplex_server.models.minicpmo.speech_tokens import SpeechSampling
from duplex_server.models.minicpmo.voices import Voices
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions

__all__ = ["build"]

_SLICED_MAX_PX = 1344
"""Longer side of pictures where they are sliced. Source: three cells of 448 px, the grid of nine slices."""


def build(
    rows: int,
    *,
    folder: str,
    placement: Mapping[str, Any],
    dtype: str = "auto",
    window: str = "basic",
    window_tokens: int = 4000,
    flow_steps: int = 5,
    frames_per_unit: int = 1,
    picture_slices: int = 1,
    voice_file: str = "",
    greedy: bool = False,
    recorded: bool = True,
    seed: int | None = None,
    official: bool = False,
    model: Callable[..., MiniCPMO] = MiniCPMO,
) -> MiniCPMO:
    """Load a checkpoint folder, as engines do.

    Args:
        rows: how many conversations.
        folder: the checkpoint.
        placement: fields of :class:`Placement`.
        dtype: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the best that the device has.
        window: ``off``, ``basic`` or ``context``.
        window_tokens: positions of a conversation after which old units are dropped, or it ends.
        flow_steps: of the flow model's solver.
        frames_per_unit: most pictures of a second.
        picture_slices: most slices of a picture; 1 for none.
        voice_file: recording of the usual voice, in place of the checkpoint's.
        greedy: always the likeliest token and code, for tests.
        recorded: record what a GPU does in a step, and replay it; ignored on a processor.
        seed: of every conversation's random numbers, for tests.
        official: behave as the official code does, bug for bug.
        model: makes the model.

    Raises:
        ModelLoadError: something is missing or broken, or there is not enough memory; says what.
    """
    placed = _placement(placement)
    for device in placed.devices:
        check_device(device)
    on_gpu = torch.device(placed.layers[0]).type == "cuda"
    if on_gpu and not official:
        choose_kernels()
    options = DuplexOptions(
        window=WindowOptions(WindowMode(window), high_tokens=window_tokens, low_tokens=window_tokens * 7 // 8),
        sampling=SamplingOptions(greedy=greedy),
        max_frames=frames_per_unit,
        max_slices=picture_slices,
        frame_max_px=448 if picture_slices == 1 else _SLICED_MAX_PX,
        seed=seed,
        together=on_gpu,
        recorded=on_gpu and recorded and not official,
        official=official,
    )
    parts = load_parts(
        Path(folder),
        placed,
        dtype=best_dtype(placed.layers[0]) if dtype == "auto" else DTYPES[dtype],
        flow_steps=flow_steps,
        speech_sampling=SpeechSampling(greedy=greedy),
        official=official,
    )
    try:
        made = model(parts, rows, _voices(parts, voice_file), options)
        made.rehearse()
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{rows} conversations of {window_tokens} tokens do not fit beside the weights: "
            "set rows_per_worker or window_tokens lower"
        ) from error
    return made


def _placement(told: Mapping[str, Any]) -> Placement:
    return Placement(**{**told, "layers": tuple(told["layers"]), "precision": Precision(told["precision"])})


def _voices(parts: Parts, file: str) -> Voices:
    if parts.audio is None:
        raise ModelLoadError("a duplex model needs the audio encoder")
    speaks = parts.token2wav is not None
    voices = Voices(parts.folder, parts.audio.encode, file=Path(file) if file else None, speaks=speaks)
    voices.check()
    return voices
