"""Audio on its way into the timeline: brought to the model's rate, and refused, with a word, when it is too much.

Knows nothing about what is in the audio.
"""

from __future__ import annotations

from collections.abc import Callable

from duplex_server.errors import ClientError, LimitExceeded
from duplex_server.media.resample import StreamResampler
from duplex_server.session.timeline import InputTimeline
from duplex_server.session.transport import MediaAudio
from duplex_server.types import INPUT_RATE_HZ, Pcm
from duplex_server.wire.requests import AppendAudio

__all__ = ["Microphone"]


class Microphone:
    """Put one session's input audio on its timeline."""

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

    def put(self, audio: AppendAudio | MediaAudio) -> None:
        """Take audio from an event, or from a media track."""
        if isinstance(audio, MediaAudio):
            self._put(audio.pcm, audio.position_samples)
            return
        if self._resampler.in_hz != audio.rate_hz:
            self._resampler = StreamResampler(audio.rate_hz, INPUT_RATE_HZ)
        self._put(self._resampler.push(audio.pcm), None)

    def _put(self, pcm: Pcm, position_samples: int | None) -> None:
        if self._timeline.put(pcm, position_samples):
            self._refusing = False
            return
        self._note_refused(len(pcm) / INPUT_RATE_HZ)
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
