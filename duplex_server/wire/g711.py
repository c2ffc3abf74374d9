"""G.711 µ-law and A-law by table, and the way down to its 8 kHz.

Knows nothing about events or packets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from duplex_server.types import Pcm

__all__ = ["Decimator", "alaw_decode", "alaw_encode", "mulaw_decode", "mulaw_encode"]

_FULL_SCALE = 32_768.0
_MULAW_BIAS = 132
"""33 in the 14-bit scale of ITU-T G.711 Table 2a, here in 16 bits."""


def _mulaw_levels() -> npt.NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.uint8)  # G.711 sends all bits inverted
    exponent = ((code >> 4) & 7).astype(np.int32)
    mantissa = (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + _MULAW_BIAS) << exponent) - _MULAW_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_levels() -> npt.NDArray[np.int16]:
    code = np.arange(256, dtype=np.uint8) ^ 0x55  # G.711 sends every other bit inverted
    exponent = ((code >> 4) & 7).astype(np.int32)
    mantissa = (code & 15).astype(np.int32)
    step = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, step, (step + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _codes_of(levels: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Build the table from every int16 value, plus 32768, to the code of the nearest level."""
    order = np.argsort(levels, kind="stable")
    ascending = levels[order].astype(np.int64)
    between = (ascending[1:] + ascending[:-1]) / 2
    values = np.arange(-32_768, 32_768, dtype=np.int64)
    nearest = np.searchsorted(between, values, side="right")
    return order[nearest].astype(np.uint8)


_MULAW_LEVELS = _mulaw_levels()
_ALAW_LEVELS = _alaw_levels()
_MULAW_FLOATS = _MULAW_LEVELS.astype(np.float32) / np.float32(_FULL_SCALE)
_ALAW_FLOATS = _ALAW_LEVELS.astype(np.float32) / np.float32(_FULL_SCALE)
_MULAW_CODES = _codes_of(_MULAW_LEVELS)
_ALAW_CODES = _codes_of(_ALAW_LEVELS)


def mulaw_decode(encoded: bytes) -> Pcm:
    """Decode µ-law bytes to float32 ``[n_samples]`` at 8 kHz."""
    return _MULAW_FLOATS[np.frombuffer(encoded, np.uint8)]


def alaw_decode(encoded: bytes) -> Pcm:
    """Decode A-law bytes to float32 ``[n_samples]`` at 8 kHz."""
    return _ALAW_FLOATS[np.frombuffer(encoded, np.uint8)]


def mulaw_encode(pcm: Pcm) -> bytes:
    """Encode float samples at 8 kHz as µ-law, each to the nearest level."""
    return _MULAW_CODES[_table_index(pcm)].tobytes()


def alaw_encode(pcm: Pcm) -> bytes:
    """Encode float samples at 8 kHz as A-law, each to the nearest level."""
    return _ALAW_CODES[_table_index(pcm)].tobytes()


def _table_index(pcm: Pcm) -> npt.NDArray[np.int64]:
    index: npt.NDArray[np.int64] = np.clip(np.rint(pcm * np.float32(_FULL_SCALE)), -32_768, 32_767).astype(np.int64)
    index += 32_768
    return index


class Decimator:
    """Brings a stream from 24 kHz to 8 kHz, delayed by :data:`Decimator.DELAY_SAMPLES` input samples.

    Joined outputs do not depend on how the input was cut. The delay's worth of sound at the stream's end is not
    given out; a response ends in silence.
    """

    FACTOR = 3
    TAPS = 63
    """Odd, so that the delay is a whole number of samples; 63 puts the stop band at −60 dB from 4.6 kHz on."""
    DELAY_SAMPLES = 31
    _CUTOFF = 3_600 / 24_000

    def __init__(self) -> None:
        position = np.arange(self.TAPS) - self.TAPS // 2
        taps = 2 * self._CUTOFF * np.sinc(2 * self._CUTOFF * position) * np.blackman(self.TAPS)
        # float64, so that the last bit of a coded sample does not depend on how a machine sums.
        self._taps = taps / taps.sum()
        self._tail: npt.NDArray[np.float64] = np.zeros(self.TAPS - 1, np.float64)

    def push(self, pcm: Pcm) -> Pcm:
        """Filter the next samples and keep every third.

        Args:
            pcm: float32 ``[n_samples]`` at 24 kHz.

        Returns:
            float32 at 8 kHz, as many samples as are complete by now.
        """
        joined: npt.NDArray[np.float64] = np.concatenate((self._tail, pcm.astype(np.float64)))
        n_ready = max(0, (len(joined) - self.TAPS) // self.FACTOR + 1)
        if n_ready == 0:
            self._tail = joined
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(joined, self.TAPS)[:: self.FACTOR]
        slow: Pcm = (windows[:n_ready] @ self._taps).astype(np.float32)
        self._tail = joined[n_ready * self.FACTOR :]
        return slow
