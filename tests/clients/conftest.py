"""A server as people run it, with a key, and what is said to it by clients that know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

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
    """The same as files, for clients in processes of their own."""
    folder = tmp_path_factory.mktemp("clips")
    for name, pcm in clips.items():
        (folder / f"{name}.pcm").write_bytes(pcm)
    return folder
