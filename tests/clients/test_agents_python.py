"""openai-agents for Python, unmodified, in an environment of its own, speaks with the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.running import PROGRAMS, run_program
from tests.e2e.serving import ROOT, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter that has the package."""
    found = ROOT / ".venv-clients" / "bin" / "python"
    if not found.is_file():
        pytest.skip("openai-agents is not there: ./run-tests installs it into .venv-clients")
    return str(found)


def test_it_speaks_and_is_spoken_to(server: Server, clips_folder: Path, python: str) -> None:
    tap = run_program(server.port, clips_folder, python, str(PROGRAMS / "agents_python.py"))
    assert len(tap.calls) == 3
    said = {event["type"] for line in tap.calls for event in line.sent}
    assert said >= {"session.update", "input_audio_buffer.append", "conversation.item.truncate", "response.cancel"}
    truncated = [event for line in tap.calls for event in line.heard if event["type"] == "conversation.item.truncated"]
    assert len(truncated) >= 2
