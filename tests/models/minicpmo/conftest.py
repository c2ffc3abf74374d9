"""The tiny checkpoint that tests of the engine load; all are left out where the engine's packages are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Never

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from torch import nn

    from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
    from duplex_server.models.minicpmo.config import MiniCPMOConfig
    from duplex_server.models.minicpmo.llm import Qwen3
    from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
    from duplex_server.models.minicpmo.vision import VisionTower

MISSING = [name for name in ("torch", "tokenizers", "safetensors") if importlib.util.find_spec(name) is None]


class LeftOut(pytest.Module):
    """A test file that is not even imported."""

    def collect(self) -> Never:
        raise pytest.skip.Exception(f"{', '.join(MISSING)} not installed: pip install duplex-server[minicpmo]")


@pytest.hookimpl
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if MISSING and module_path.name != "__init__.py":
        left_out: pytest.Module = LeftOut.from_parent(parent, path=module_path)
        return left_out
    return None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors are tiny: more threads only get into each other's way, and results stay the same on every machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """A checkpoint folder with the real structure, tiny widths and seeded weights: what the goldens were made with."""
    from tests.helpers.minicpmo_checkpoint import cached_checkpoint, tiny_config

    return cached_checkpoint(tiny_config())


@pytest.fixture(scope="session")
def hollow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the published sizes, 19 GB of which are holes: every header is real, every weight zero."""
    from tests.helpers.minicpmo_checkpoint import make_hollow_checkpoint, published_config

    folder = tmp_path_factory.mktemp("hollow")
    make_hollow_checkpoint(folder, published_config())
    return folder


@pytest.fixture(scope="session")
def shared_goldens() -> Path:
    """What the official code computed with the tiny checkpoint, where it is kept beside the repository."""
    folder = ROOT.parent / "shared" / "data" / "minicpmo_tiny" / "goldens"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the full goldens are kept beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_checkpoint: Path) -> MiniCPMOConfig:
    """The configuration of the tiny checkpoint."""
    from duplex_server.models.minicpmo.config import read_config

    return read_config(tiny_checkpoint)


@pytest.fixture(scope="session")
def vision_tower(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> VisionTower:
    """The tiny checkpoint's, in float32."""
    import torch

    from duplex_server.models.minicpmo.vision import VisionTower

    with torch.device("meta"):
        tower = VisionTower(tiny_settings)
    _load(tower, tiny_checkpoint)
    return tower


@pytest.fixture(scope="session")
def audio_encoder(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> AudioEncoder:
    """The tiny checkpoint's, in float32."""
    import torch

    from duplex_server.models.minicpmo.audio_encoder import AudioEncoder

    with torch.device("meta"):
        encoder = AudioEncoder(tiny_settings)
    _load(encoder, tiny_checkpoint)
    return encoder


@pytest.fixture(scope="session")
def tiny_llm(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> Qwen3:
    """The tiny checkpoint's, in float32."""
    import torch

    from duplex_server.models.minicpmo.llm import Qwen3

    with torch.device("meta"):
        llm = Qwen3(tiny_settings.llm)
    _load(torch.nn.ModuleDict({"llm": llm}), tiny_checkpoint)
    return llm


@pytest.fixture(scope="session")
def speech_decoder(tiny_checkpoint: Path, tiny_settings: MiniCPMOConfig) -> SpeechDecoder:
    """The tiny checkpoint's, in float32."""
    import torch

    from duplex_server.models.minicpmo.speech_loading import load_speech_decoder

    return load_speech_decoder(tiny_checkpoint, tiny_settings.tts, device=torch.device("cpu"), dtype=torch.float32)


def _load(module: nn.Module, checkpoint: Path) -> None:
    """Fill a module whose children are called as the checkpoint's parts."""
    import torch

    from duplex_server.models.minicpmo.checkpoint import read_checkpoint
    from duplex_server.models.minicpmo.weights import SafetensorsSource, load_module

    source = SafetensorsSource(read_checkpoint(checkpoint))
    for name, part in module.named_children():
        load_module(part, source, f"{name}.", device=torch.device("cpu"), dtype=torch.float32)
