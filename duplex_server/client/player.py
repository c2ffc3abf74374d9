"""What the listener hears: received audio, played at real-time pace, dropped when it is interrupted, and counted.

:class:`Player` is what a sound card pulls from. :class:`Loudspeaker` stands where there is no sound card: it plays by
the clock and keeps the sound. Knows nothing about events or connections.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["Cut", "Loudspeaker", "Player"]

_FADE_MS = 5
"""A flush fades out over this long instead of ending in a click. 5 ms is too short to be heard as sound."""
_GAIN_RAMP_MS = 20
"""A change of gain is spread over this long, for the same reason."""
_MAX_CONCEALED_MS = 200
"""A gap in the media clock up to this long is lost packets, filled with silence; a longer one is the model's pause."""
_MAX_QUEUED_S = 600
"""Audio beyond this much is dropped: a server that sends so far ahead never hears that it was interrupted."""
_REMEMBERED_RESPONSES = 64
"""For so many responses, newest first, :meth:`Player.played_ms` is kept."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a flush did to one response."""

    response_id: str
    item_id: str
    played_ms: int
    """How much of the response the listener has heard."""
    dropped_ms: int
    """How much had been received and was not heard."""


@dataclass(slots=True)
class _Segment:
    pcm: Pcm
    response_id: str
    item_id: str


class Player:
    """Hold received audio until a sound card, or whoever plays its part, takes it.

    Time is counted in the samples taken. :meth:`take` may be called from an audio thread; all else runs in one thread.

    Args:
        rate_hz: of all audio.
        start_delay_ms: after silence, playing starts this long after the first audio came, so that packets may be late
            by as much (a jitter buffer). 0 where the sender runs ahead by itself.

    Attributes:
        underruns: how often the player ran dry within a response.
        concealed_ms: how much silence stands for audio that was lost on the way.
        overflowed_ms: how much audio was dropped because too much was waiting.
    """

    def __init__(self, *, rate_hz: int = OUTPUT_RATE_HZ, start_delay_ms: int = 0) -> None:
        self.rate_hz = rate_hz
        self.underruns = 0
        self.concealed_ms = 0.0
        self.overflowed_ms = 0.0
        self._start_delay_samples = start_delay_ms * rate_hz // 1000
        self._queue: deque[_Segment] = deque()  # bounded by put(), which drops what comes when it is full
        self._queued_samples = 0
        self._hold_samples = 0
        self._next_position: int | None = None
        self._last_response_id = ""
        self._played_samples: OrderedDict[str, int] = OrderedDict()
        self._gain = 1.0
        self._target_gain = 1.0
        self._lock = threading.Lock()

    @property
    def queued_ms(self) -> int:
        """How much audio is waiting to be heard."""
        return self._queued_samples * 1000 // self.rate_hz

    @property
    def playing(self) -> bool:
        """Whether anything is waiting to be heard."""
        return bool(self._queue)

    def played_ms(self, response_id: str) -> int:
        """Return how much of a response the listener has heard; 0 for one that is unknown or long ago."""
        return self._played_samples.get(response_id, 0) * 1000 // self.rate_hz

    def put(self, pcm: Pcm, *, response_id: str = "", item_id: str = "", position_samples: int | None = None) -> None:
        """Add audio behind what is waiting.

        Args:
            pcm: float32 ``[n]`` at ``rate_hz``.
            response_id: the response it belongs to, if known.
            item_id: the conversation item it belongs to, if known.
            position_samples: where it belongs on the sender's media clock. Audio from before what was put last is
                dropped, short gaps are filled with silence. None: it follows what was put last.
        """
        with self._lock:
            if position_samples is not None:
                pcm, follows = self._place(pcm, position_samples)
            else:
                follows = bool(response_id) and response_id == self._last_response_id
            if not len(pcm):
                return
            if self._queued_samples + len(pcm) > _MAX_QUEUED_S * self.rate_hz:
                self.overflowed_ms += len(pcm) * 1000 / self.rate_hz
                return
            if not self._queue:
                self._hold_samples = self._start_delay_samples
                self.underruns += follows
            self._queue.append(_Segment(pcm, response_id, item_id))
            self._queued_samples += len(pcm)
            self._last_response_id = response_id

    def _place(self, pcm: Pcm, position_samples: int) -> tuple[Pcm, bool]:
        """Return what to queue of audio at a position, and whether it carries on what was put last."""
        expected, limit_samples = self._next_position, _MAX_CONCEALED_MS * self.rate_hz // 1000
        self._next_position = position_samples + len(pcm)
        if expected is None:
            return pcm, False
        gap_samples = position_samples - expected
        if -self.rate_hz < gap_samples < 0:  # further back, the sender's clock has started anew
            self._next_position = max(expected, self._next_position)
            return pcm[-gap_samples:], True
        if 0 < gap_samples <= limit_samples and self._queue:
            self.concealed_ms += gap_samples * 1000 / self.rate_hz
            return np.concatenate([np.zeros(gap_samples, np.float32), pcm]), True
        return pcm, gap_samples == 0

    def take(self, n_samples: int) -> Pcm:
        """Return what the loudspeaker plays next, float32 ``[n_samples]``; silence where nothing is waiting."""
        with self._lock:
            played = np.zeros(n_samples, np.float32)
            done = min(self._hold_samples, n_samples) if self._queue else 0
            self._hold_samples -= done
            while done < n_samples and self._queue:
                segment = self._queue[0]
                part = segment.pcm[: n_samples - done]
                played[done : done + len(part)] = part
                done += len(part)
                self._count(segment.response_id, len(part))
                segment.pcm = segment.pcm[len(part) :]
                if not len(segment.pcm):
                    self._queue.popleft()
            return self._apply_gain(played)

    def _count(self, response_id: str, n_samples: int) -> None:
        self._queued_samples -= n_samples
        self._played_samples[response_id] = self._played_samples.get(response_id, 0) + n_samples
        if len(self._played_samples) > _REMEMBERED_RESPONSES:
            self._played_samples.popitem(last=False)

    def _apply_gain(self, pcm: Pcm) -> Pcm:
        if self._gain == self._target_gain:
            return pcm if self._gain == 1.0 else pcm * np.float32(self._gain)
        step = np.copysign(1000 / (_GAIN_RAMP_MS * self.rate_hz), self._target_gain - self._gain)
        gains = self._gain + step * np.arange(1, len(pcm) + 1)
        gains = np.minimum(gains, self._target_gain) if step > 0 else np.maximum(gains, self._target_gain)
        self._gain = float(gains[-1]) if len(gains) else self._gain
        shaped: Pcm = pcm * gains.astype(np.float32)
        return shaped

    def set_gain_db(self, gain_db: float) -> None:
        """Play louder or softer from the next sample on; the change takes 20 ms."""
        with self._lock:
            self._target_gain = float(10 ** (gain_db / 20))

    def flush(self) -> list[Cut]:
        """Drop what is waiting, but for a fade-out of 5 ms.

        Returns:
            One entry for each response that was not heard to its end, in the order of playing.
        """
        with self._lock:
            waiting: OrderedDict[str, tuple[str, int]] = OrderedDict()
            for segment in self._queue:
                item_id, n_samples = waiting.get(segment.response_id, (segment.item_id, 0))
                waiting[segment.response_id] = item_id, n_samples + len(segment.pcm)
            cuts = [
                Cut(response_id, item_id, self.played_ms(response_id), n_samples * 1000 // self.rate_hz)
                for response_id, (item_id, n_samples) in waiting.items()
            ]
            self._keep_fade_out()
            self._last_response_id = ""
            return cuts

    def _keep_fade_out(self) -> None:
        tail = self._queue[0] if self._queue and not self._hold_samples else None
        self._queue.clear()
        self._queued_samples = self._hold_samples = 0
        if tail is not None:
            faded = tail.pcm[: _FADE_MS * self.rate_hz // 1000]
            tail.pcm = (faded * np.linspace(1, 0, len(faded), endpoint=False)).astype(np.float32)
            self._queue.append(tail)
            self._queued_samples = len(tail.pcm)


class Loudspeaker:
    """A player driven by the clock, for programs without a sound card; keeps what it played.

    Call :meth:`advance` before every ``put`` and ``flush`` of the player, with the time of that event: the track is
    then exact to the sample however seldom it is called.

    Args:
        player: what it plays.
        started_s: the time of the track's first sample, on the clock that :meth:`advance` is told.
        keep: whether to keep what was played for :attr:`track`; an hour of it takes 350 MB.
    """

    def __init__(self, player: Player, started_s: float, *, keep: bool = True) -> None:
        self.player = player
        self._keep = keep
        self._started_s = started_s
        self._track: Pcm = np.zeros(self.player.rate_hz if keep else 0, np.float32)  # doubled when it is full
        self._n_samples = 0

    def advance(self, now_s: float) -> Pcm:
        """Play all that is due until ``now_s`` and return it, float32 ``[n]``."""
        due_samples = round((now_s - self._started_s) * self.player.rate_hz) - self._n_samples
        if due_samples <= 0:
            return np.zeros(0, np.float32)
        played = self.player.take(due_samples)
        if self._keep:
            end = self._n_samples + due_samples
            if end > len(self._track):
                self._track = np.concatenate([self._track, np.zeros(max(end, len(self._track)), np.float32)])
            self._track[self._n_samples : end] = played
        self._n_samples += due_samples
        return played

    @property
    def track(self) -> Pcm:
        """Everything played so far, float32 ``[n]`` from ``started_s`` on; a view that later calls do not change."""
        return self._track[: self._n_samples]
