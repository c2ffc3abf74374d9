"""Input in media time: what arrives early, late, in bursts or not at all becomes an even stream of ticks and units.

Pure and synchronous: the session calls :meth:`InputTimeline.take` once per tick. Knows nothing about clocks, sockets
or what is in the audio.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from duplex_server.media.pcm import level_db
from duplex_server.types import INPUT_RATE_HZ, TICK_MS, Floor, ModelSpec, Pcm, Unit, VideoFrame

__all__ = ["TICK_SAMPLES", "InputTimeline", "TimelineStatistics", "UnitCutter"]

TICK_SAMPLES = INPUT_RATE_HZ * TICK_MS // 1000

_LIVE_LEAD_SAMPLES = INPUT_RATE_HZ // 2
"""A peer further ahead of real time than this sent a recording on purpose; nothing of it is skipped."""
_FORGIVEN_SAMPLES = 2 * INPUT_RATE_HZ
"""Longest hiccup that a burst may make up for. After a longer silence the peer had paused, not stalled."""
_LARGEST_GAP_SAMPLES = INPUT_RATE_HZ
"""Silence put in for lost packets at most; a larger jump of the sender's clock is a new start, not a loss."""
_WATCH_TICKS = 2000 // TICK_MS
"""How long the buffer must never have run low before it counts as delay: 2 s, beyond any Wi-Fi power-save cycle."""
_PATIENCE_TICKS = 200 // TICK_MS
"""Input that comes this late is waited for, and then handed out at once: silence inside a word makes it another word,
and pages that draw, or a Wi-Fi that sleeps, hold sound back for 50 to 150 ms. A peer that has stopped sending is
noticed as much later."""
_CUSHION_SAMPLES = TICK_SAMPLES
"""Delay that is kept for jitter."""
_SKIP_SAMPLES = INPUT_RATE_HZ // 100
"""Silence is skipped in steps of 10 ms."""
_QUIET_TICKS = 200 // TICK_MS
"""Pauses shorter than this lie inside words (a plosive's closure lasts up to 150 ms) and are left alone."""
_QUIET_OVER_FLOOR_DB = 6.0
_FLOOR_RISE_DB = 0.02
"""Per tick, 1 dB/s: the noise floor follows a noisier room within a minute and a sentence not at all."""


@dataclass(frozen=True, slots=True)
class TimelineStatistics:
    """What became of the input, in 16 kHz samples since the session began."""

    taken: int
    """Handed out: the session's age in media time."""
    missing: int
    """Silence put in because nothing had arrived in time, after the first sample had."""
    skipped: int
    """Silence left out to make up for late input."""
    overlapping: int
    """Received twice, or for a place already handed out."""
    refused: int
    """Dropped because the buffer was full."""
    buffered: int
    """Waiting now."""


class InputTimeline:
    """Turn what arrives into as many ticks of audio as time has.

    Input that is a little late is waited for; then silence fills what is missing. What comes later still is not lost:
    it is handed out late, and the delay is made up for in the next pauses by leaving silence out. So a stalled network
    costs no word, and no delay stays; neither does a sender whose clock runs fast or slow. A peer that sends a whole
    recording at once is left alone, and heard at real-time pace.
    """

    def __init__(self, capacity_samples: int) -> None:
        """Args: capacity_samples: most audio that waits; more is refused (:meth:`put` returns False)."""
        self._capacity_samples = capacity_samples
        self._waiting: deque[Pcm] = deque()  # bounded by _capacity_samples
        self._buffered = 0
        self._expected: int | None = None  # sender's position of the next sample, if it tells positions
        self._behind = 0  # silence handed out in place of input, not yet made up for
        self._starving = False
        self._ticks = self._beats = 0
        self._owed = 0  # ticks of time for which nothing has been handed out yet
        self._least_owed = _PATIENCE_TICKS  # after a take, in this watch
        self._to_pad = 0
        self._lowest = capacity_samples  # least buffered after a take, in this watch
        self._to_skip = 0
        self._quiet_ticks = 0
        self._floor_db = 0.0
        self._excused = 0  # what may wait because the peer was away, not because it sent a recording
        self._began = False
        self._missing = self._skipped = self._overlapping = self._refused = 0

    def put(self, pcm: Pcm, position_samples: int | None = None) -> bool:
        """Append input, float32 ``[n]`` at 16 kHz.

        Args:
            pcm: the samples.
            position_samples: where they belong on the sender's clock, if it tells: gaps become silence, and what came
                before is dropped.

        Returns:
            False if the buffer is full and the samples were refused.
        """
        self._began = True
        if position_samples is not None:
            pcm = self._place(pcm, position_samples)
        if self._buffered + len(pcm) > self._capacity_samples:
            self._refused += len(pcm)
            return False
        if len(pcm):
            self._waiting.append(pcm)
            self._buffered += len(pcm)
            self._starving = False
        return True

    def _place(self, pcm: Pcm, position: int) -> Pcm:
        expected = position if self._expected is None else self._expected
        gap = position - expected
        self._expected = max(expected, position + len(pcm))
        if gap < -_LARGEST_GAP_SAMPLES:  # the sender's clock started anew
            self._expected = position + len(pcm)
            return pcm
        if gap < 0:
            self._overlapping += min(len(pcm), -gap)
            return pcm[-gap:]
        covered = min(gap, self._behind)  # its silence was already handed out
        self._behind -= covered
        if 0 < gap - covered <= _LARGEST_GAP_SAMPLES:
            self._missing += gap - covered
            return np.concatenate([np.zeros(gap - covered, np.float32), pcm])
        return pcm

    def take(self) -> list[Pcm]:
        """Let one tick of time pass; return what is to be heard now, each float32 ``[320]``.

        One tick as a rule; none while late input is waited for, and several when it has come, or is given up.
        """
        self._owed += 1
        ticks = []
        while self._owed and self._buffered >= TICK_SAMPLES:
            if self._to_skip and self._quiet_ticks >= _QUIET_TICKS:
                self._skip()
            ticks.append(self._hand_out(self._pop(TICK_SAMPLES)))
        if self._to_pad and self._quiet_ticks >= _QUIET_TICKS:
            ticks += [self._hand_out(self._silence(0)) for _ in range(min(self._to_pad, self._owed))]
            self._to_pad = 0
        if self._owed > (0 if self._starving or not self._began else _PATIENCE_TICKS):
            ticks += [self._hand_out(self._take_short()) for _ in range(self._owed)]
        self._watch()
        return ticks

    def clear(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        self._buffered = 0
        self._to_skip = 0

    def excuse(self, n_samples: int) -> None:
        """Take note that the peer was away for up to so long: what it sends late is a delay to make up for."""
        self._excused = n_samples

    @property
    def statistics(self) -> TimelineStatistics:
        """Counts so far."""
        return TimelineStatistics(
            self._ticks * TICK_SAMPLES,
            self._missing,
            self._skipped,
            self._overlapping,
            self._refused,
            self._buffered,
        )

    def _take_short(self) -> Pcm:
        # The first short tick is silence as a whole: the rest of the packet is probably on its way, and the samples
        # kept back are the cushion that the stream evidently needs. If nothing follows, the stream has paused.
        n_samples = self._buffered if self._starving else 0
        self._starving = True
        return self._silence(n_samples)

    def _silence(self, after_samples: int) -> Pcm:
        """A tick that is silent after some samples of what waits."""
        n_silent = TICK_SAMPLES - after_samples
        if self._began:
            self._behind += n_silent
            self._missing += n_silent
        return np.concatenate([self._pop(after_samples), np.zeros(n_silent, np.float32)])

    def _pop(self, n_samples: int) -> Pcm:
        parts: list[Pcm] = []
        while n_samples:
            head = self._waiting[0]
            if len(head) <= n_samples:
                parts.append(self._waiting.popleft())
            else:
                parts.append(head[:n_samples])
                self._waiting[0] = head[n_samples:]
            n_samples -= len(parts[-1])
            self._buffered -= len(parts[-1])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _hand_out(self, tick: Pcm) -> Pcm:
        self._owed -= 1
        self._ticks += 1
        level = level_db(tick)
        self._floor_db = min(level, self._floor_db + _FLOOR_RISE_DB)
        quiet = level <= self._floor_db + _QUIET_OVER_FLOOR_DB
        self._quiet_ticks = self._quiet_ticks + 1 if quiet else 0
        return tick

    def _watch(self) -> None:
        self._lowest = min(self._lowest, self._buffered)
        self._least_owed = min(self._least_owed, self._owed)
        self._beats += 1
        if self._beats % _WATCH_TICKS:
            return
        live = self._buffered - min(self._behind, _FORGIVEN_SAMPLES) - self._excused <= _LIVE_LEAD_SAMPLES
        self._to_skip = max(0, self._lowest - _CUSHION_SAMPLES) if live else 0
        self._to_pad = self._least_owed  # the sender's clock runs slow
        self._lowest, self._least_owed = self._capacity_samples, _PATIENCE_TICKS

    def _skip(self) -> None:
        while self._to_skip >= _SKIP_SAMPLES and self._buffered >= TICK_SAMPLES + _SKIP_SAMPLES:
            head = self._pop(_SKIP_SAMPLES)
            if level_db(head) > self._floor_db + _QUIET_OVER_FLOOR_DB:
                self._waiting.appendleft(head)
                self._buffered += len(head)
                return
            self._to_skip -= len(head)
            self._skipped += len(head)
            self._behind = max(0, self._behind - len(head))
            self._excused = max(0, self._excused - len(head))
        self._to_skip = self._to_skip if self._to_skip >= _SKIP_SAMPLES else 0


class UnitCutter:
    """Gather ticks, pictures and texts into units of the model's length."""

    def __init__(self, spec: ModelSpec) -> None:
        assert spec.unit_ms % TICK_MS == 0, f"unit_ms {spec.unit_ms} is not a multiple of the tick, {TICK_MS} ms"
        self._spec = spec
        self._ticks: list[Pcm] = []
        self._probability = 0.0
        self._frames: deque[VideoFrame] = deque(maxlen=max(1, spec.max_frames))  # when full the oldest goes
        self._texts: list[str] = []
        self._index = 0
        self.n_frames_dropped = 0
        """Pictures replaced by newer ones before their unit was full."""

    def add_frame(self, frame: VideoFrame) -> None:
        """Keep a picture for the unit being gathered; the newest ``spec.max_frames`` stay."""
        if len(self._frames) == self._frames.maxlen:
            self.n_frames_dropped += 1
        self._frames.append(frame)

    def add_text(self, text: str) -> None:
        """Keep a typed message for the unit being gathered."""
        self._texts.append(text)

    def push(self, tick: Pcm, speech_probability: float, floor: Floor) -> Unit | None:
        """Add one tick; return the unit that it completes, if it does.

        Args:
            tick: float32 ``[320]``.
            speech_probability: highest of the voice windows that ended within the tick.
            floor: who may speak, as of now; the unit gets the value of its last tick.
        """
        self._ticks.append(tick)
        self._probability = max(self._probability, speech_probability)
        if len(self._ticks) * TICK_MS < self._spec.unit_ms:
            return None
        frames = tuple(sorted(self._frames, key=lambda frame: frame.captured_s)) if self._spec.max_frames else ()
        unit = Unit(self._index, np.concatenate(self._ticks), self._probability, frames, tuple(self._texts), floor)
        self._index += 1
        self._ticks, self._texts = [], []
        self._probability = 0.0
        self._frames.clear()
        return unit
