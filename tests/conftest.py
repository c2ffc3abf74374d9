"""What every test may ask for, and when a test is left out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from duplex_server.models.embedded.voice import Voice
from tests.helpers.speech import UserVoice

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROOT = Path(__file__).resolve().parent.parent


E2E_RERUNS = int(os.environ.get("E2E_RERUNS", "1"))
"""Second tries of a conversation in real time: a starved machine must fail one twice. 0 shows every first failure."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.flaky(reruns=E2E_RERUNS))
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


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    for name in _BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"no browser here: none of {', '.join(_BROWSERS)} was found (Debian package: chromium)")


@pytest.fixture(scope="session")
def voice() -> Iterator[UserVoice]:
    """The voice of the people who speak to servers in these tests."""
    with Voice() as espeak:
        yield UserVoice(espeak)
