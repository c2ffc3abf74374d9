"""Voices are found by name and by content, and looked at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from duplex_server.errors import MediaError, ModelLoadError
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt, VoicePrompts
from duplex_server.models.minicpmo.voices import Voices
from duplex_server.types import Pcm, SessionSetup


def recording(seed: int, duration_s: float = 2.0, rate_hz: int = 16_000) -> Pcm:
    return np.random.default_rng(seed).normal(0, 0.1, round(rate_hz * duration_s)).astype(np.float32)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each recording that the networks for voices were shown; they are stood in for."""
    shown: list[int] = []

    def look(_: VoicePrompts, pcm: Pcm, rate_hz: int) -> VoicePrompt:
        shown.append(len(pcm))
        if len(pcm) < rate_hz:
            raise MediaError("too short")
        return VoicePrompt.of(torch.zeros(25, dtype=torch.int64), torch.ones(192), torch.zeros(50, 80))

    monkeypatch.setattr(VoicePrompts, "of", look)
    return shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    below = tmp_path / "assets" / "token2wav"
    below.mkdir(parents=True)
    for name in ("flow.pt", "hift.pt"):
        (below / name).touch()
    for seed, name in enumerate(("anna", "bob", "system_ref_audio")):
        soundfile.write(tmp_path / "assets" / f"{name}.wav", recording(seed, rate_hz=24_000), 24_000)
    return tmp_path


class Embedder:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, pcm: Pcm) -> Tensor:
        self.heard.append(len(pcm))
        return torch.full((3, 4), float(np.abs(pcm).sum()))


def test_the_usual_voice_comes_first_unless_there_is_another(folder: Path) -> None:
    assert Voices(folder, Embedder()).names == ("system_ref_audio", "anna", "bob")
    assert Voices(folder, Embedder(), file=folder / "assets" / "bob.wav").names == ("bob", "anna", "system_ref_audio")


def test_a_voice_is_looked_at_once_and_heard_at_16_khz(folder: Path, looked_at: list[int]) -> None:
    embed = Embedder()
    voices = Voices(folder, embed)
    first, other, again = (voices.of(SessionSetup(voice=name)) for name in ("anna", "bob", "anna"))
    assert first is again and first is not other
    assert embed.heard == [32_000, 32_000]
    assert len(looked_at) == 2


def test_equal_recordings_of_clients_are_one_voice(folder: Path, looked_at: list[int]) -> None:
    voices = Voices(folder, Embedder())
    one, same, other = (voices.of(SessionSetup(voice_reference=recording(seed))) for seed in (7, 7, 8))
    assert one is same and one is not other
    assert len(looked_at) == 2


def test_a_recording_is_cut_to_what_is_used(folder: Path, looked_at: list[int]) -> None:
    embed = Embedder()
    Voices(folder, embed).of(SessionSetup(voice_reference=recording(0, 40.0)))
    assert embed.heard == looked_at == [16 * 16_000]


def test_saved_features_spare_the_networks(folder: Path, looked_at: list[int]) -> None:
    codes = torch.arange(10)
    prompt = VoicePrompt.of(codes, torch.ones(192), torch.zeros(20, 80))
    prompt.save(folder / "assets" / "anna.npz")
    found = Voices(folder, Embedder()).of(SessionSetup(voice="anna"))
    assert found is not None and found.prompt is not None
    assert found.prompt.key == prompt.key
    assert not looked_at


def test_a_name_that_is_not_there_is_the_usual_voice(folder: Path, looked_at: list[int]) -> None:
    voices = Voices(folder, Embedder())
    assert voices.of(SessionSetup(voice="nobody")) is voices.of(SessionSetup())


def test_what_cannot_be_a_voice_is_said_at_the_start(folder: Path, looked_at: list[int], tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, recording(0, 0.2), 16_000)
    with pytest.raises(ModelLoadError, match="cannot be the voice"):
        Voices(folder, Embedder(), file=short).check()
    with pytest.raises(ModelLoadError, match="cannot be read"):
        Voices(folder, Embedder(), file=tmp_path / "none.wav").check()


def test_without_recordings_there_is_no_voice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voices = Voices(tmp_path, Embedder(), speaks=False)
    voices.check()
    assert "no recording of a voice" in caplog.text
    assert voices.names == ("default",)
    assert voices.of(SessionSetup()) is None
