"""Which part of the model lies on which device, in which precision.

Knows nothing about memory or weights; devices are names as torch spells them, so nothing heavy is imported.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["Placement", "Precision"]


class Precision(enum.Enum):
    """How the weights of the language model's linear layers are kept; everything else is kept in 16 bits."""

    FULL = "16-bit"
    INT8 = "int8"
    """Eight bits and one scale for each output channel; so is the head."""
    INT4 = "int4"
    """Four bits and one scale for each 128 inputs of an output channel; the head has eight bits."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A device for every part; None for a part that is not loaded.

    Attributes:
        embedding: table of the language model's input embeddings; ``"cpu"`` saves memory on the device.
        layers: of each layer of the language model.
        head: final norm and output head.
        vision: vision tower and resampler.
        audio: audio encoder and projector.
        speech: speech-token decoder and token2wav.
        precision: of the language model's linear layers.
    """

    embedding: str
    layers: tuple[str, ...]
    head: str
    vision: str | None
    audio: str | None
    speech: str | None
    precision: Precision = Precision.FULL

    @classmethod
    def single(cls, device: str, n_layers: int, precision: Precision = Precision.FULL) -> Placement:
        """Put everything on one device."""
        return cls(device, (device,) * n_layers, device, device, device, device, precision)

    @classmethod
    def by_layers(cls, devices: Sequence[str], n_layers: int, precision: Precision = Precision.FULL) -> Placement:
        """Give each device as many layers as the others; encoders go to the middle one, head and speech to the last."""
        layers = tuple(devices[index * len(devices) // n_layers] for index in range(n_layers))
        middle, last = devices[len(devices) // 2], devices[-1]
        return cls(devices[0], layers, last, middle, middle, last, precision)

    def only(self, *, vision: bool = True, audio: bool = True, speech: bool = True) -> Placement:
        """Leave parts out."""
        return replace(
            self,
            vision=self.vision if vision else None,
            audio=self.audio if audio else None,
            speech=self.speech if speech else None,
        )

    def of_llm(self, name: str) -> str:
        """Return the device of a tensor by its name below ``llm.``."""
        match name.split("."):
            case ["model", "embed_tokens", *_]:
                return self.embedding
            case ["model", "layers", index, *_]:
                return self.layers[int(index)]
            case _:
                return self.head

    @property
    def devices(self) -> list[str]:
        """Return every device that is used, each once."""
        named = [self.embedding, *self.layers, self.head, self.vision, self.audio, self.speech]
        return list(dict.fromkeys(device for device in named if device is not None))
