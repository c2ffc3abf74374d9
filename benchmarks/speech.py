"""What people say in the benchmarks: espeak-ng in several voices, at a known level, from first to last sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import numpy as np

import duplex_server.models.embedded.espeak_process as espeak_process
from benchmarks.analysis import AUDIBLE, active_level_db
from duplex_server.media.pcm import to_float
from duplex_server.media.resample import resample
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["BACKCHANNELS", "USER_DB", "VOICES", "Mouth", "at_level", "trimmed"]

RATE_HZ = OUTPUT_RATE_HZ

USER_DB = -23.0
"""Active level of a user's voice at the microphone, dBFS: what a browser's gain control aims at, give or take 3 dB."""

VOICES = ("gmw/en-US", "gmw/en-US+f3", "gmw/en-US+m4", "gmw/en-GB-scotland", "gmw/en")
"""Who speaks. The last is the one that recognition finds hardest."""

BACKCHANNELS = (("um hum", 245), ("uh-huh", 175), ("yeah", 175), ("okay", 190), ("right", 175), ("hmm", 175))
"""Short words of a listener, with the words per minute that make them last 0.28 to
0.49 s: a breathy voice differs by 50 ms from one rendering to the next. espeak-ng spells "mm-hm" out as letters; "um
hum" is how it says it."""


def at_level(pcm: Pcm, level_db: float) -> Pcm:
    """Return a clip scaled so that its active level is ``level_db`` (dBFS); peaks are clipped at full scale."""
    gain = 10 ** ((level_db - active_level_db(pcm, RATE_HZ)) / 20)
    scaled: Pcm = np.clip(pcm * np.float32(gain), -1, 1)
    return scaled


def trimmed(pcm: Pcm) -> Pcm:
    """Return a clip from its first to its last audible sample."""
    audible = np.flatnonzero(np.abs(pcm) >= AUDIBLE)
    return pcm[audible[0] : audible[-1] + 1] if len(audible) else pcm[:0]


class Mouth:
    """espeak-ng in a process of its own; a context manager. Clips are kept, since no two renderings are the same."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(espeak_process.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._rate_hz = int(json.loads(self._read())["rate_hz"])
        self._clips: dict[tuple[str, str, int, float], Pcm] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(5)
        self._process.stdout.close()

    def say(self, text: str, voice: str = VOICES[0], *, words_per_minute: int = 175, level_db: float = USER_DB) -> Pcm:
        """Return a text as speech, float32 ``[n]`` at 24 kHz, from its first to its last audible sample.

        Args:
            text: what is said.
            voice: an espeak-ng voice file, with an optional variant.
            words_per_minute: pace.
            level_db: active level, dBFS.
        """
        key = text, voice, words_per_minute, level_db
        if key not in self._clips:
            samples = self._render(text, voice, words_per_minute)
            self._clips[key] = trimmed(at_level(resample(samples, self._rate_hz, RATE_HZ), level_db))
        return self._clips[key]

    def _render(self, text: str, voice: str, words_per_minute: int) -> Pcm:
        request = {"text": text, "voice": voice, "words_per_minute": words_per_minute}
        requests = cast(BinaryIO, self._process.stdin)
        espeak_process.write_frame(requests, json.dumps(request).encode())
        requests.flush()
        answer = json.loads(self._read())
        if "error" in answer:
            raise ValueError(answer["error"])
        return to_float(np.frombuffer(self._read(), np.int16))

    def _read(self) -> bytes:
        frame = espeak_process.read_frame(cast(BinaryIO, self._process.stdout))
        assert frame is not None, "the espeak-ng process ended"
        return frame
