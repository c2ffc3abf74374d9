"""Pictures, sound and video from files, as chats take them. Knows nothing about models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from duplex_server.errors import ConfigError, MediaError
from duplex_server.media.image import decode_image, fit_image
from duplex_server.media.resample import resample
from duplex_server.types import INPUT_RATE_HZ, Pcm

__all__ = ["Video", "read_picture", "read_sound", "read_video"]

PICTURE_MAX_PX = 100_000_000
PICTURE_MAX_SIDE_PX = 4032
"""Nine slices of 448 px show no more, however they are arranged."""
FRAME_MAX_SIDE_PX = 1344


@dataclass(frozen=True, slots=True)
class Video:
    """A video, second by second.

    Attributes:
        frames: the picture at the beginning of each second, uint8 ``[height, width, 3]``.
        sound: float32 at 16 kHz; None where it has none.
    """

    frames: list[npt.NDArray[np.uint8]]
    sound: Pcm | None


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read a JPEG, PNG or WebP as uint8 ``[height, width, 3]``, upright.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return decode_image(path.read_bytes(), max_px=PICTURE_MAX_PX, max_side_px=PICTURE_MAX_SIDE_PX)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except MediaError as error:
        raise ConfigError(f"{path} cannot be shown to the model: {error}") from error


def read_sound(path: Path) -> Pcm:
    """Read the sound of any file that FFmpeg knows as float32 at 16 kHz; several channels become their mean.

    Raises:
        ConfigError: it cannot be read, or there is none in it.
    """
    sound = _sound(path)
    if sound is None:
        raise ConfigError(f"There is no sound in {path}.")
    return sound


def read_video(path: Path) -> Video:
    """Read a picture per second, and the sound.

    Raises:
        ConfigError: it cannot be read, or there are no pictures in it.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    with _opened(path) as container:
        if not container.streams.video:
            raise ConfigError(f"There are no pictures in {path}.")
        for frame in container.decode(video=0):
            if (frame.time or 0.0) >= len(frames):
                rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                frames.append(fit_image(rgb, FRAME_MAX_SIDE_PX))
    return Video(frames, _sound(path))


def _sound(path: Path) -> Pcm | None:
    with _opened(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        planar = av.AudioResampler(format="fltp")
        parts = [piece.to_ndarray() for frame in container.decode(stream) for piece in planar.resample(frame)]
        rate_hz = stream.rate
    if not parts:
        return None
    mono: Pcm = np.ascontiguousarray(np.concatenate(parts, axis=1).mean(axis=0, dtype=np.float32))
    return resample(mono, rate_hz, INPUT_RATE_HZ)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except (OSError, av.error.FFmpegError) as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
