"""Whether a checkpoint folder is complete: every file, every tensor, by their headers alone.

Knows nothing about where a checkpoint comes from or how findings are shown.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from duplex_server.errors import CheckpointError, ModelLoadError
from duplex_server.models.minicpmo.assets import reference_voices
from duplex_server.models.minicpmo.checkpoint import read_checkpoint
from duplex_server.models.minicpmo.config import MiniCPMOConfig, read_config
from duplex_server.models.minicpmo.layout import tensor_shapes
from duplex_server.models.minicpmo.state_dict_header import read_state_dict_header
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes, flow_shapes, hift_shapes

__all__ = ["Finding", "verify_checkpoint"]

_POINTER = b"version https://git-lfs"
"""What a file of Git LFS begins with where its content was not fetched."""
_ONNX_BEGINS = b"\x08"
"""First byte of any ONNX file: the version of its format, field 1 of the message."""
_MiB = 2**20
_PROMPT_MODELS = ("speech_tokenizer_v2_25hz.onnx", "campplus.onnx")

Sizes = TypeVar("Sizes", FlowSizes, HiftSizes)
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one file, or a group of them.

    Attributes:
        what: the file's path within the folder, or the group's name.
        fact: one phrase about it, where it is in order.
        problems: one phrase each; none where it is in order.
        needed: whether conversations need it; otherwise a problem is worth a remark only.
    """

    what: str
    fact: str = ""
    problems: tuple[str, ...] = ()
    needed: bool = True


def verify_checkpoint(folder: Path) -> list[Finding]:
    """Look at every part of a checkpoint folder. Nothing is loaded, and nothing raised for what is wrong in it."""
    below = folder / "assets" / "token2wav"
    looks: list[tuple[str, Callable[[Path], str], Path, bool]] = [
        ("config.json", _config, folder, True),
        ("tokenizer", _tokenizer, folder, True),
        ("weights", _weights, folder, True),
        ("flow.pt", _flow, below / "flow.pt", True),
        ("hift.pt", _vocoder, below / "hift.pt", True),
        ("flow.yaml", _settings, below / "flow.yaml", False),
        *((name, _onnx, below / name, True) for name in _PROMPT_MODELS),
        ("reference voices", _voices, folder, False),
    ]
    if (below / "hift_original.pt").exists():
        looks.insert(5, ("hift_original.pt", _vocoder, below / "hift_original.pt", True))
        looks.insert(6, ("config.yaml", _settings, below / "config.yaml", False))
    return [
        _finding(name if path == folder else str(path.relative_to(folder)), look, path, needed)
        for name, look, path, needed in looks
    ]


def _finding(what: str, look: Callable[[Path], str], path: Path, needed: bool) -> Finding:
    try:
        return Finding(what, look(path), needed=needed)
    except CheckpointError as error:
        return Finding(what, problems=error.problems, needed=needed)
    except ModelLoadError as error:
        return Finding(what, problems=(str(error),), needed=needed)


def _config(folder: Path) -> str:
    config = read_config(folder)
    return f"{config.llm.num_hidden_layers} layers of {config.llm.hidden_size}"


def _tokenizer(folder: Path) -> str:
    missing = [
        f"{name} is missing"
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json")
        if not (folder / name).is_file()
    ]
    if missing:
        raise CheckpointError(str(folder), missing)
    if importlib.util.find_spec("tokenizers") is None:
        return "there, and not tried: the package tokenizers is not installed"
    from duplex_server.models.minicpmo.tokenizer import Tokenizer

    return f"{len(Tokenizer(folder).special_ids)} special tokens where they should be"


def _weights(folder: Path) -> str:
    for file in folder.glob("*.safetensors"):
        _refuse_pointer(file)
    held = {name: info.shape for name, info in read_checkpoint(folder).tensors.items()}
    config = read_config(folder)
    _compare(str(folder), _expected(config, held), held)
    return f"{len(held)} tensors"


def _expected(config: MiniCPMOConfig, held: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return what must be there; the vision tower's last layer may be there although it is not used."""
    expected = tensor_shapes(config)
    extra = f"vpm.encoder.layers.{config.vision_layers}."
    return expected | {name: shape for name, shape in held.items() if name.startswith(extra)}


def _flow(file: Path) -> str:
    held = _state_dict(file)
    return _as_laid_out(file, held, flow_shapes(_sizes(file, FlowSizes.of, held)))


def _vocoder(file: Path) -> str:
    held = _state_dict(file)
    sizes = _sizes(file, HiftSizes.of, held)
    return f"{'causal' if sizes.causal else 'classic'}, {_as_laid_out(file, held, hift_shapes(sizes))}"


def _sizes(file: Path, read: Callable[[Shapes], Sizes], held: Shapes) -> Sizes:
    try:
        return read(held)
    except KeyError as error:
        raise CheckpointError(str(file), [f"{error.args[0]} is missing"]) from error


def _state_dict(file: Path) -> Shapes:
    _refuse_pointer(file)
    return {name.removeprefix("generator."): info.shape for name, info in read_state_dict_header(file).items()}


def _as_laid_out(file: Path, held: Shapes, expected: Shapes) -> str:
    _compare(str(file), expected, held)
    return f"{len(held)} tensors"


def _compare(where: str, expected: Shapes, held: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in held]
    problems += [f"{name} is superfluous" for name in held if name not in expected]
    problems += [
        f"{name} is {list(held[name])}, where {list(shape)} is needed"
        for name, shape in expected.items()
        if name in held and held[name] != shape
    ]
    if problems:
        raise CheckpointError(where, problems)


def _settings(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(str(file), ["is missing; the published model's settings are taken"])
    if importlib.util.find_spec("yaml") is None:
        return "there, and not read: the package pyyaml is not installed"
    from duplex_server.models.minicpmo.yaml_values import read_yaml

    read_yaml(file)
    return "can be read"


def _onnx(file: Path) -> str:
    _refuse_pointer(file)
    try:
        with file.open("rb") as opened:
            begins = opened.read(1)
    except OSError as error:
        raise CheckpointError(str(file), [f"cannot be read: {error.strerror}"]) from error
    if begins != _ONNX_BEGINS:
        raise CheckpointError(str(file), ["is no ONNX file"])
    return f"{file.stat().st_size / _MiB:.0f} MiB"


def _voices(folder: Path) -> str:
    voices = reference_voices(folder)
    if not voices:
        raise CheckpointError(str(folder), ["none below assets/; voice prompts must be given by the client"])
    return ", ".join(voice.name for voice in voices)


def _refuse_pointer(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise CheckpointError(str(file), [f"cannot be read: {error.strerror}"]) from error
    if is_pointer:
        raise CheckpointError(str(file), [f"{file.name} is a pointer of Git LFS; its content was not fetched"])
