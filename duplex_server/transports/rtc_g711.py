"""G.711 on a media track: payloads to sound at a model's rate, a model's speech to payloads, lost packets hidden.

The codes themselves are :mod:`duplex_server.wire.g711`'s. Knows nothing about RTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from duplex_server.media.opus import CorruptPacket
from duplex_server.media.resample import StreamResampler
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, TICK_MS, Pcm
from duplex_server.wire.g711 import Decimator, alaw_decode, alaw_encode, mulaw_decode, mulaw_encode

__all__ = ["PCMA", "PCMU", "G711Decoder", "G711Encoder", "Law"]

CLOCK_HZ = 8_000
"""Of samples and of RTP timestamps. Source: RFC 3551 §4.5.14."""

_SHORTEST_PERIOD = CLOCK_HZ // 400
"""Of a voice: 2.5 ms, 400 Hz."""
_LONGEST_PERIOD = CLOCK_HZ * 15 // 1000
"""66 Hz. Source of both, near enough: ITU-T G.711 Appendix I searches 5 to 15 ms and repeats up to three periods."""
_COMPARED = CLOCK_HZ * 20 // 1000
"""How much of what was heard last is compared with what was before it, to find the period."""
_STEADY = CLOCK_HZ * 10 // 1000
"""A guess keeps its loudness for so long, 10 ms, and then fades. Source: ITU-T G.711 Appendix I."""
_FADED = CLOCK_HZ * 60 // 1000
"""Silent from here on. Source: ITU-T G.711 Appendix I."""
_BLENDED = CLOCK_HZ * 4 // 1000
"""What is received after a gap is blended with the guess that goes on, 4 ms. Source: ITU-T G.711 Appendix I."""


@dataclass(frozen=True, slots=True)
class Law:
    """One of the two ways to code a sample in a byte."""

    name: str
    """As SDP has it."""
    payload_type: int
    """Source: RFC 3551 §6."""
    decode: Callable[[bytes], Pcm]
    encode: Callable[[Pcm], bytes]


PCMU = Law("PCMU", 0, mulaw_decode, mulaw_encode)
"""µ-law."""
PCMA = Law("PCMA", 8, alaw_decode, alaw_encode)
"""A-law."""


class G711Decoder:
    """Decode one stream; takes the place of an :class:`~duplex_server.media.opus.OpusDecoder`.

    What comes out lags by 2 ms, the filter's half.

    Args:
        law: how it is coded.
        rate_hz: of what comes out, a multiple of 8 kHz.
    """

    clock_hz = CLOCK_HZ
    """Of RTP timestamps."""

    def __init__(self, law: Law, rate_hz: int = INPUT_RATE_HZ) -> None:
        assert rate_hz % CLOCK_HZ == 0, f"{rate_hz} Hz is not a multiple of {CLOCK_HZ} Hz"
        self._law = law
        self._scale = rate_hz // CLOCK_HZ
        self._resampler = StreamResampler(CLOCK_HZ, rate_hz)
        self._resampler.push(np.zeros(_COMPARED, np.float32))  # from here on each sample gives as many as the next
        self._heard: Pcm = np.zeros(_COMPARED + _LONGEST_PERIOD, np.float32)  # the latest, guesses among it
        self._period: Pcm = np.zeros(0, np.float32)  # what a guess repeats; empty outside gaps
        self._n_guessed = 0  # samples in this gap so far

    def decode(self, packet: bytes) -> Pcm:
        """Decode the next payload of the stream, float32.

        Raises:
            CorruptPacket: it is empty.
        """
        if not packet:
            raise CorruptPacket("an empty packet")
        pcm = self._law.decode(packet)
        if len(self._period):
            n_blended = min(_BLENDED, len(pcm))
            weight = np.linspace(0, 1, n_blended, endpoint=False, dtype=np.float32)
            guess = self._guess(n_blended)
            pcm = np.concatenate([guess * (1 - weight) + pcm[:n_blended] * weight, pcm[n_blended:]])
            self._period = np.zeros(0, np.float32)
        return self._hand_out(pcm)

    def recover(self, n_samples: int, following: bytes) -> Pcm:  # noqa: ARG002 - Opus recovers from the packet after
        """Fill a gap before :meth:`decode` is called with the packet after it: the voice's last period, repeated.

        Args:
            n_samples: length of the gap at the output rate, a multiple of 2.5 ms.
            following: the packet after the gap; it holds nothing of it.
        """
        n_here = n_samples // self._scale
        if not len(self._period):
            self._period = self._find_period()
            self._n_guessed = 0
        return self._hand_out(self._guess(n_here))

    def _hand_out(self, pcm: Pcm) -> Pcm:
        self._heard = np.concatenate([self._heard, pcm])[-len(self._heard) :]
        return self._resampler.push(pcm)

    def _find_period(self) -> Pcm:
        """Return the last period of what was heard: the shift that it resembles itself most at."""
        windows = np.lib.stride_tricks.sliding_window_view(self._heard, _COMPARED)  # ascending in time
        before = windows[: _LONGEST_PERIOD - _SHORTEST_PERIOD + 1]
        likeness = before @ windows[-1] / np.sqrt(np.einsum("nt,nt->n", before, before) + 1e-9)
        period = _LONGEST_PERIOD - int(np.argmax(likeness))
        return self._heard[-period:]

    def _guess(self, n_samples: int) -> Pcm:
        places = np.arange(self._n_guessed, self._n_guessed + n_samples)
        loudness = np.clip((_FADED - places) / (_FADED - _STEADY), 0, 1).astype(np.float32)
        self._n_guessed += n_samples
        guess: Pcm = self._period[places % len(self._period)] * loudness
        return guess


class G711Encoder:
    """Encode speech for the ear; takes the place of an :class:`~duplex_server.media.opus.OpusEncoder`.

    Args:
        law: how it is coded.
    """

    clock_hz = CLOCK_HZ
    """Of RTP timestamps."""
    frame_samples = OUTPUT_RATE_HZ * TICK_MS // 1000
    """Samples in every frame."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._decimator = Decimator()

    def encode(self, pcm: Pcm) -> bytes:
        """Encode one frame, float32 ``[480]`` at 24 kHz, as 160 bytes; it lags by 1.3 ms."""
        assert pcm.shape == (self.frame_samples,), "one frame"
        return self._law.encode(self._decimator.push(pcm))
