"""The audio formats that events carry, and PCM in and out of them.

Knows nothing about events. Resampling to the model's rate is the session's; only G.711, which needs 8 kHz, is brought
down to it here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from duplex_server.types import OUTPUT_RATE_HZ, Pcm, Pcm16
from duplex_server.wire import g711

__all__ = ["G711_RATE_HZ", "PCM_FORMAT", "AudioFormat", "AudioIntake", "AudioOutlet", "to_pcm16"]

G711_RATE_HZ = 8_000
"""Source: ITU-T G.711 §2."""

_FULL_SCALE = 32_768.0
_PCM16 = np.dtype("<i2")
_SAMPLE = np.float32(1 / _FULL_SCALE)
"""What one step of int16 is; a power of two, so that a product with it is exact."""


class AudioFormat(msgspec.Struct, kw_only=True, frozen=True):
    """``{"type": "audio/pcm", "rate": 24000}``, ``{"type": "audio/pcmu"}`` or ``{"type": "audio/pcma"}``.

    Strict clients of the Realtime API accept no other rate than 24000, and no ``rate`` key with G.711, so they are sent
    nothing else.
    """

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | UnsetType | None = UNSET

    @property
    def rate_hz(self) -> int:
        """Samples per second of this format."""
        if self.type != "audio/pcm":
            return G711_RATE_HZ
        return self.rate if isinstance(self.rate, int) and self.rate > 0 else OUTPUT_RATE_HZ

    @property
    def sample_bytes(self) -> int:
        """Bytes of one mono sample."""
        return 2 if self.type == "audio/pcm" else 1


PCM_FORMAT = AudioFormat(type="audio/pcm", rate=24000)


class AudioIntake:
    """Turns the bytes of one input stream into samples; carries half a sample from one append to the next."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self._odd = b""

    def decode(self, encoded: bytes) -> Pcm:
        """Decode the next bytes of the stream.

        Args:
            encoded: any number of bytes; PCM is little-endian int16.

        Returns:
            float32 ``[n_samples]``, −1..1, at ``format.rate_hz``; empty if no whole sample is there yet.
        """
        if self.format.type == "audio/pcmu":
            return g711.mulaw_decode(encoded)
        if self.format.type == "audio/pcma":
            return g711.alaw_decode(encoded)
        if self._odd:
            encoded = self._odd + encoded
            self._odd = b""
        if len(encoded) & 1:
            self._odd, encoded = encoded[-1:], encoded[:-1]
        pcm: Pcm = np.frombuffer(encoded, _PCM16) * _SAMPLE
        return pcm

    def reset(self) -> None:
        """Forget a carried byte: the next append starts a new stream."""
        self._odd = b""


class AudioOutlet:
    """Turns the samples of one response into bytes of the session's output format."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self._down = g711.Decimator() if audio_format.type != "audio/pcm" else None

    def encode(self, pcm: Pcm) -> bytes:
        """Encode the next samples of the stream; what is beyond −1..1 is clipped.

        Args:
            pcm: float32 ``[n_samples]`` at 24 kHz.

        Returns:
            Little-endian int16 at 24 kHz, or G.711 bytes at 8 kHz.
        """
        if self._down is not None:
            slow = self._down.push(pcm)
            return g711.mulaw_encode(slow) if self.format.type == "audio/pcmu" else g711.alaw_encode(slow)
        return to_pcm16(pcm).astype("<i2", copy=False).tobytes()


def to_pcm16(pcm: Pcm) -> Pcm16:
    """Round float samples to int16, clipped at full scale."""
    rounded: Pcm16 = np.clip(np.rint(pcm * np.float32(_FULL_SCALE)), -32_768, 32_767).astype(np.int16)
    return rounded
