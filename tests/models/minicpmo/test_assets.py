"""Both layouts of token2wav are told apart, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_server.errors import CheckpointError
from duplex_server.models.minicpmo.assets import find_token2wav, reference_voices


def lay_out(folder: Path, *names: str) -> Path:
    below = folder / "assets" / "token2wav"
    below.mkdir(parents=True)
    for name in names:
        (below / name).touch()
    return below


def test_the_classic_layout_has_one_vocoder(tmp_path: Path) -> None:
    below = lay_out(tmp_path, "flow.yaml", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2_25hz.onnx")
    files = find_token2wav(tmp_path)
    assert not files.causal
    assert files.vocoder == files.whole_vocoder == below / "hift.pt"
    assert files.flow_settings == below / "flow.yaml"
    assert files.speaker_model == below / "campplus.onnx"
    assert files.speech_tokenizer == below / "speech_tokenizer_v2_25hz.onnx"


def test_the_causal_layout_has_two(tmp_path: Path) -> None:
    below = lay_out(tmp_path, "flow.pt", "hift.pt", "hift_original.pt", "config.yaml")
    files = find_token2wav(tmp_path)
    assert files.causal
    assert (files.vocoder, files.whole_vocoder) == (below / "hift.pt", below / "hift_original.pt")
    assert files.vocoder_settings == below / "config.yaml"
    assert files.flow_settings is files.speech_tokenizer is files.speaker_model is None


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_token2wav(tmp_path)
    assert caught.value.problems == ("flow.pt is missing", "hift.pt is missing")


def test_reference_voices_are_found(tmp_path: Path) -> None:
    lay_out(tmp_path, "flow.pt")
    (tmp_path / "assets" / "b.wav").touch()
    (tmp_path / "assets" / "a.wav").touch()
    assert [path.name for path in reference_voices(tmp_path)] == ["a.wav", "b.wav"]
