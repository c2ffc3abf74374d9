"""What every test may ask for, and when a test is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("e2e"):  # real browsers in real time: a starved machine must fail one twice
            item.add_marker(pytest.mark.flaky(reruns=1))
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here: nvidia-smi was not found"))


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """Recorded speech that is kept beside the repository."""
    folder = ROOT.parent / "shared" / "data" / "speech"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: recorded speech is kept beside the repository")
    return folder
