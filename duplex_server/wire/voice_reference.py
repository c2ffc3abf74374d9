"""A recording of a voice that the model is to speak with: WAV in, samples out, or a clear word on what is wrong.

Knows nothing about what a model makes of it.
"""

from __future__ import annotations

import base64
import binascii
import io
import wave
from dataclasses import dataclass

import numpy as np

from duplex_server.errors import LimitExceeded, MediaError
from duplex_server.types import Pcm

__all__ = ["CUSTOM_VOICE", "VoiceReference", "decode_voice_reference", "same_voice"]

CUSTOM_VOICE = "custom"
"""What ``session.audio.output.voice`` shows while a recording decides. Source: realtime protocol notes §5.12."""

MAX_S = 30.0
"""Ours. MiniCPM-o's own examples have 5 to 15 s; more does not make the voice truer."""
MIN_S = 1.0
MAX_BYTES = 12 * 2**20
"""30 s at 48 kHz, two channels, 32 bits, and room for what else a file may hold."""
_RATES_HZ = range(8_000, 96_001)
_MAX_CHANNELS = 8


@dataclass(frozen=True, slots=True, eq=False)
class VoiceReference:
    """A decoded recording."""

    pcm: Pcm
    """float32 mono, −1..1."""
    rate_hz: int


def decode_voice_reference(text: str, *, param: str) -> VoiceReference:
    """Decode a WAV file.

    Args:
        text: the file in base64, or a data URL of it.
        param: the field that it came in, for errors.

    Raises:
        MediaError: it is no WAV file with 8, 16, 24 or 32 bit integer samples, or is shorter than a second.
        LimitExceeded: it is larger or longer than is taken.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_BYTES * 4 // 3:
        raise _too_much(f"{MAX_BYTES} bytes", param)
    try:
        recording = wave.open(io.BytesIO(base64.b64decode(text, validate=True)))  # noqa: SIM115 - holds only memory
        n_channels, width_bytes, rate_hz, n_frames = recording.getparams()[:4]
        if rate_hz not in _RATES_HZ or not 1 <= n_channels <= _MAX_CHANNELS:
            raise MediaError(f"The recording has {n_channels} channels at {rate_hz} Hz.", param=param)
        if n_frames > MAX_S * rate_hz:
            raise _too_much(f"{MAX_S:.0f} s", param)
        samples = _to_float(recording.readframes(n_frames), width_bytes)
    except (binascii.Error, ValueError, EOFError, wave.Error) as error:
        raise MediaError(
            "The recording must be a WAV file with 8, 16, 24 or 32 bit samples, in base64.", param=param
        ) from error
    samples = samples[: len(samples) // n_channels * n_channels]
    mono: Pcm = samples.reshape(-1, n_channels).mean(axis=1, dtype=np.float32)
    if len(mono) < MIN_S * rate_hz:
        raise MediaError(f"The recording is shorter than {MIN_S:.0f} s.", param=param)
    return VoiceReference(mono, rate_hz)


def same_voice(a: VoiceReference | None, b: VoiceReference | None) -> bool:
    """Whether both are the same recording, or both none."""
    if a is None or b is None:
        return a is b
    return a.rate_hz == b.rate_hz and np.array_equal(a.pcm, b.pcm)


def _to_float(data: bytes, width_bytes: int) -> Pcm:
    data = data[: len(data) // width_bytes * width_bytes]
    if width_bytes == 1:  # unsigned in WAV, unlike all others
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width_bytes == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4").ravel().astype(np.float32) / np.float32(2**31)
    if width_bytes not in (2, 4):
        raise ValueError(width_bytes)
    return np.frombuffer(data, f"<i{width_bytes}").astype(np.float32) / np.float32(2 ** (8 * width_bytes - 1))


def _too_much(allowed: str, param: str) -> LimitExceeded:
    return LimitExceeded(
        f"The recording is too long: at most {allowed} are taken.", limit="voice_reference", value=allowed, param=param
    )
