"""The parts of a checkpoint folder, each loaded to its device: what every way to use the model begins with.

Knows nothing about conversations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import MiniCPMOConfig, read_config
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.placement import Placement
from duplex_server.models.minicpmo.progress import loading_bar
from duplex_server.models.minicpmo.quantize import layers_without_kernel, quantize_llm
from duplex_server.models.minicpmo.speech_loading import load_speech_decoder, load_token2wav
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder, SpeechSampling
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.vision import VisionTower
from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module

__all__ = ["DTYPES", "Parts", "best_device", "best_dtype", "check_device", "choose_kernels", "load_parts"]

log = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""Types that the model can be computed in, by name."""
_AMPERE = (8, 0)
"""First compute capability with bfloat16 in hardware. Source: NVIDIA's CUDA C++ Programming Guide."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What was loaded; None for what was left out."""

    folder: Path
    config: MiniCPMOConfig
    tokenizer: Tokenizer
    llm: Qwen3
    vision: VisionTower | None
    audio: AudioEncoder | None
    decoder: SpeechDecoder | None
    token2wav: Token2Wav | None

    @property
    def devices(self) -> set[torch.device]:
        """Where everything lies that takes steps."""
        beside = [part.device for part in (self.audio, self.token2wav) if part is not None]
        return {*self.llm.devices, *beside}


def best_device() -> str:
    """Return the first GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def best_dtype(device: str) -> torch.dtype:
    """Return the type to compute in where none was asked for: bfloat16 where the device has it, as it was trained.

    Older GPUs get float16, processors float32, on which half precision is slower.
    """
    kind = torch.device(device)
    if kind.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(kind) >= _AMPERE else torch.float16


def load_parts(
    folder: Path,
    placement: Placement,
    *,
    dtype: torch.dtype,
    flow_steps: int = 10,
    speech_sampling: SpeechSampling | None = None,
    official: bool = False,
) -> Parts:
    """Load what ``placement`` has a device for, with a bar on the terminal.

    Args:
        folder: the checkpoint.
        placement: a device for every part, None for what is left out.
        dtype: of weights and states; what turns codes into sound is kept in float32.
        flow_steps: of the flow model's solver.
        speech_sampling: how speech codes are chosen.
        official: speech as the official code makes it, bug for bug.

    Raises:
        CheckpointError: tensors are missing, superfluous or misshapen; names them.
        ModelLoadError: a file is missing or broken, or a device has not enough memory.
    """
    config = read_config(folder)
    checkpoint = read_checkpoint(folder)
    source = SafetensorsSource(checkpoint)
    with torch.device("meta"):
        llm = Qwen3(config.llm)
        quantize_llm(llm, placement.precision)
        vision = VisionTower(config) if placement.vision else None
        audio = AudioEncoder(config) if placement.audio else None
    with loading_bar(checkpoint.n_bytes, f"Loading {folder.name}") as progress:

        def load(module: nn.Module, prefix: str, device: torch.device | Callable[[str], torch.device]) -> None:
            load_module(module, source, prefix, device=device, dtype=dtype, progress=progress)

        load(llm, "llm.", lambda name: torch.device(placement.of_llm(name)))
        if slow := layers_without_kernel(llm):
            log.warning(
                "%d layers in %s have no kernel on their device: they save memory and cost time",
                slow,
                placement.precision.value,
            )
        for whole, where in ((vision, placement.vision), (audio, placement.audio)):
            if whole is not None and where is not None:
                for name, module in whole.named_children():
                    load(module, f"{name}.", torch.device(where))
    decoder, token2wav = None, None
    if placement.speech:
        device = torch.device(placement.speech)
        decoder = load_speech_decoder(
            folder, config.tts, device=device, dtype=dtype, sampling=speech_sampling, strict=official
        )
        token2wav = load_token2wav(folder, device=device, steps=flow_steps, strict=official)
    return Parts(folder, config, Tokenizer(folder), llm, vision, audio, decoder, token2wav)


def choose_kernels() -> None:
    """Let torch use the kernels that suit conversations, on a GPU.

    What turns codes into sound computes in float32: three times as fast in the tensor cores' way of it. cuDNN's
    attention makes a plan for each new shape, which takes it 50 ms on an H200, and rows that grow have a new shape in
    each unit; where steps are recorded, it may.
    """
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)


def check_device(device: str) -> None:
    """Find out whether torch can use a device.

    Raises:
        ModelLoadError: it cannot; says why.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ModelLoadError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
