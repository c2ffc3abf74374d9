"""A recording of a voice as the speech models know it: codes, a speaker vector and a spectrogram, kept by content.

Knows nothing about conversations. The two networks that look at a recording run in onnxruntime on the CPU, once per
voice; the features they are given are our own.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from duplex_server.errors import CheckpointError, MediaError, ModelLoadError
from duplex_server.media.resample import resample
from duplex_server.models.minicpmo.assets import Token2WavFiles
from duplex_server.models.minicpmo.flow_cache import MAX_PROMPT_FRAMES
from duplex_server.models.minicpmo.voice_features import kaldi_fbank, prompt_mel, tokenizer_mel

__all__ = ["LEAST_S", "MOST_S", "VoicePrompt", "VoicePrompts"]

Pcm = npt.NDArray[np.float32]

CODE_HZ = 25
MEL_PER_CODE = 2
FEATURES_HZ = 16_000
SPEECH_HZ = 24_000
MOST_S = MAX_PROMPT_FRAMES // (MEL_PER_CODE * CODE_HZ)
"""What is longer is cut off: 16 s."""
LEAST_S = 1.0
"""Less does not tell a voice."""
KEPT = 64
"""Voices whose features are kept, about 100 KB each."""


@dataclass(frozen=True, slots=True)
class VoicePrompt:
    """What the speech models take of a voice.

    Attributes:
        key: digest of the content; equal voices have equal keys.
        codes: int64 ``[n]`` at 25 Hz, 0 to 6560.
        speaker: float32 ``[192]``.
        mel: float32 ``[2n, 80]`` at 50 Hz.
    """

    key: str
    codes: Tensor
    speaker: Tensor
    mel: Tensor

    @classmethod
    def of(cls, codes: Tensor, speaker: Tensor, mel: Tensor) -> VoicePrompt:
        """Fit the spectrogram's length to that of the codes, and compute the key.

        Args:
            codes: integers ``[n]``.
            speaker: ``[192]``.
            mel: ``[frames, 80]``; its last frame is repeated, or its end cut off, to make it 2n.
        """
        frames = MEL_PER_CODE * len(codes)
        fitted = mel[:frames] if len(mel) >= frames else torch.cat([mel, mel[-1:].expand(frames - len(mel), -1)])
        parts = codes.to(torch.int64), speaker.float(), fitted.float().contiguous()
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.numpy().tobytes())
        return cls(digest.hexdigest(), *parts)

    def save(self, file: Path) -> None:
        """Write an ``.npz`` from which the voice can be had without its recording and without onnxruntime."""
        np.savez_compressed(file, codes=self.codes.numpy(), speaker=self.speaker.numpy(), mel=self.mel.numpy())

    @classmethod
    def load(cls, file: Path) -> VoicePrompt:
        """Read what :meth:`save` wrote.

        Raises:
            ModelLoadError: the file cannot be read, or is none of ours.
        """
        try:
            with np.load(file, allow_pickle=False) as found:
                codes, speaker, mel = (torch.from_numpy(found[name]) for name in ("codes", "speaker", "mel"))
        except (OSError, ValueError, KeyError) as error:
            raise ModelLoadError(f"{file} holds no voice: {error}") from error
        return cls.of(codes, speaker, mel)


class VoicePrompts:
    """Looks at recordings; each content once. The networks are loaded when the first voice comes.

    Args:
        files: of token2wav; the two ONNX models may be missing, and then no recording can be looked at.
    """

    def __init__(self, files: Token2WavFiles) -> None:
        self._files = files
        self._networks: tuple[Callable[..., Pcm], Callable[..., Pcm]] | None = None
        self._known: OrderedDict[str, VoicePrompt] = OrderedDict()

    @property
    def available(self) -> bool:
        """Whether the networks, and the package that runs them, are there; whether they are sound is not looked at."""
        files = (self._files.speech_tokenizer, self._files.speaker_model)
        return all(files) and importlib.util.find_spec("onnxruntime") is not None

    def of(self, pcm: Pcm, rate_hz: int) -> VoicePrompt:
        """Look at a recording; takes a second or two for a new one.

        Args:
            pcm: float32 ``[samples]``, mono, -1 to 1; only the first 16 s are used.
            rate_hz: its rate.

        Raises:
            MediaError: it is shorter than a second, silent, or holds numbers that are none.
            ModelLoadError: the networks, or the package that runs them, are missing.
        """
        pcm = np.ascontiguousarray(pcm[: round(MOST_S * rate_hz)], np.float32)
        _refuse_what_is_no_voice(pcm, rate_hz)
        digest = hashlib.sha256(pcm.tobytes() + str(rate_hz).encode()).hexdigest()
        if digest not in self._known:
            self._known[digest] = self._look_at(pcm, rate_hz)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._known[digest]

    def _look_at(self, pcm: Pcm, rate_hz: int) -> VoicePrompt:
        tokenizer, speaker_model = self._loaded()
        for_features = resample(pcm, rate_hz, FEATURES_HZ)
        mel = tokenizer_mel(for_features)
        codes = tokenizer(mel[None], np.array([mel.shape[1]], np.int32)).reshape(-1)
        speaker = speaker_model(kaldi_fbank(for_features)[None]).reshape(-1)
        spoken = prompt_mel(resample(pcm, rate_hz, SPEECH_HZ))
        return VoicePrompt.of(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (codes, speaker, spoken)))

    def _loaded(self) -> tuple[Callable[..., Pcm], Callable[..., Pcm]]:
        if self._networks is None:
            given = {
                "speech_tokenizer_v2_25hz.onnx": self._files.speech_tokenizer,
                "campplus.onnx": self._files.speaker_model,
            }
            missing = [f"{name} is missing, which a voice prompt needs" for name, file in given.items() if not file]
            if missing:
                raise CheckpointError(str(self._files.flow.parent), missing)
            tokenizer, speaker = (_network(file) for file in given.values() if file)
            self._networks = tokenizer, speaker
        return self._networks


def _refuse_what_is_no_voice(pcm: Pcm, rate_hz: int) -> None:
    if pcm.ndim != 1 or len(pcm) < LEAST_S * rate_hz:
        raise MediaError(f"A voice prompt has one channel and at least {LEAST_S:.0f} s; 3 to 10 s are best.")
    if not np.isfinite(pcm).all() or not pcm.any():
        raise MediaError("The voice prompt is silent, or not sound at all.")


def _network(file: Path) -> Callable[..., Pcm]:
    """Load an ONNX model; the function takes its inputs in order and gives its first output."""
    try:
        import onnxruntime.capi.onnxruntime_pybind11_state
    except ImportError as error:
        raise ModelLoadError("a voice prompt needs onnxruntime: pip install 'duplex-server[minicpmo]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    broken = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except (
        broken.InvalidProtobuf,
        broken.InvalidGraph,
        broken.NoSuchFile,
        broken.Fail,
        broken.NotImplemented,
    ) as error:
        raise ModelLoadError(f"{file} is no model that onnxruntime can run: {error}") from error
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: npt.NDArray[Any]) -> Pcm:
        found: Pcm = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return found

    return run
