"""All the tensors of a checkpoint folder, wherever they are kept, from headers alone. Knows nothing about printing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from duplex_server.models.minicpmo.checkpoint import TensorInfo, read_checkpoint
from duplex_server.models.minicpmo.module_tree import Node, module_tree
from duplex_server.models.minicpmo.state_dict_header import read_state_dict_header

__all__ = ["TOKEN2WAV", "inspect_checkpoint", "token2wav_tensors"]

TOKEN2WAV = "token2wav."
"""What stands before the names of tensors in ``assets/token2wav/*.pt``, followed by the file's name."""


def inspect_checkpoint(folder: Path) -> Node:
    """Return the modules of the safetensors files and, where it is there, of token2wav.

    Raises:
        ModelLoadError: there is no checkpoint, or it is broken.
    """
    return module_tree([*read_checkpoint(folder).tensors.values(), *token2wav_tensors(folder)])


def token2wav_tensors(folder: Path) -> list[TensorInfo]:
    """Return the tensors of every ``.pt`` file of token2wav, named ``token2wav.FILE.NAME``.

    Raises:
        CheckpointError: a file is broken.
    """
    return [
        replace(info, name=f"{TOKEN2WAV}{file.stem}.{name.removeprefix('generator.')}")
        for file in sorted((folder / "assets" / "token2wav").glob("*.pt"))
        for name, info in read_state_dict_header(file).items()
    ]
