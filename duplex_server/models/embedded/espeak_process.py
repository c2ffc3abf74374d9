"""A program that turns text into speech with espeak-ng, one request at a time, from its standard input to its output.

Stands alone: it knows nothing of the package around it and imports none of it. espeak-ng (GPL-3.0-or-later) is loaded
here and nowhere else, so that it runs as a program of its own, and because its state is global and not thread-safe.

Every message, both ways, is a frame: its length in bytes as four bytes, little endian, then that many bytes.

1. The program writes one frame of JSON: ``{"rate_hz": …, "version": …}``, or ``{"error": …}``, after which it ends.
2. It reads a request, a frame of JSON: ``{"text": str, "voice": str, "words_per_minute": int}``.
3. It writes two frames, JSON ``{"words": [[start_samples, text_start, text_length], …]}`` and the samples, int16 little
   endian mono; or one, ``{"error": …}``. Text positions count Unicode characters from 0.
4. It goes on with 2, until its input ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

_SYNCHRONOUS = 2
"""``AUDIO_OUTPUT_SYNCHRONOUS``: samples go to the callback, and synthesis is over when the call returns.

Source of these values: ``speak_lib.h`` of espeak-ng 1.52.
"""
_DO_NOT_EXIT = 0x8000
"""``espeakINITIALIZE_DONT_EXIT``: without it, a library that finds no data ends the process without a word."""
_UTF8 = 1
"""``espeakCHARS_UTF8``; without ``espeakSSML``, markup in the text is read out, not obeyed."""
_AT_CHARACTER = 1
"""``POS_CHARACTER``, the unit of a position that is always 0 here."""
_RATE = 1
"""``espeakRATE``, words per minute."""
_LIST_END, _WORD = 0, 1
"""``espeakEVENT_LIST_TERMINATED`` and ``espeakEVENT_WORD``."""
_BUFFER_MS = 200
"""Length of the pieces that the callback gets. Any will do, as a reply goes out whole."""
_MAX_SPEECH_S = 300
"""Synthesis is broken off here, after about 0.6 s and 13 MB: a short text of emoji or digits can speak for an hour."""
_WARM_UP_VOICES = ("sit/cmn", "gmw/en-US")
"""Loaded before the first request: the dictionaries are then in the page cache, and English is at hand."""


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Unspeakable(Exception):
    """A request that espeak-ng refuses; the message says why."""


class Espeak:
    """The library, initialised. One at most in a process, used by one thread.

    Raises:
        Unspeakable: the package espeakng-loader is missing, or its data cannot be read.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise Unspeakable("the Python package espeakng-loader is not installed") from None
        library_path = Path(espeakng_loader.get_library_path())
        data_path = Path(espeakng_loader.get_data_path())
        # The library keeps paths in a fixed buffer and fails where the data lies deeper than about 145 characters.
        # A relative path is always short, and this process has no other use for its working directory.
        os.chdir(data_path.parent)
        self._library = ctypes.CDLL(str(library_path))
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, b".", _DO_NOT_EXIT)
        if self.rate_hz <= 0:
            raise Unspeakable(f"espeak-ng cannot read its data in {data_path}")
        self.version: str = self._library.espeak_Info(ctypes.byref(ctypes.c_char_p())).decode().split()[0]
        self._voice = ""
        self._samples = bytearray()
        self._words: list[tuple[int, int, int]] = []
        self._callback = _Callback(self._collect)  # kept alive here: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, words_per_minute: int) -> tuple[bytes, list[tuple[int, int, int]]]:
        """Turn a text into samples, at most five minutes of them.

        Returns:
            int16 mono samples at :attr:`rate_hz`, and ``(start_samples, text_start, text_length)`` for each word event.

        Raises:
            Unspeakable: there is no such voice, or synthesis failed.
        """
        if voice != self._voice:
            self._voice = ""
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise Unspeakable(f"espeak-ng has no voice {voice!r}")
            self._voice = voice
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._samples.clear()
        self._words.clear()
        # A lone surrogate or a NUL counts as one character to the caller, so it must stay one here.
        encoded = text.replace("\0", " ").encode("utf-8", "replace") + b"\0"
        failed = self._library.espeak_Synth(encoded, len(encoded), 0, _AT_CHARACTER, 0, _UTF8, None, None)
        if failed:
            raise Unspeakable(f"espeak-ng failed with status {failed}")
        return bytes(self._samples), list(self._words)

    def _collect(self, samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples > 0:
            self._samples += ctypes.string_at(samples, 2 * n_samples)
        index = 0
        while events[index].type != _LIST_END:
            event = events[index]
            if event.type == _WORD:
                self._words.append((event.sample, event.text_position - 1, event.length))
            index += 1
        return int(len(self._samples) > 2 * self.rate_hz * _MAX_SPEECH_S)  # 1 breaks synthesis off


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame; None where the stream ended before the frame did."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    length = int.from_bytes(header, "little")
    payload = stream.read(length)
    return payload if len(payload) == length else None


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """Write one frame, without flushing."""
    stream.write(len(payload).to_bytes(4, "little"))
    stream.write(payload)


def main() -> int:
    """Serve requests until the input ends; returns the exit status."""
    # Ctrl+C reaches the whole terminal: the parent decides when this program ends, by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    sys.stderr = os.fdopen(os.dup(2), "w")
    # The library prints: that must neither end up between the frames, nor let whoever chooses the text fill a log.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def reply(fields: dict[str, Any], samples: bytes | None = None) -> None:
        write_frame(replies, json.dumps(fields).encode())
        if samples is not None:
            write_frame(replies, samples)
        replies.flush()

    try:
        espeak = Espeak()
        for voice in _WARM_UP_VOICES:
            espeak.speak("1.", voice, 175)
    except (Unspeakable, OSError) as error:
        reply({"error": str(error)})
        return 1
    try:
        reply({"rate_hz": espeak.rate_hz, "version": espeak.version})
        while (frame := read_frame(requests)) is not None:
            request = json.loads(frame)
            try:
                samples, words = espeak.speak(request["text"], request["voice"], request["words_per_minute"])
            except Unspeakable as error:
                reply({"error": str(error)})
            else:
                reply({"words": words}, samples)
    except BrokenPipeError:
        # Nobody reads any more. The interpreter would try to flush the rest at exit and complain.
        os.dup2(nowhere, replies.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
