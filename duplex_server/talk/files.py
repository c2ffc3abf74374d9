"""Speech and pictures from files, sound and events into files: what stands in for devices in scripts and robots.

Knows nothing about conversations.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import msgspec
import numpy as np
import soundfile
from PIL import Image

from duplex_server.client import Received, ReceivedAudio
from duplex_server.errors import ConfigError
from duplex_server.media.pcm import to_int16
from duplex_server.media.resample import resample
from duplex_server.types import OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.events import UnknownEvent

__all__ = ["EventLog", "SoundFile", "camera_pictures", "read_speech"]

_PICTURE_MAX_PX = 640
"""Longer side of pictures that are sent; models look at 448 or less."""
_JPEG_QUALITY = 80


def read_speech(path: Path) -> Pcm:
    """Read a sound file of any rate as float32 mono at 24 kHz; several channels become their mean.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise ConfigError(f"Cannot read speech from {path}: {error}.") from error
    mono: Pcm = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return resample(mono, int(rate_hz), OUTPUT_RATE_HZ)


def camera_pictures(path: Path, *, every_s: float = 1.0) -> Iterator[bytes]:
    """Take a JPEG every ``every_s`` seconds from a video, or the only one from a picture.

    Decoding happens while iterating, and blocks.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            due_s = 0.0
            for frame in container.decode(video=0):
                if (frame.time or 0.0) < due_s:
                    continue
                due_s += every_s
                yield _jpeg(frame)
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ConfigError(f"Cannot read pictures from {path}: {error}.") from error


def _jpeg(frame: av.VideoFrame) -> bytes:
    scale = min(1.0, _PICTURE_MAX_PX / max(frame.width, frame.height))
    smaller = frame.reformat(max(1, round(frame.width * scale)), max(1, round(frame.height * scale)), "rgb24")
    encoded = io.BytesIO()
    Image.fromarray(smaller.to_ndarray()).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


class SoundFile:
    """A WAV file at 24 kHz that grows while the conversation goes on; a context manager.

    Args:
        path: overwritten if it exists.
        stereo: microphone on the left and model on the right, instead of the model alone.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, *, stereo: bool) -> None:
        self._stereo = stereo
        try:
            self._file = soundfile.SoundFile(path, "w", OUTPUT_RATE_HZ, 2 if stereo else 1, "PCM_16")
        except (OSError, soundfile.SoundFileError) as error:
            raise ConfigError(f"Cannot write {path}: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, microphone: Pcm, model: Pcm) -> None:
        """Add what both sides said in the same stretch of time, float32 ``[n]`` each."""
        self._file.write(to_int16(np.stack([microphone, model], axis=1) if self._stereo else model))


class EventLog:
    """A file with every event as a line of JSON, with ``t_s``, its time on the microphone's clock; a context manager.

    Of audio only the length is kept.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"Cannot write {path}: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, time_s: float, received: Received) -> None:
        """Add one thing that came."""
        self._file.write(json.dumps({"t_s": round(time_s, 4), **_fields(received)}, ensure_ascii=False) + "\n")
        self._file.flush()


def _fields(received: Received) -> dict[str, Any]:
    match received:
        case ReceivedAudio():
            duration_ms = round(len(received.pcm) * 1000 / OUTPUT_RATE_HZ, 1)
            return {"type": "audio", "response_id": received.response_id, "duration_ms": duration_ms}
        case UnknownEvent():
            return received.payload
        case _:
            fields: dict[str, Any] = msgspec.to_builtins(received)
            return fields
