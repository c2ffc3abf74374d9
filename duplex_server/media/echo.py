"""Whether what the microphone hears is only the model's own voice, come back through a loudspeaker.

Browsers cancel echo themselves; a robot's or a terminal's microphone may not. This is no canceller: it compares the
loudness over time and frequency of what was sent with what was heard, finds the echo's delay and strength, and says of
each window whether it holds more than that. Pure and synchronous. Knows nothing about turns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from duplex_server.media.vad import WINDOW_SAMPLES
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm

__all__ = ["EchoGuard"]

_HOP_S = 0.016
"""Grid on which the sent sound is kept: half a voice window, so that any delay is met within 8 ms."""
_HOP_SAMPLES = int(_HOP_S * OUTPUT_RATE_HZ)
_SENT_WINDOW_SAMPLES = WINDOW_SAMPLES * OUTPUT_RATE_HZ // INPUT_RATE_HZ
_MAX_DELAY_HOPS = 40
"""640 ms: a Bluetooth loudspeaker (300 ms) behind a jitter buffer (up to 200 ms)."""
_EDGES_HZ = np.geomspace(200.0, 4000.0, 13)
"""Twelve bands over the range that small loudspeakers give and telephones carry."""
_FLOOR_DB = -90.0
_MEMORY = 0.98
"""Forgetting per compared window: a time constant of 50 windows, 1.6 s of the model's speech."""
_CORRELATED = 0.55
"""Loudness patterns that agree this well are the same sound. Unrelated speech stays under 0.4 over 1.6 s."""
_LEAST_WEIGHT = 10.0
"""Windows compared before a correlation is believed: 320 ms of the model's speech."""
_EXCESS_DB = 0.9
"""Mean over the bands of what a window is louder than its echo explains. Simulated rooms (delays 20 to 400 ms, 150 and
400 ms of reverberation) stay under 0.8 in 97 % of echo windows; 90 % of the windows with a second talker as loud as the
echo lie above."""
_RING_HOPS = 5
"""An echo is as loud as the loudest of so many hops: from one before its delay, which is found to within a hop, to
three after it, as the room rings on."""
_SLACK_HOPS = 8
"""An echo may move by 128 ms and still be known at once: jitter buffers grow and shrink by that, and a player that ran
dry goes on later."""
_RECENT = 0.3
"""Weight of a new window in the recent excess of each delay, by which the delay that holds now is told."""
_LEARN_WINDOWS = 50.0
"""The echo's strength per band is an average over this many windows."""
_DISTRUST = 4.0
"""Windows judged to hold another voice teach the echo's strength this much less, so that the voice is not learnt as
echo, yet a loudspeaker turned up is."""


class EchoGuard:
    """Compare what was sent with what is heard, for one session.

    :meth:`sent` and :meth:`is_echo` must be called at the pace of the session's clock, so that sent and heard audio
    stay aligned; the delay between them is found here.
    """

    def __init__(self) -> None:
        n_bands = len(_EDGES_HZ) - 1
        self._sent_pcm: Pcm = np.zeros(_SENT_WINDOW_SAMPLES, np.float32)
        self._carry: Pcm = np.zeros(0, np.float32)
        # Newest last; hop h of the past is row −1−h.
        self._sent_db = np.full((_MAX_DELAY_HOPS + 4, n_bands), _FLOOR_DB, np.float32)
        self._sums = np.zeros((_MAX_DELAY_HOPS, 6))  # weight, Σx, Σy, Σxx, Σyy, Σxy per delay
        self._gain_db = np.zeros((_MAX_DELAY_HOPS, n_bands))
        self._recent_excess_db = np.zeros(_MAX_DELAY_HOPS)
        self._quiet_hops = _MAX_DELAY_HOPS + 4

    def sent(self, pcm: Pcm | None, n_samples: int) -> None:
        """Note what left during a tick: float32 24 kHz, or None for ``n_samples`` of silence."""
        block = np.concatenate([self._carry, np.zeros(n_samples, np.float32) if pcm is None else pcm])
        while len(block) >= _HOP_SAMPLES:
            hop, block = block[:_HOP_SAMPLES], block[_HOP_SAMPLES:]
            self._sent_pcm = np.concatenate([self._sent_pcm[_HOP_SAMPLES:], hop])
            silent = pcm is None and self._quiet_hops > 2
            self._quiet_hops = self._quiet_hops + 1 if pcm is None else 0
            self._sent_db[:-1] = self._sent_db[1:]
            self._sent_db[-1] = _FLOOR_DB if silent else _band_levels_db(self._sent_pcm, OUTPUT_RATE_HZ)
        self._carry = block

    def is_echo(self, window: Pcm) -> bool:
        """Return whether a window of input, float32 ``[512]`` at 16 kHz, holds nothing beyond the model's echo.

        False while nothing has been sent that could come back, and while too little has been compared to know.
        """
        if self._quiet_hops > _MAX_DELAY_HOPS:
            return False
        heard_db = _band_levels_db(window, INPUT_RATE_HZ)
        delayed = self._sent_db[::-1][:_MAX_DELAY_HOPS]  # [delay, band]
        self._correlate(delayed, heard_db)
        correlations = self._correlations()
        delay = int(np.argmax(correlations))
        known = correlations[delay] >= _CORRELATED
        excess_db = self._excess_db(heard_db, self._gain_db[delay])
        self._recent_excess_db += _RECENT * (excess_db - self._recent_excess_db)
        first = max(0, delay - _SLACK_HOPS)
        likeliest = first + int(np.argmin(self._recent_excess_db[first : delay + _SLACK_HOPS + 1]))
        louder = known and float(excess_db[likeliest]) > _EXCESS_DB
        self._learn_gain(delayed, heard_db, _DISTRUST if louder else 1.0)
        return bool(known and not louder)

    def _excess_db(
        self, heard_db: npt.NDArray[np.float32], gain_db: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return how much louder a window is than an echo of each delay would be: mean of bands, ``[delay]``."""
        around = sliding_window_view(self._sent_db[::-1], _RING_HOPS, axis=0).max(axis=-1)  # the room rings on
        nearby = np.concatenate([around[:1], around])[:_MAX_DELAY_HOPS]  # from one hop before the delay
        excess = np.maximum(heard_db - nearby - gain_db, 0.0)
        excess[:, heard_db < _FLOOR_DB + 20] = 0.0
        mean: npt.NDArray[np.float64] = excess.mean(axis=1)
        return mean

    def _correlate(self, delayed: npt.NDArray[np.float32], heard_db: npt.NDArray[np.float32]) -> None:
        active = _active(delayed)
        x = delayed[active].astype(np.float64)
        y = np.broadcast_to(heard_db.astype(np.float64), x.shape)
        terms = np.stack(
            [np.ones(len(x)), x.mean(1), y.mean(1), (x * x).mean(1), (y * y).mean(1), (x * y).mean(1)], axis=1
        )
        self._sums[active] = self._sums[active] * _MEMORY + terms

    def _learn_gain(self, delayed: npt.NDArray[np.float32], heard_db: npt.NDArray[np.float32], distrust: float) -> None:
        active = _active(delayed)
        n_windows = np.clip(self._sums[active, :1], 1.0, _LEARN_WINDOWS)
        self._gain_db[active] += (heard_db - delayed[active] - self._gain_db[active]) / (n_windows * distrust)

    def _correlations(self) -> npt.NDArray[np.float64]:
        weight, x, y, xx, yy, xy = self._sums.T
        n = np.maximum(weight, 1e-9)
        variance = np.maximum((xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2), 1e-9)
        correlation: npt.NDArray[np.float64] = (xy / n - x * y / n**2) / np.sqrt(variance)
        correlation[weight < _LEAST_WEIGHT] = 0.0
        return correlation


def _active(delayed: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return the delays at which something was being sent, bool ``[delay]``."""
    active: npt.NDArray[np.bool_] = delayed.max(axis=1) > _FLOOR_DB + 30
    return active


def _band_levels_db(pcm: Pcm, rate_hz: int) -> npt.NDArray[np.float32]:
    """Return the level of each band in dB, float32 ``[12]``, of one window."""
    power = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))) ** 2 / len(pcm) ** 2
    first = np.searchsorted(np.fft.rfftfreq(len(pcm), 1 / rate_hz), _EDGES_HZ)
    sums = np.add.reduceat(power, first)[: len(_EDGES_HZ) - 1]
    levels: npt.NDArray[np.float32] = np.maximum(10 * np.log10(sums + 1e-12), _FLOOR_DB).astype(np.float32)
    return levels
