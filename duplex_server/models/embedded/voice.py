"""Speech from text: the near side of the espeak-ng process, with 24 kHz samples and the place of every word.

Knows nothing about conversations, rows or pieces of output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from duplex_server.errors import ModelError, ModelLoadError
from duplex_server.media.resample import resample
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["LANGUAGES", "MAX_TEXT_CHARACTERS", "Utterance", "Voice", "Word"]

MAX_TEXT_CHARACTERS = 4000
"""Longer texts are cut here. Speech is cut after five minutes besides, which is 29 MB of samples and 0.6 s of work."""

_VOICE_OF_LANGUAGE = {"en": "gmw/en-US", "zh": "sit/cmn"}
"""espeak-ng's files by language; its aliases differ between versions ("zh" is unknown to 1.52)."""
LANGUAGES = tuple(_VOICE_OF_LANGUAGE)
"""Languages that can be spoken."""

_NORMAL_WORDS_PER_MINUTE = 175
_MIN_WORDS_PER_MINUTE, _MAX_WORDS_PER_MINUTE = 80, 450
"""Source: ``speak_lib.h`` of espeak-ng 1.52, ``espeakRATE``: normal, and the range in which it does not use sonic."""

_AUDIBLE = 0.002
"""Amplitude, −54 dB: below it nobody hears anything behind speech that peaks near 0.7."""
_HEAD_SAMPLES = OUTPUT_RATE_HZ // 500
"""2 ms kept before the first audible sample, so that the onset is not a click."""
_KNEE = 0.8
"""Amplitude above which a raised volume is bent instead of clipped."""

_ANSWER_TIMEOUT_S = 5.0
"""Synthesis runs at several hundred times real time, and breaks off after a second: whoever takes this long, hangs."""
_START_TIMEOUT_S = 20.0
"""A start takes 0.2 s; a machine that starts sixteen workers at once, and reads everything from a cold disk, longer."""
_MAX_FRAME_BYTES = 32 * 2**20
"""A longer announced frame is not a frame: five minutes of speech take 13 MB."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of an utterance, where it is in the text and when it starts to sound."""

    text: str
    start_samples: int
    """First sample of the word, at 24 kHz."""
    text_start: int
    text_end: int
    """``spoken_text[text_start:text_end] == text``; positions in characters."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text, spoken."""

    pcm: Pcm
    """float32 ``[n]``, 24 kHz, −1..1. Starts with sound within 2 ms; ends without a pause. Empty if nothing is said."""
    words: tuple[Word, ...]
    """In order of text and of sound. Not every word is here: what is spoken in one breath ("I am") may be one word, and
    punctuation belongs to none. Cut the text at ``text_start`` of each but the first to lose nothing."""


class _ProcessFailure(Exception):
    """The process died, hung or does not make sense."""


class _EspeakProcess:
    """One run of :mod:`espeak_process`, from start to end.

    Raises:
        _ProcessFailure: it died, or did not get ready in time.
        ModelLoadError: it says that it cannot work on this machine.
    """

    def __init__(self) -> None:
        program = Path(__file__).with_name("espeak_process.py")
        self._process = subprocess.Popen(
            # As a file, not as a module: importing the package would take longer than everything else it does.
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            greeting = self._exchange(None, _START_TIMEOUT_S)
        except _ProcessFailure:
            self.stop()
            raise
        if "error" in greeting:
            self.stop()
            raise ModelLoadError(f"Speech synthesis does not work: {greeting['error']}.")
        self.rate_hz = int(greeting["rate_hz"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, fields: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Ask for one text; returns the answer and its samples, which are empty in case of an error."""
        answer = self._exchange(fields, timeout_s)
        return answer, answer.pop("samples", b"")

    def stop(self) -> None:
        """End the process, gently at first; returns when it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _exchange(self, fields: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        # Killing the process ends whatever this thread waits for, be it room in one pipe or bytes from the other.
        watchdog = threading.Timer(timeout_s, self._process.kill)
        watchdog.start()
        try:
            if fields is not None:
                assert self._process.stdin is not None
                payload = json.dumps(fields).encode()
                self._process.stdin.write(len(payload).to_bytes(4, "little") + payload)
                self._process.stdin.flush()
            answer = json.loads(self._read_frame())
            if "words" in answer:
                answer["samples"] = self._read_frame()
        except (OSError, ValueError) as error:
            raise _ProcessFailure(str(error)) from error
        finally:
            watchdog.cancel()
        assert isinstance(answer, dict)
        return answer

    def _read_frame(self) -> bytes:
        assert self._process.stdout is not None
        header = self._process.stdout.read(4)
        length = int.from_bytes(header, "little")
        if len(header) < 4 or length > _MAX_FRAME_BYTES:
            raise _ProcessFailure("the speech process ended, or wrote something that is not a frame")
        payload = self._process.stdout.read(length)
        if len(payload) < length:
            raise _ProcessFailure("the speech process ended within a frame")
        return payload


class Voice:
    """Text in, speech out, by a process of its own. Used by one thread; a context manager.

    The process is warm when the constructor returns. It ends with :meth:`close`, or when this process ends.
    """

    def __init__(self, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """Start the process.

        Args:
            timeout_s: how long one text may take before the process counts as hung and is replaced.

        Raises:
            ModelLoadError: espeak-ng is not installed or does not work here.
        """
        self._timeout_s = timeout_s
        self._closed = False
        try:
            self._process: _EspeakProcess | None = _EspeakProcess()
        except _ProcessFailure as failure:
            raise ModelLoadError(f"Speech synthesis does not start: {failure}.") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """End the process. May be called twice; nothing can be spoken afterwards."""
        self._closed = True
        self._discard()

    def speak(
        self, text: str, *, language: str = "en", rate: float = 1.0, volume: float = 1.0, voice: str = ""
    ) -> Utterance:
        """Speak a text; blocks for about 2 ms per second of speech.

        A process that died or hangs is replaced, and the text tried once more. Two runs differ in their samples.

        Args:
            text: plain text; cut after :data:`MAX_TEXT_CHARACTERS` or five minutes of speech. Where there is nothing to
                say, there are no samples.
            language: BCP 47 tag whose language is in :data:`LANGUAGES`; regions are ignored.
            rate: 1 is normal; held within what espeak-ng can, about 0.46..2.6.
            volume: 1 is normal; above, loud passages are compressed to stay within −1..1.
            voice: an espeak-ng voice to use instead of the language's, such as ``"gmw/en-US+f3"``.

        Raises:
            ValueError: no voice speaks the language.
            ModelError: the process failed twice, or there is no such voice.
        """
        assert not self._closed, "the voice is closed"
        file = voice or _VOICE_OF_LANGUAGE.get(language.split("-")[0].lower(), "")
        if not file:
            raise ValueError(f"no voice speaks {language!r}; there are {', '.join(LANGUAGES)}")
        text = text[:MAX_TEXT_CHARACTERS]
        words_per_minute = round(_NORMAL_WORDS_PER_MINUTE * rate)
        words_per_minute = min(max(words_per_minute, _MIN_WORDS_PER_MINUTE), _MAX_WORDS_PER_MINUTE)
        answer, samples, rate_hz = self._ask({"text": text, "voice": file, "words_per_minute": words_per_minute})
        if "error" in answer:
            raise ModelError(f"Speech synthesis failed: {answer['error']}.")
        spoken: Pcm = np.frombuffer(samples, "<i2").astype(np.float32) / np.float32(32768)
        pcm = resample(spoken, rate_hz, OUTPUT_RATE_HZ)
        audible = np.flatnonzero(np.abs(pcm) > _AUDIBLE)
        if not len(audible):
            return Utterance(np.zeros(0, np.float32), ())
        cut_samples = max(0, int(audible[0]) - _HEAD_SAMPLES)
        pcm = _with_volume(pcm[cut_samples:], volume)
        scale = OUTPUT_RATE_HZ / rate_hz
        events = ((round(start * scale) - cut_samples, at, length) for start, at, length in answer["words"])
        return Utterance(pcm, _words(text, events, len(pcm)))

    def _ask(self, fields: dict[str, Any]) -> tuple[dict[str, Any], bytes, int]:
        for attempt in range(2):
            try:
                if self._process is None:
                    self._process = _EspeakProcess()
                return *self._process.request(fields, self._timeout_s), self._process.rate_hz
            except _ProcessFailure as failure:
                self._discard()
                if attempt:
                    raise ModelError(f"Speech synthesis failed twice: {failure}.") from failure
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _discard(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


def _with_volume(pcm: Pcm, volume: float) -> Pcm:
    """Return the samples louder or softer, within −1..1."""
    scaled = pcm * np.float32(volume)
    magnitude = np.abs(scaled)
    bent = _KNEE + (1 - _KNEE) * np.tanh((magnitude - _KNEE) / (1 - _KNEE))
    limited: Pcm = np.where(magnitude > _KNEE, np.copysign(bent, scaled), scaled).astype(np.float32)
    return limited


def _words(text: str, events: Iterable[tuple[int, int, int]], n_samples: int) -> tuple[Word, ...]:
    """Turn espeak-ng's word events into words.

    Numbers and symbols give several events, whose positions may repeat, run backwards or point at blanks; what does not
    begin behind the word before it belongs to that word.
    """
    words: list[Word] = []
    text_end, sound_samples = 0, 0
    for start_samples, at, length in events:
        spelt = text[max(at, 0) : max(at, 0) + length]
        if at < text_end or not spelt.strip():
            continue
        text_end = at + len(spelt)
        sound_samples = min(max(start_samples, sound_samples), n_samples)
        words.append(Word(spelt, sound_samples, at, text_end))
    return tuple(words)
