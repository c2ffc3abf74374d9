"""A server as people run it, with a key, and what is said to it by clients that know nothing of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from duplex_server.media.pcm import to_int16
from duplex_server.media.resample import resample
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from tests.e2e.serving import Server
from tests.helpers.speech import UserVoice

KEY = "sk-only-for-these-tests"
ORIGIN = "http://clients.localhost:4321"
"""Where the page with the browser's client comes from; nothing listens there."""

Clips = Mapping[str, bytes]
"""What may be said, as int16 at 24 kHz, by name."""

_SAID = {"question": "what time is it", "story": "tell me a story", "stop": "stop"}


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all clients."""
    with Server("--api-keys", KEY, "--allowed-origins", ORIGIN) as started:
        yield started


@pytest.fixture(scope="session")
def clips(voice: UserVoice) -> Clips:
    """What a user may say."""
    said = {name: resample(voice.say(text), INPUT_RATE_HZ, OUTPUT_RATE_HZ) for name, text in _SAID.items()}
    return {name: to_int16(pcm).tobytes() for name, pcm in said.items()}


@pytest.fixture(scope="session")
def clips_folder(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as files, and a picture, for clients in processes of their own."""
    folder = tmp_path_factory.mktemp("clips")
    for name, pcm in clips.items():
        (folder / f"{name}.pcm").write_bytes(pcm)
    (folder / "black.jpg").write_bytes(black_picture())
    return folder


def black_picture() -> bytes:
    """Make a JPEG of a dark room."""
    file = io.BytesIO()
    Image.new("RGB", (160, 120), (4, 4, 4)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def agents_realtime() -> Path:
    """Folder of the JavaScript package."""
    folder = Path(__file__).parent / "node_modules" / "@openai" / "agents-realtime"
    if not folder.is_dir():
        pytest.skip("@openai/agents-realtime is not there: ./run-tests installs it, with npm, in tests/clients")
    return folder
