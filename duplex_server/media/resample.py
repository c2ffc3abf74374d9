"""Change of sample rate: whole clips by soxr (this is its only door), live streams by a short polyphase filter.

soxr's streams hand out blocks: at 24 → 16 kHz and 20 ms a call up to 37 ms lag behind their input, at 8 → 16 kHz
115 ms. That is a third of a whole response time, so live audio takes a filter of our own that lags by under 1 ms.

Knows nothing about where audio comes from.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import soxr

from duplex_server.types import Pcm

__all__ = ["StreamResampler", "resample"]

_ZERO_CROSSINGS = 16
"""Half length of the filter in samples of the slower rate: 1 ms at 16 kHz."""
_ROLL_OFF = 0.92
"""Pass band as a share of the slower rate's band; the window below is 60 dB down at the band's edge."""
_BLOCK_SAMPLES = 1 << 16
"""Most that is looked at in one go: each output sample takes some hundred bytes while it is computed."""
_KAISER_BETA = 8.0
"""Source: Kaiser's formula, 0.1102 (A − 8.7) for A = 80 dB of stop-band attenuation, rounded."""


@functools.cache
def _block(up: int, down: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return the filter of a rate change by ``up / down`` as a matrix, and half the taps of one output.

    ``down`` input samples become ``up`` output samples: the matrix is float32 ``[inputs, up]``, from all inputs that
    these outputs are made of, of which the first lies ``half - 1`` before the first output.
    """
    slower = min(1.0, up / down)
    half = math.ceil(_ZERO_CROSSINGS / slower)  # input samples on either side of an output sample
    offsets = np.arange(-half + 1, half + 1)[None, :] - np.arange(up)[:, None] / up  # [phase, taps]
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (offsets / half) ** 2, 0, 1))) / np.i0(_KAISER_BETA)
    kernel = np.sinc(offsets * slower * _ROLL_OFF) * window
    kernel /= kernel.sum(axis=1, keepdims=True)
    matrix = np.zeros((down * (up - 1) // up + 2 * half, up), np.float32)
    for output in range(up):
        centre, phase = divmod(output * down, up)
        matrix[centre : centre + 2 * half, output] = kernel[phase]
    return matrix, half


class StreamResampler:
    """Resample one stream, chunk by chunk; the result does not depend on how the stream is cut into chunks.

    Output sample *m* lies at input time ``m * in_hz / out_hz`` exactly: over a stream nothing drifts. It is handed out
    as soon as the filter's second half, 1 ms at 16 kHz, has arrived.
    """

    def __init__(self, in_hz: int, out_hz: int) -> None:
        """Args: rates in Hz; equal rates pass samples through unchanged."""
        self.in_hz = in_hz
        self.out_hz = out_hz
        divisor = math.gcd(in_hz, out_hz)
        self._up, self._down = out_hz // divisor, in_hz // divisor
        self._matrix, self._half = _block(self._up, self._down)
        self._carry: Pcm = np.zeros(self._half - 1, np.float32)  # begins at a block, with what lies before it
        self._n_given = 0  # outputs of that block that were handed out

    def push(self, pcm: Pcm, *, last: bool = False) -> Pcm:
        """Take float32 ``[n]`` at ``in_hz`` and return what is ready at ``out_hz``, float32 ``[m]``, m may be 0.

        Args:
            pcm: the next samples.
            last: the stream ends here; what the filter holds back is returned too, and no further call is allowed.
        """
        if self._up == self._down:
            return pcm
        if len(pcm) > _BLOCK_SAMPLES:
            blocks = range(0, len(pcm), _BLOCK_SAMPLES)
            parts = [
                self.push(pcm[start : start + _BLOCK_SAMPLES], last=last and start == blocks[-1]) for start in blocks
            ]
            return np.concatenate(parts)
        n_waiting = len(self._carry) + len(pcm) + (self._half if last else 0)
        n_centres = max(0, n_waiting - 2 * self._half + 1)  # input samples whose neighbourhood is complete
        n_ready = -(-n_centres * self._up // self._down)
        n_blocks = -(-n_ready // self._up)
        length = len(self._matrix)
        # The last block's outputs are worked out as far as they are ready; zeros stand for what has not come.
        padding = max(n_waiting, (n_blocks - 1) * self._down + length) - len(self._carry) - len(pcm)
        waiting = np.concatenate([self._carry, np.asarray(pcm, np.float32), np.zeros(padding, np.float32)])
        windows: Pcm = np.ndarray((n_blocks, length), np.float32, waiting, strides=(4 * self._down, 4))
        resampled: Pcm = np.dot(windows, self._matrix).reshape(-1)[self._n_given : n_ready]
        n_done = n_ready // self._up
        self._n_given = n_ready - n_done * self._up
        self._carry = waiting[n_done * self._down : n_waiting]
        return resampled


def resample(pcm: Pcm, in_hz: int, out_hz: int) -> Pcm:
    """Resample a whole clip, float32 ``[n]`` → float32 ``[n * out_hz / in_hz]``."""
    if in_hz == out_hz:
        return pcm
    resampled: Pcm = soxr.resample(np.ascontiguousarray(pcm, np.float32), in_hz, out_hz)
    return resampled
