"""Audio on its way into the timeline: brought to the model's rate, and refused, with a word, when it is too much.

Knows nothing about what is in the audio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from duplex_server.errors import ClientError, LimitExceeded
from duplex_server.media.resample import StreamResampler
from duplex_server.session.timeline import InputTimeline
from duplex_server.session.transport import MediaAudio
from duplex_server.types import INPUT_RATE_HZ, Pcm
from duplex_server.wire.requests import AppendAudio

__all__ = ["Microphone"]


_AT_ONCE_S = 1.0
"""Sound that is brought to the model's rate in one go, which takes some milliseconds."""


class Microphone:
    """Put one session's input audio on its timeline, a long append second by second, so that nobody waits for it."""

    def __init__(
        self,
        timeline: InputTimeline,
        ahead_s: float,
        refuse: Callable[[ClientError], None],
        note_refused: Callable[[float], None],
    ) -> None:
        """
        Args:
            timeline: takes the audio.
            ahead_s: what the timeline holds, seconds, for the peer to read.
            refuse: takes what to tell a peer that sends too fast, once per burst.
            note_refused: takes the seconds that were dropped.
        """
        self._timeline = timeline
        self._ahead_s = ahead_s
        self._refuse = refuse
        self._note_refused = note_refused
        self._resampler = StreamResampler(INPUT_RATE_HZ, INPUT_RATE_HZ)
        self._refusing = False
        self._backlog: deque[AppendAudio] = deque()  # bounded by what the timeline has room for
        self._backlog_s = 0.0

    def put(self, audio: AppendAudio | MediaAudio) -> None:
        """Take audio from an event, or from a media track."""
        if isinstance(audio, MediaAudio):
            self._put(audio.pcm, audio.position_samples)
            return
        length_s = len(audio.pcm) / audio.rate_hz
        if not self._backlog and length_s <= _AT_ONCE_S:
            self._bring(audio)
        elif self._backlog_s + self._timeline.statistics.buffered / INPUT_RATE_HZ + length_s > self._ahead_s:
            self._drop(length_s)
        else:
            step = int(_AT_ONCE_S * audio.rate_hz)
            pieces = (audio.pcm[start : start + step] for start in range(0, len(audio.pcm), step))
            self._backlog.extend(AppendAudio(piece, audio.rate_hz) for piece in pieces)
            self._backlog_s += length_s

    def digest(self) -> None:
        """Bring the next second of what waits to the timeline; called once per tick."""
        left_s = _AT_ONCE_S
        while self._backlog and left_s > 0:
            audio = self._backlog.popleft()
            length_s = len(audio.pcm) / audio.rate_hz
            left_s -= length_s
            self._backlog_s = self._backlog_s - length_s if self._backlog else 0.0
            self._bring(audio)

    def clear(self) -> None:
        """Drop what the model has not been given."""
        self._backlog.clear()
        self._backlog_s = 0.0
        self._timeline.clear()

    def _bring(self, audio: AppendAudio) -> None:
        if self._resampler.in_hz != audio.rate_hz:
            self._resampler = StreamResampler(audio.rate_hz, INPUT_RATE_HZ)
        self._put(self._resampler.push(audio.pcm), None)

    def _put(self, pcm: Pcm, position_samples: int | None) -> None:
        if self._timeline.put(pcm, position_samples):
            self._refusing = False
        else:
            self._drop(len(pcm) / INPUT_RATE_HZ)

    def _drop(self, length_s: float) -> None:
        self._note_refused(length_s)
        if self._refusing:
            return
        self._refusing = True
        message = (
            f"Audio comes faster than real time, and {self._ahead_s:.0f} s of it wait already. What does not fit is "
            "dropped; send at real-time pace."
        )
        self._refuse(
            LimitExceeded(message, limit="input_ahead_s", value=f"{self._ahead_s:.0f} s", code="input_backpressure")
        )
