"""Voice prompts: features as others compute them, each recording looked at once, honest about what is missing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from duplex_server.errors import CheckpointError, MediaError, ModelLoadError
from duplex_server.models.minicpmo.assets import Token2WavFiles, find_token2wav
from duplex_server.models.minicpmo.s3_tokenizer import S3Tokenizer
from duplex_server.models.minicpmo.voice_features import kaldi_fbank, prompt_mel, tokenizer_mel
from duplex_server.models.minicpmo.voice_prompt import MOST_S, VoicePrompt, VoicePrompts
from duplex_server.models.minicpmo.weights import StateDictSource, load_module

onnx = pytest.importorskip("onnx", reason="onnx, with which the tests make small networks, is not installed")

Pcm = npt.NDArray[np.float32]


def hum(seconds: float, rate_hz: int = 16_000, pitch_hz: float = 150.0) -> Pcm:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = sum(np.sin(2 * np.pi * pitch_hz * k * time) / k for k in range(1, 8))
    return (0.1 * tone + 0.001 * np.sin(time * 12345)).astype(np.float32)


class TestFeatures:
    def test_speech_tokenizer_and_its_spectrum(self, shared_goldens: Path) -> None:
        weights = shared_goldens.parent / "token2wav" / "s3tokenizer_tiny.pt"
        with np.load(shared_goldens / "inputs_components.npz") as inputs:
            mel = tokenizer_mel(inputs["s3_audio"])
        with np.load(shared_goldens / "golden_components.npz") as golden:
            np.testing.assert_allclose(mel, golden["s3_mel"], atol=2e-5)
            source = StateDictSource(weights)
            with torch.device("meta"):
                tokenizer = S3Tokenizer.of(source.shapes())
            load_module(tokenizer, source, device=torch.device("cpu"), dtype=torch.float32)
            assert tokenizer(torch.from_numpy(mel)).tolist() == golden["s3_codes"][0].tolist()

    def test_kaldi_features_are_those_of_kaldi(self) -> None:
        """Computed once with kaldi-native-fbank 1.23.0 of ``hum(1.0)``: three frames, every tenth bin."""
        found = kaldi_fbank(hum(1.0))
        assert found.shape == (98, 80)
        np.testing.assert_allclose(found[[0, 40, 97]][:, ::10], KALDI, atol=2e-3)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)

    def test_spectrum_for_the_flow_model(self) -> None:
        found = prompt_mel(hum(2.0, 24_000, pitch_hz=440.0))
        assert found.shape == (100, 80)
        # 440 Hz lies in bin 11 of 80 from 0 to 8 kHz on Slaney's scale: 440 · 3/200 of 45.2 mel.
        assert found[50, :20].argmax() in (10, 11, 12)
        np.testing.assert_allclose(prompt_mel(np.zeros(24_000, np.float32)), np.log(1e-5), atol=1e-2)


KALDI = np.array(
    [
        [0.5807, 0.0080, -0.2767, 0.1804, -0.0085, -0.0000, -0.0000, -0.0000],
        [0.5804, 0.0080, -0.2767, 0.1812, 0.0066, -0.0000, -0.0000, -0.0000],
        [-0.5802, -0.0080, 0.2767, -0.1816, 0.0010, -0.0000, -0.0000, -0.0000],
    ]
)


def small_network(path: Path, *, of_codes: bool) -> None:
    """An ONNX file with the inputs and outputs of the real one: codes from the mel's length, or means of features."""
    helper, proto = onnx.helper, onnx.TensorProto
    if of_codes:
        mel = helper.make_tensor_value_info("feats", proto.FLOAT, [1, 128, "T"])
        length = helper.make_tensor_value_info("feats_length", proto.INT32, [1])
        nodes = [
            helper.make_node("AveragePool", ["feats"], ["pooled"], kernel_shape=[4], strides=[4]),
            helper.make_node("ReduceSum", ["pooled", "axis"], ["summed"], keepdims=0),
            helper.make_node("Abs", ["summed"], ["positive"]),
            helper.make_node("Cast", ["positive"], ["codes"], to=proto.INT32),
        ]
        out = helper.make_tensor_value_info("codes", proto.INT32, [1, "N"])
        given = [helper.make_tensor("axis", proto.INT64, [1], [1])]
        graph = helper.make_graph(nodes, "codes", [mel, length], [out], given)
    else:
        features = helper.make_tensor_value_info("input", proto.FLOAT, [1, "T", 80])
        nodes = [
            helper.make_node("ReduceMax", ["input"], ["largest"], axes=[1], keepdims=0),
            helper.make_node("Concat", ["largest", "largest", "largest"], ["three"], axis=1),
            helper.make_node("Slice", ["three", "begin", "end", "axis"], ["output"]),
        ]
        out = helper.make_tensor_value_info("output", proto.FLOAT, [1, 192])
        values = {"begin": 0, "end": 192, "axis": 1}
        given = [helper.make_tensor(name, proto.INT64, [1], [value]) for name, value in values.items()]
        graph = helper.make_graph(nodes, "speaker", [features], [out], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


@pytest.fixture
def files(tiny_checkpoint: Path, tmp_path: Path) -> Token2WavFiles:
    codes, speaker = tmp_path / "speech_tokenizer_v2_25hz.onnx", tmp_path / "campplus.onnx"
    small_network(codes, of_codes=True)
    small_network(speaker, of_codes=False)
    return dataclasses.replace(find_token2wav(tiny_checkpoint), speech_tokenizer=codes, speaker_model=speaker)


NO_VOICES = [
    hum(0.9),
    np.zeros(48_000, np.float32),
    np.full(48_000, np.nan, np.float32),
    np.ones((2, 48_000), np.float32),
]


class TestRecordings:
    @pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
    def test_a_recording_becomes_a_voice(self, files: Token2WavFiles, rate_hz: int) -> None:
        found = VoicePrompts(files).of(hum(3.0, rate_hz), rate_hz)
        assert found.codes.shape == (75,) and found.codes.dtype == torch.int64
        assert found.speaker.shape == (192,)
        assert found.mel.shape == (150, 80)

    def test_equal_recordings_are_looked_at_once(self, files: Token2WavFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        prompts = VoicePrompts(files)
        first = prompts.of(hum(2.0), 16_000)
        monkeypatch.setattr(prompts, "_look_at", None)
        assert prompts.of(hum(2.0).copy(), 16_000) is first
        with pytest.raises(TypeError):
            prompts.of(hum(2.1), 16_000)

    def test_what_is_too_long_is_cut(self, files: Token2WavFiles) -> None:
        assert len(VoicePrompts(files).of(hum(MOST_S + 3.0), 16_000).codes) == MOST_S * 25

    @pytest.mark.parametrize("pcm", NO_VOICES)
    def test_what_is_no_voice_is_refused(self, files: Token2WavFiles, pcm: Pcm) -> None:
        with pytest.raises(MediaError):
            VoicePrompts(files).of(pcm, 16_000)

    def test_missing_networks_are_named(self, tiny_checkpoint: Path) -> None:
        with pytest.raises(CheckpointError, match=r"speech_tokenizer_v2_25hz\.onnx is missing.*campplus\.onnx"):
            VoicePrompts(find_token2wav(tiny_checkpoint)).of(hum(2.0), 16_000)

    def test_missing_package_is_named(self, files: Token2WavFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime.capi.onnxruntime_pybind11_state", None)
        with pytest.raises(ModelLoadError, match="needs onnxruntime"):
            VoicePrompts(files).of(hum(2.0), 16_000)

    def test_a_broken_network_is_named(self, files: Token2WavFiles, tmp_path: Path) -> None:
        (tmp_path / "campplus.onnx").write_bytes(b"no network")
        with pytest.raises(ModelLoadError, match=r"campplus\.onnx"):
            VoicePrompts(files).of(hum(2.0), 16_000)


class TestSaved:
    def test_a_saved_voice_is_the_same(self, tmp_path: Path) -> None:
        voice = VoicePrompt.of(torch.arange(30), torch.ones(192), torch.randn(58, 80))
        assert voice.mel.shape == (60, 80)
        assert torch.equal(voice.mel[59], voice.mel[57])
        voice.save(tmp_path / "voice.npz")
        again = VoicePrompt.load(tmp_path / "voice.npz")
        assert again.key == voice.key
        assert torch.equal(again.mel, voice.mel)

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"nothing")
        with pytest.raises(ModelLoadError, match="holds no voice"):
            VoicePrompt.load(tmp_path / "a.npz")
        with pytest.raises(ModelLoadError, match="holds no voice"):
            VoicePrompt.load(tmp_path / "none.npz")
