"""Whether what the microphone hears is only the model's own voice, come back through a loudspeaker.

Browsers cancel echo themselves; a robot's or a terminal's microphone may not. This is no canceller: it compares the
loudness over time and frequency of what was sent with what was heard, finds the echo's delay and strength, and says of
each window whether it holds more than that. Pure and synchronous. Knows nothing about turns.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

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
_BANDS = len(_EDGES_HZ) - 1
_FLOOR_DB = -90.0
_ACTIVE_DB = _FLOOR_DB + 30
"""A hop of which a band is louder than this is speech that could come back."""
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


_HOPS = _MAX_DELAY_HOPS + _RING_HOPS - 1
_LEVELS, _RING = slice(0, _BANDS), slice(_BANDS, 2 * _BANDS)
_ACTIVE, _MEAN, _SQUARES = range(2 * _BANDS, 2 * _BANDS + 3)
"""What is kept of a hop: its bands' levels; the loudest of each band among it and those before, as a room rings on; 1
if it is speech that could come back, else 0; then the mean of the levels and of their squares, 0 where that is 0."""

_Numbers = npt.NDArray[np.float64]


class EchoGuard:
    """Compare what was sent with what is heard, for one session.

    :meth:`sent` and :meth:`is_echo` must be called at the pace of the session's clock, so that sent and heard audio
    stay aligned; the delay between them is found here. Some 4 ms of CPU per second while the model speaks.
    """

    def __init__(self) -> None:
        self._sent_pcm: Pcm = np.zeros(_SENT_WINDOW_SAMPLES, np.float32)
        self._carry: Pcm = np.zeros(0, np.float32)
        self._hops: _Numbers = np.zeros((_HOPS, _SQUARES + 1))  # newest first
        self._hops[:, : _RING.stop] = _FLOOR_DB
        # Of each delay: weight, Σx, Σy, Σxx, Σyy, Σxy, where x is what was sent and y what was heard.
        self._sums: _Numbers = np.zeros((_MAX_DELAY_HOPS, 6))
        self._gain_db: _Numbers = np.zeros((_MAX_DELAY_HOPS, _BANDS))
        self._recent_excess_db: _Numbers = np.zeros(_MAX_DELAY_HOPS)
        self._quiet_hops = _HOPS + _RING_HOPS

    def sent(self, pcm: Pcm | None, n_samples: int) -> None:
        """Note what left during a tick: float32 24 kHz, or None for ``n_samples`` of silence."""
        block = np.concatenate([self._carry, np.zeros(n_samples, np.float32) if pcm is None else pcm])
        while len(block) >= _HOP_SAMPLES:
            hop, block = block[:_HOP_SAMPLES], block[_HOP_SAMPLES:]
            silent = pcm is None and self._quiet_hops > 2
            self._quiet_hops = self._quiet_hops + 1 if pcm is None else 0
            if self._quiet_hops > _HOPS + _RING_HOPS:
                continue  # everything that is kept is silence already
            self._sent_pcm = np.concatenate([self._sent_pcm[_HOP_SAMPLES:], hop])
            self._keep(None if silent else _band_levels_db(self._sent_pcm, OUTPUT_RATE_HZ))
        self._carry = block

    def is_echo(self, window: Pcm) -> bool:
        """Return whether a window of input, float32 ``[512]`` at 16 kHz, holds nothing beyond the model's echo.

        False while nothing has been sent that could come back, and while too little has been compared to know.
        """
        if self._quiet_hops > _MAX_DELAY_HOPS:
            return False
        heard_db = _band_levels_db(window, INPUT_RATE_HZ)
        self._correlate(heard_db)
        correlations = self._correlations()
        delay = int(correlations.argmax())
        known = correlations[delay] >= _CORRELATED
        excess_db = self._excess_db(heard_db, self._gain_db[delay])
        self._recent_excess_db += _RECENT * (excess_db - self._recent_excess_db)
        first = max(0, delay - _SLACK_HOPS)
        likeliest = first + int(self._recent_excess_db[first : delay + _SLACK_HOPS + 1].argmin())
        louder = known and float(excess_db[likeliest]) > _EXCESS_DB
        self._learn_gain(heard_db, _DISTRUST if louder else 1.0)
        return bool(known and not louder)

    def _keep(self, levels_db: _Numbers | None) -> None:
        """Keep a hop, by its bands' levels; None for silence."""
        hops = self._hops
        hops[1:] = hops[:-1].copy()
        newest = hops[0]
        newest[_LEVELS] = _FLOOR_DB if levels_db is None else levels_db
        hops[:_RING_HOPS, _LEVELS].max(axis=0, out=newest[_RING])
        if levels_db is None or levels_db.max() <= _ACTIVE_DB:
            newest[_ACTIVE:] = 0.0
        else:
            newest[_ACTIVE:] = 1.0, levels_db.sum() / _BANDS, (levels_db @ levels_db) / _BANDS

    def _excess_db(self, heard_db: _Numbers, gain_db: _Numbers) -> _Numbers:
        """Return how much louder a window is than an echo of each delay would be: mean of bands, ``[delay]``."""
        excess = np.empty((_MAX_DELAY_HOPS, _BANDS))
        explained = heard_db - gain_db
        np.subtract(explained, self._hops[: _MAX_DELAY_HOPS - 1, _RING], out=excess[1:])  # from one hop before
        np.subtract(explained, self._hops[0, _RING], out=excess[0])
        np.maximum(excess, 0.0, out=excess)
        mean: _Numbers = excess @ ((heard_db >= _FLOOR_DB + 20) / _BANDS)
        return mean

    def _correlate(self, heard_db: _Numbers) -> None:
        kept = self._hops[:_MAX_DELAY_HOPS]
        active = kept[:, _ACTIVE]
        terms = np.empty((_MAX_DELAY_HOPS, 6))
        terms[:, 0] = active
        terms[:, 1] = kept[:, _MEAN]
        terms[:, 2] = active * (heard_db.sum() / _BANDS)
        terms[:, 3] = kept[:, _SQUARES]
        terms[:, 4] = active * ((heard_db @ heard_db) / _BANDS)
        terms[:, 5] = active * (kept[:, _LEVELS] @ heard_db) / _BANDS
        self._sums *= (1.0 - (1.0 - _MEMORY) * active)[:, None]
        self._sums += terms

    def _learn_gain(self, heard_db: _Numbers, distrust: float) -> None:
        kept = self._hops[:_MAX_DELAY_HOPS]
        n_windows = np.minimum(np.maximum(self._sums[:, 0], 1.0), _LEARN_WINDOWS)
        rate = kept[:, _ACTIVE] / (n_windows * distrust)
        self._gain_db += (heard_db - kept[:, _LEVELS] - self._gain_db) * rate[:, None]

    def _correlations(self) -> _Numbers:
        weight = self._sums[:, 0]
        x, y, xx, yy, xy = (self._sums[:, 1:] / np.maximum(weight, 1e-9)[:, None]).T
        variance = np.maximum((xx - x * x) * (yy - y * y), 1e-9)
        correlation: _Numbers = (xy - x * y) / np.sqrt(variance)
        correlation[weight < _LEAST_WEIGHT] = 0.0
        return correlation


@functools.cache
def _bands(n_samples: int, rate_hz: int) -> tuple[_Numbers, npt.NDArray[np.intp]]:
    """Return what a window is multiplied with before it is analysed, and where in its spectrum each band begins."""
    begins = np.searchsorted(np.fft.rfftfreq(n_samples, 1 / rate_hz), _EDGES_HZ)
    return np.hanning(n_samples) / n_samples, begins


def _band_levels_db(pcm: Pcm, rate_hz: int) -> _Numbers:
    """Return the level of each band in dB, ``[12]``, of one window."""
    shape, begins = _bands(len(pcm), rate_hz)
    spectrum = np.fft.rfft(pcm * shape)
    power = spectrum.real**2 + spectrum.imag**2
    levels: _Numbers = np.maximum(10 * np.log10(np.add.reduceat(power, begins)[:_BANDS] + 1e-12), _FLOOR_DB)
    return levels
