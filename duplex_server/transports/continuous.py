"""Speech as one stream without a gap, for peers that know no responses: exact silence where nobody speaks.

Its clock is the stream's own length. Knows nothing about what carries it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from duplex_server.media.resample import StreamResampler
from duplex_server.types import OUTPUT_RATE_HZ, TICK_MS, Pcm
from duplex_server.wire.audio_format import AudioFormat, AudioOutlet, to_pcm16

__all__ = ["ContinuousVoice", "Speller"]

FRAME_MS = 2 * TICK_MS
"""Length of one message: 25 a second cost little, and none is waited for for long."""
CUSHION_MS = 2 * TICK_MS
"""Silence put ahead of speech, so that a tick that comes late leaves no hole in it."""

_FRAME_SAMPLES = OUTPUT_RATE_HZ * FRAME_MS // 1000
_CUSHION_SAMPLES = OUTPUT_RATE_HZ * CUSHION_MS // 1000


class Speller(Protocol):
    """Whoever makes messages of the stream's pieces."""

    @property
    def audio_format(self) -> AudioFormat:
        """Asked for once, when the stream begins."""
        ...

    def sound(self, encoded: bytes) -> Sequence[bytes]:
        """Return the messages that carry the next piece."""
        ...


class ContinuousVoice:
    """Takes ticks of speech when there are any, and gives out pieces of the stream all the time."""

    def __init__(self) -> None:
        self._speller: Speller | None = None
        self._waiting: deque[Pcm] = deque()  # bounded by the session, which pushes at the pace of time
        self._n_waiting = 0
        self._n_given = 0
        self._pauses = True  # the newest piece was silence
        self._begun = asyncio.Event()

    @property
    def next_ms(self) -> int:
        """Where in the stream a tick that is pushed now will be, ms."""
        cushion = _CUSHION_SAMPLES if self._pauses and not self._n_waiting else 0
        return (self._n_given + self._n_waiting + cushion) * 1000 // OUTPUT_RATE_HZ

    def push(self, pcm: Pcm) -> None:
        """Add speech: float32 ``[n]``, 24 kHz."""
        if self._pauses and not self._n_waiting:
            self._append(np.zeros(_CUSHION_SAMPLES, np.float32))
        self._append(pcm)

    def clear(self) -> None:
        """Drop speech that was not given out."""
        self._waiting.clear()
        self._n_waiting = 0

    def take(self) -> Pcm:
        """Return the next piece, float32 ``[960]``, 24 kHz."""
        parts: list[Pcm] = []
        wanted = min(_FRAME_SAMPLES, self._n_waiting)
        self._n_waiting -= wanted
        while wanted:
            head = self._waiting.popleft()
            if len(head) > wanted:
                self._waiting.appendleft(head[wanted:])
                head = head[:wanted]
            parts.append(head)
            wanted -= len(head)
        self._pauses = not parts
        self._n_given += _FRAME_SAMPLES
        piece = np.zeros(_FRAME_SAMPLES, np.float32)
        if parts:
            spoken = np.concatenate(parts)
            piece[: len(spoken)] = spoken
        return piece

    def begin(self) -> None:
        """Let the stream begin."""
        self._begun.set()

    def spelt_by(self, speller: Speller) -> None:
        """Name who makes messages of the pieces; once, ahead of :meth:`begin`."""
        self._speller = speller

    async def run(self, send: Callable[[str], None]) -> None:
        """Give out the stream from :meth:`begin` on, by absolute deadlines, until cancelled."""
        await self._begun.wait()
        speller = self._speller
        assert speller is not None, "somebody spells it"
        encode = _encoder(speller.audio_format)
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            for message in speller.sound(encode(self.take())):
                send(message.decode())
            due_s += FRAME_MS / 1000
            await asyncio.sleep(max(0.0, due_s - loop.time()))

    def _append(self, pcm: Pcm) -> None:
        self._waiting.append(pcm)
        self._n_waiting += len(pcm)


def _encoder(audio_format: AudioFormat) -> Callable[[Pcm], bytes]:
    """Return what turns the stream's pieces, 24 kHz, into bytes of a format."""
    if audio_format.type != "audio/pcm" or audio_format.rate_hz == OUTPUT_RATE_HZ:
        return AudioOutlet(audio_format).encode
    resampler = StreamResampler(OUTPUT_RATE_HZ, audio_format.rate_hz)
    return lambda pcm: to_pcm16(resampler.push(pcm)).astype("<i2", copy=False).tobytes()
