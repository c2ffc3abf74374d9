"""When a voice starts, stops, is lowered and comes back, read off the track that a listener heard.

Everything here is a function of samples; it is tested on made-up signals whose answers are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from duplex_server.types import Pcm

__all__ = [
    "AUDIBLE",
    "active_level_db",
    "back_after_s",
    "down_after_s",
    "first_audible_s",
    "last_audible_s",
    "levels_db",
    "percentile",
    "silent_stretches_s",
    "within",
]

AUDIBLE = 10 ** (-50 / 20)
"""A sample beyond this amplitude counts as sound: −50 dBFS, some 35 dB below a voice. Codec noise stays below."""

WINDOW_S = 0.02
"""Levels are taken over this long: about two periods of a low voice."""
HOP_S = 0.005
"""A new window starts so often; it is the resolution of levels in time."""

DOWN_DB = 12.0
"""A voice lowered by this much counts as out of the way."""
BACK_DB = 15.0
"""A voice that the server holds down is 18 dB lower: what is heard at less than 15 dB below the loudest is not held
down. A voice that nobody disturbs has stretches without such a window, too: 100 ms of the embedded model at p95."""
REFERENCE_S = 3.0
"""The loudest window of this long before an event is what a voice is compared with. Speech has a stressed vowel at
least once a second, so the reference is a vowel at full level."""
PAUSE_DB = -60.0
"""A window below this is a pause of the speaker: even a soft consonant of a lowered voice is louder."""

Levels = npt.NDArray[np.float64]


def within(track: Pcm, rate_hz: int, start_s: float, end_s: float) -> Pcm:
    """Return the part of a track between two times, cut at its ends."""
    return track[max(0, round(start_s * rate_hz)) : max(0, round(end_s * rate_hz))]


def first_audible_s(track: Pcm, rate_hz: int, after_s: float, before_s: float = np.inf) -> float | None:
    """Return when the first audible sample in ``[after_s, before_s)`` is played; None where all is silent."""
    start = max(0, round(after_s * rate_hz))
    end = len(track) if np.isinf(before_s) else max(0, round(before_s * rate_hz))
    found = np.flatnonzero(np.abs(track[start:end]) >= AUDIBLE)
    return None if not len(found) else float(start + found[0]) / rate_hz


def last_audible_s(track: Pcm, rate_hz: int, after_s: float, before_s: float = np.inf) -> float | None:
    """Return when the last audible sample in ``[after_s, before_s)`` has been played; None where all is silent."""
    start = max(0, round(after_s * rate_hz))
    end = len(track) if np.isinf(before_s) else max(0, round(before_s * rate_hz))
    found = np.flatnonzero(np.abs(track[start:end]) >= AUDIBLE)
    return None if not len(found) else float(start + found[-1] + 1) / rate_hz


def silent_stretches_s(track: Pcm, rate_hz: int, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return every stretch without an audible sample in ``[start_s, end_s)``, as (start, end)."""
    part = within(track, rate_hz, start_s, end_s)
    audible = np.flatnonzero(np.abs(part) >= AUDIBLE)
    edges = np.concatenate([[-1], audible, [len(part)]])
    gaps = np.flatnonzero(np.diff(edges) > 1)
    return [(start_s + float(edges[gap] + 1) / rate_hz, start_s + float(edges[gap + 1]) / rate_hz) for gap in gaps]


def levels_db(track: Pcm, rate_hz: int) -> Levels:
    """Return the RMS level of every window of 20 ms that starts at a multiple of 5 ms, dBFS, float64 ``[n]``."""
    window, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    if len(track) < window:
        return np.zeros(0)
    energy = np.concatenate([[0.0], np.cumsum(np.square(track, dtype=np.float64))])
    starts = np.arange(0, len(track) - window + 1, hop)
    levels: Levels = 10 * np.log10((energy[starts + window] - energy[starts]) / window + 1e-12)
    return levels


def active_level_db(pcm: Pcm, rate_hz: int) -> float:
    """Return the RMS level over the windows of a clip that lie within 30 dB of its loudest one."""
    levels = levels_db(pcm, rate_hz)
    active = levels[levels > levels.max() - 30]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def _reference_db(track: Pcm, rate_hz: int, event_s: float) -> float:
    levels = levels_db(within(track, rate_hz, event_s - REFERENCE_S, event_s), rate_hz)
    assert len(levels), "there is nothing before the event to compare with"
    return float(levels.max())


def down_after_s(track: Pcm, rate_hz: int, onset_s: float, until_s: float, *, by_db: float = DOWN_DB) -> float:
    """Return how long after ``onset_s`` the voice was last heard at a level within ``by_db`` of the one before.

    The level before is the loudest window of the three seconds before the onset. What is returned is the end of the
    last window in ``[onset_s, until_s)`` that is not ``by_db`` below it; 0 if there is none.
    """
    limit_db = _reference_db(track, rate_hz, onset_s) - by_db
    loud = np.flatnonzero(levels_db(within(track, rate_hz, onset_s, until_s), rate_hz) > limit_db)
    return 0.0 if not len(loud) else float(loud[-1] * HOP_S + WINDOW_S)


def back_after_s(
    track: Pcm, rate_hz: int, onset_s: float, end_s: float, until_s: float, *, by_db: float = BACK_DB
) -> float | None:
    """Return how long after ``end_s`` of a disturbance the voice is heard again at a level within ``by_db`` of before.

    Pauses that the speaker itself makes in between do not count.

    Args:
        track: what was heard.
        rate_hz: of the track.
        onset_s: when the disturbance began: what was before it is compared with.
        end_s: when the disturbance ended.
        until_s: how far to look.
        by_db: the voice is back at this much below the loudest window before.

    Returns:
        Seconds, 0 if it is back (or was never away) when the disturbance ends; None if it does not come back.
    """
    limit_db = _reference_db(track, rate_hz, onset_s) - by_db
    levels = levels_db(within(track, rate_hz, end_s, until_s), rate_hz)
    loud = np.flatnonzero(levels > limit_db)
    if not len(loud):
        return None
    away = levels[: loud[0]]
    return float(np.count_nonzero(away > PAUSE_DB) * HOP_S)


def percentile(figures: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a figure that was really measured, never one in between."""
    assert figures, "no figures, no percentile"
    return float(np.percentile(np.asarray(figures, np.float64), percent, method="inverted_cdf"))
