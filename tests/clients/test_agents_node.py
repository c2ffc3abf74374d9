"""``@openai/agents-realtime`` over a WebSocket in Node, unmodified, speaks with the embedded model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.running import PROGRAMS, run_program
from tests.e2e.serving import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="session")
def node(agents_realtime: Path) -> str:
    """A Node.js that the package runs on, with the package."""
    assert agents_realtime.is_dir()
    found = shutil.which("node")
    if not found:
        pytest.skip("Node.js is not there (Debian package: nodejs)")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"Node.js 20 or later is needed; {found} is {version}")
    return found


def test_it_speaks_and_is_spoken_to(server: Server, clips_folder: Path, node: str) -> None:
    tap = run_program(server.port, clips_folder, node, str(PROGRAMS / "agents_node.mjs"))
    assert len(tap.calls) == 3
    said = {event["type"] for line in tap.calls for event in line.sent}
    assert said >= {"session.update", "input_audio_buffer.append", "conversation.item.truncate", "response.cancel"}
