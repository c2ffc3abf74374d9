"""Spectra of a recorded voice, one for each network that looks at it (specification §6.1).

Knows nothing about the networks. Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from duplex_server.models.minicpmo.mel import mel_filters

__all__ = ["kaldi_fbank", "prompt_mel", "tokenizer_mel"]

Pcm = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.float64]

TOKENIZER_BINS = 128
FFT_SAMPLES = 400
HOP_SAMPLES = 160
"""Whisper's windows, with the bins of its larger models."""

PROMPT_RATE_HZ = 24_000
PROMPT_FFT_SAMPLES = 1920
PROMPT_HOP_SAMPLES = 480
PROMPT_BINS = 80
PROMPT_HIGHEST_HZ = 8000.0
"""CosyVoice 2's spectrogram."""

KALDI_RATE_HZ = 16_000
KALDI_WINDOW_SAMPLES = 400
KALDI_HOP_SAMPLES = 160
KALDI_FFT_SAMPLES = 512
KALDI_BINS = 80
KALDI_LOWEST_HZ = 20.0
PREEMPHASIS = 0.97
POVEY_EXPONENT = 0.85
"""Kaldi's defaults for filter banks (``compute-fbank-feats``), with no dither."""
KALDI_FLOOR = float(np.finfo(np.float32).eps)


def tokenizer_mel(pcm: Pcm) -> Pcm:
    """Log-mel spectrogram for the speech tokenizer: 16 kHz ``[samples]`` to ``[128, samples // 160]``."""
    half = FFT_SAMPLES // 2
    power = np.abs(_spectra(np.pad(pcm.astype(np.float64), half, mode="reflect"), FFT_SAMPLES, HOP_SAMPLES)[:-1]) ** 2
    mel = power @ mel_filters(TOKENIZER_BINS, FFT_SAMPLES, KALDI_RATE_HZ, KALDI_RATE_HZ / 2).T
    logarithm = np.log10(np.maximum(mel, 1e-10))
    scaled = (np.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0
    return np.ascontiguousarray(scaled.T, np.float32)


def prompt_mel(pcm: Pcm) -> Pcm:
    """Log-mel spectrogram for the flow model: 24 kHz ``[samples]`` to ``[samples // 480, 80]``."""
    edge = (PROMPT_FFT_SAMPLES - PROMPT_HOP_SAMPLES) // 2
    spectra = _spectra(np.pad(pcm.astype(np.float64), edge, mode="reflect"), PROMPT_FFT_SAMPLES, PROMPT_HOP_SAMPLES)
    magnitude = np.sqrt(np.abs(spectra) ** 2 + 1e-9)
    mel = magnitude @ mel_filters(PROMPT_BINS, PROMPT_FFT_SAMPLES, PROMPT_RATE_HZ, PROMPT_HIGHEST_HZ).T
    return np.log(np.maximum(mel, 1e-5)).astype(np.float32)


def kaldi_fbank(pcm: Pcm) -> Pcm:
    """Kaldi's log filter banks minus their mean over time: 16 kHz ``[samples]``, -1 to 1, to ``[frames, 80]``."""
    windows = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float64), KALDI_WINDOW_SAMPLES)[
        ::KALDI_HOP_SAMPLES
    ]
    centred = windows - windows.mean(axis=1, keepdims=True)
    before = np.concatenate([centred[:, :1], centred[:, :-1]], axis=1)
    angle = 2 * np.pi * np.arange(KALDI_WINDOW_SAMPLES) / (KALDI_WINDOW_SAMPLES - 1)
    povey = (0.5 - 0.5 * np.cos(angle)) ** POVEY_EXPONENT
    spectra = np.fft.rfft((centred - PREEMPHASIS * before) * povey, KALDI_FFT_SAMPLES)
    power = np.abs(spectra[:, :-1]) ** 2  # Kaldi leaves the Nyquist frequency out
    logarithm = np.log(np.maximum(power @ _kaldi_filters().T, KALDI_FLOOR))
    return (logarithm - logarithm.mean(axis=0)).astype(np.float32)


def _spectra(sound: Spectrum, fft_samples: int, hop_samples: int) -> npt.NDArray[np.complex128]:
    windows = np.lib.stride_tricks.sliding_window_view(sound, fft_samples)[::hop_samples]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft_samples) / fft_samples)
    return np.fft.rfft(windows * hann)


@functools.cache
def _kaldi_filters() -> Spectrum:
    """Triangles that are straight on Kaldi's mel scale, ``[80, 256]``."""
    lowest, highest = (_kaldi_mel(hz) for hz in (KALDI_LOWEST_HZ, KALDI_RATE_HZ / 2))
    corners = np.linspace(lowest, highest, KALDI_BINS + 2)
    below, centre, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    mel = _kaldi_mel(np.arange(KALDI_FFT_SAMPLES // 2) * KALDI_RATE_HZ / KALDI_FFT_SAMPLES)
    return np.maximum(0, np.minimum((mel - below) / (centre - below), (above - mel) / (above - centre)))


def _kaldi_mel(hz: float | Spectrum) -> Spectrum:
    return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)
