"""Where a checkpoint folder keeps what turns speech codes into sound, in either of two layouts (specification §1.1).

Knows nothing about what the files hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duplex_server.errors import CheckpointError

__all__ = ["Token2WavFiles", "find_token2wav", "reference_voices"]


@dataclass(frozen=True, slots=True)
class Token2WavFiles:
    """The files of ``assets/token2wav``.

    Attributes:
        flow: weights of the flow matching model.
        flow_settings: its YAML file, tags naming Python objects; None where there is none.
        vocoder: weights of the vocoder for streaming.
        causal: whether that vocoder is the causal one (layout B) or the classic one (layout A).
        vocoder_settings: the causal vocoder's YAML file; None where there is none.
        whole_vocoder: weights of the classic vocoder, for whole utterances.
        speech_tokenizer: ONNX model that turns a voice prompt into speech codes; None where there is none.
        speaker_model: ONNX model that turns a voice prompt into a speaker vector; None where there is none.
    """

    flow: Path
    flow_settings: Path | None
    vocoder: Path
    causal: bool
    vocoder_settings: Path | None
    whole_vocoder: Path
    speech_tokenizer: Path | None
    speaker_model: Path | None


def find_token2wav(folder: Path) -> Token2WavFiles:
    """Find the files below a checkpoint folder. A file ``hift_original.pt`` tells layout B from layout A.

    Raises:
        CheckpointError: weights are missing; names them.
    """
    below = folder / "assets" / "token2wav"
    missing = [f"{name} is missing" for name in ("flow.pt", "hift.pt") if not (below / name).is_file()]
    if missing:
        raise CheckpointError(str(below), missing)
    original = below / "hift_original.pt"
    causal = original.is_file()
    return Token2WavFiles(
        flow=below / "flow.pt",
        flow_settings=_if_there(below / "flow.yaml"),
        vocoder=below / "hift.pt",
        causal=causal,
        vocoder_settings=_if_there(below / "config.yaml") if causal else None,
        whole_vocoder=original if causal else below / "hift.pt",
        speech_tokenizer=_if_there(below / "speech_tokenizer_v2_25hz.onnx"),
        speaker_model=_if_there(below / "campplus.onnx"),
    )


def reference_voices(folder: Path) -> list[Path]:
    """Return the recordings that the checkpoint brings as voice prompts, by name."""
    return sorted((folder / "assets").glob("**/*.wav"))


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
