"""Sample formats: float32 in −1..1 is what every room works with, int16 is what leaves and enters.

Knows nothing about rates or codecs.
"""

from __future__ import annotations

import math

import numpy as np

from duplex_server.types import Pcm, Pcm16

__all__ = ["SILENCE_DB", "level_db", "to_float", "to_int16"]

_FULL_SCALE = 32768.0  # int16 spans −32768..32767

SILENCE_DB = -100.0
"""What :func:`level_db` gives for digital silence; below the −98 dBFS of int16's smallest step."""


def to_float(pcm: Pcm16) -> Pcm:
    """Convert int16 ``[n]`` to float32 ``[n]`` in −1..1."""
    return pcm.astype(np.float32) / np.float32(_FULL_SCALE)


def to_int16(pcm: Pcm) -> Pcm16:
    """Convert float32 ``[n]`` to int16 ``[n]``; samples beyond −1..1 are clipped.

    The inverse of :func:`to_float` for every int16 value.
    """
    rounded: Pcm16 = np.clip(np.rint(pcm * np.float32(_FULL_SCALE)), -32768, 32767).astype(np.int16)
    return rounded


def level_db(pcm: Pcm) -> float:
    """Return the RMS level of float32 ``[n]`` in dBFS, at least :data:`SILENCE_DB`."""
    if not len(pcm):
        return SILENCE_DB
    power = float(np.dot(pcm, pcm)) / len(pcm)
    return max(SILENCE_DB, 10.0 * math.log10(power + 1e-12))
