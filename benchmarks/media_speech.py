"""What the calls of :mod:`benchmarks.media` carry: a voice that speaks without end, as the Opus packets of a browser.

Knows nothing about who sends them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

from benchmarks.speech import VOICES, Mouth
from duplex_server.media.opus import CorruptPacket, OpusDecoder
from duplex_server.media.resample import resample
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["Track", "as_browser", "decoded", "endless", "spoken"]

_BROWSER_HZ = 48_000
_FRAME_SAMPLES = _BROWSER_HZ // 50
_BIT_RATE = 32_000
"""What Chromium uses for a voice in mono."""
_BREATH_S = 0.25
"""Between two sentences of a voice that never stops."""
_STORY = (
    "Once upon a time there was a man who lived by the sea and mended clocks",
    "Every morning he walked along the shore and looked for pieces of brass",
    "One day he found a small box that was locked and had no key",
    "He took it home and listened to it through the night",
    "Something inside was ticking, slowly at first and then faster and faster",
    "In the morning all the clocks of the town had stopped at the same minute",
    "Nobody knew what time it was, and so nobody was late for anything",
    "The children played until the lamps were lit, and the baker slept",
    "After a week the mayor came and asked the man to open the box",
    "He said that he would rather leave it as it was, and wished him a good day",
)


@dataclass(frozen=True, slots=True)
class Track:
    """Opus packets of 20 ms, to be sent over and over."""

    packets: tuple[bytes, ...]
    speech_share: float
    """Of the time, in which somebody speaks."""

    def packet(self, number: int) -> bytes:
        """Return the packet with a number that never ends."""
        return self.packets[number % len(self.packets)]


def endless(duty: float) -> Track:
    """Return some voices that take turns.

    Args:
        duty: share of the time in which one speaks, 0..1; the rest is silence after each sentence.
    """
    pieces: list[Pcm] = []
    with Mouth() as mouth:
        for sentence, voice in zip(_STORY, itertools.cycle(VOICES), strict=False):
            clip = mouth.say(sentence, voice)
            pause_s = _BREATH_S if duty >= 1 else len(clip) / OUTPUT_RATE_HZ * (1 / duty - 1)
            pieces += [clip, np.zeros(round(pause_s * OUTPUT_RATE_HZ), np.float32)]
    pcm = np.concatenate(pieces)
    return Track(as_browser(pcm), sum(map(len, pieces[::2])) / len(pcm))


def spoken(sentences: Sequence[str], pause_s: float) -> tuple[Track, list[tuple[float, float]]]:
    """Return sentences with pauses between them, and when each begins and ends in the track, seconds."""
    pause: Pcm = np.zeros(round(pause_s * OUTPUT_RATE_HZ), np.float32)
    pieces, spans, at = [pause], [], len(pause)
    with Mouth() as mouth:
        for sentence in sentences:
            clip = mouth.say(sentence)
            spans.append((at / OUTPUT_RATE_HZ, (at + len(clip)) / OUTPUT_RATE_HZ))
            pieces += [clip, pause]
            at += len(clip) + len(pause)
    pcm = np.concatenate(pieces)
    speech_s = sum(end_s - start_s for start_s, end_s in spans)
    return Track(as_browser(pcm, expected_loss_percent=10), speech_s * OUTPUT_RATE_HZ / len(pcm)), spans


def as_browser(pcm: Pcm, *, expected_loss_percent: int = 0) -> tuple[bytes, ...]:
    """Encode float32 at 24 kHz as a browser does: 48 kHz mono, for voice, and with a copy of each packet in the next.

    Args:
        pcm: what is said.
        expected_loss_percent: what the encoder is told of the network; from 1 on, copies are made.
    """
    wide = np.clip(resample(pcm, OUTPUT_RATE_HZ, _BROWSER_HZ), -1, 1)
    wide = np.concatenate([wide, np.zeros(-len(wide) % _FRAME_SAMPLES, np.float32)])
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = _BROWSER_HZ, "mono", "s16"
    encoder.bit_rate = _BIT_RATE
    encoder.options = {
        "application": "voip",
        "frame_duration": "20",
        "fec": "1",
        "packet_loss": str(expected_loss_percent),
    }
    packets: list[bytes] = []
    for number, samples in enumerate(np.split(wide, len(wide) // _FRAME_SAMPLES)):
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = _BROWSER_HZ, number * _FRAME_SAMPLES
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return tuple(packets)


def decoded(packets: Sequence[bytes], rate_hz: int) -> list[Pcm]:
    """Decode packets, one after the other; one that is no Opus is silent."""
    decoder = OpusDecoder(rate_hz)
    frames: list[Pcm] = []
    for packet in packets:
        try:
            frames.append(decoder.decode(packet))
        except CorruptPacket:
            frames.append(np.zeros(rate_hz // 50, np.float32))
    return frames
