"""Loads what makes sound: the speech-token decoder, the flow model and the vocoders of a checkpoint folder.

Knows nothing about conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from duplex_server.models.minicpmo.assets import Token2WavFiles, find_token2wav
from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import TtsConfig
from duplex_server.models.minicpmo.flow import Flow, noise_table
from duplex_server.models.minicpmo.hift import Hift
from duplex_server.models.minicpmo.hift_causal import CausalHift, source_noise
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder, SpeechSampling
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes
from duplex_server.models.minicpmo.vocoder import CausalVocoder, ClassicVocoder, Vocoder
from duplex_server.models.minicpmo.weights import SafetensorsSource, StateDictSource, load_module

__all__ = ["load_speech_decoder", "load_token2wav", "load_vocoder", "load_whole_vocoder"]

Progress = Callable[[int], None] | None
NOISE_SEED = 0
"""Of the tables that speech starts from. The official code draws new ones for every process."""


def load_speech_decoder(
    folder: Path,
    config: TtsConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    sampling: SpeechSampling | None = None,
    strict: bool = False,
    progress: Progress = None,
) -> SpeechDecoder:
    """Load ``tts.``; see :class:`SpeechDecoder` and :func:`load_module` for the arguments and errors."""
    with torch.device("meta"):
        decoder = SpeechDecoder(config, sampling=sampling, strict=strict)
    source = SafetensorsSource(read_checkpoint(folder))
    load_module(decoder, source, "tts.", device=device, dtype=dtype, progress=progress)
    return decoder


def load_token2wav(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    steps: int = 10,
    strict: bool = False,
    progress: Progress = None,
) -> Token2Wav:
    """Load the flow model and the vocoder for streams.

    Args:
        folder: of the checkpoint.
        device: for both.
        dtype: of the flow model. The vocoder stays in float32, its pitch in float64.
        steps: of the flow model's solver.
        strict: as the official code does.
        progress: called with the bytes of each tensor that was read.

    Raises:
        CheckpointError: files or tensors are missing, superfluous or misshapen.
        ModelLoadError: a file cannot be read, or memory is exhausted.
    """
    files = find_token2wav(folder)
    source = StateDictSource(files.flow)
    with torch.device("meta"):
        flow = Flow(FlowSizes.of(source.shapes()), strict=strict)
    load_module(flow, source, device=device, dtype=dtype, progress=progress)
    vocoder = load_vocoder(files, device=device, progress=progress)
    return Token2Wav(flow, vocoder, noise_table(NOISE_SEED, device), steps=steps, strict=strict)


def load_vocoder(files: Token2WavFiles, *, device: torch.device, progress: Progress = None) -> Vocoder[Any]:
    """Load the vocoder for streams, of whichever layout."""
    if not files.causal:
        return ClassicVocoder(_hift(files.vocoder, device, progress))
    source = StateDictSource(files.vocoder, strip="generator.")
    with torch.device("meta"):
        hift = CausalHift(HiftSizes.of(source.shapes()))
    load_module(hift, source, device=device, dtype=torch.float32, progress=progress)
    return CausalVocoder(hift, source_noise(NOISE_SEED, device))


def load_whole_vocoder(files: Token2WavFiles, *, device: torch.device, progress: Progress = None) -> Hift:
    """Load the vocoder for whole utterances."""
    return _hift(files.whole_vocoder, device, progress)


def _hift(file: Path, device: torch.device, progress: Progress) -> Hift:
    source = StateDictSource(file, strip="generator.")
    with torch.device("meta"):
        hift = Hift(HiftSizes.of(source.shapes()))
    load_module(hift, source, device=device, dtype=torch.float32, progress=progress)
    return hift
