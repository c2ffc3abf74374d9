"""tmp."""
from __future__ import annotations
from dataclasses import dataclass
from torch import Tensor
__all__=["VoicePrompt"]
@dataclass(frozen=True, slots=True)
class VoicePrompt:
    key: str
    codes: Tensor
    speaker: Tensor
    mel: Tensor
