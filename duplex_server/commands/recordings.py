"""Pictures, sound and video from files, as chats take them. Knows nothing about models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_server.commands import clip
from duplex_server.errors import ConfigError, MediaError
from duplex_server.media.image import decode_image
from duplex_server.types import Pcm

__all__ = ["Video", "read_picture", "read_sound", "read_video"]

PICTURE_MAX_PX = 100_000_000
PICTURE_MAX_SIDE_PX = 4032
"""Nine slices of 448 px show no more, however they are arranged."""
FRAME_MAX_SIDE_PX = 1344


@dataclass(frozen=True, slots=True)
class Video:
    """A video, second by second.

    Attributes:
        frames: the newest picture at the end of each second, uint8 ``[height, width, 3]``.
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
    """Read the sound of any file that FFmpeg knows as float32 at 16 kHz, mono.

    Raises:
        ConfigError: it cannot be read, or there is none in it.
    """
    sound = clip.sound(path)
    if not len(sound):
        raise ConfigError(f"There is no sound in {path}.")
    return sound


def read_video(path: Path) -> Video:
    """Read a picture per second, and the sound.

    Raises:
        ConfigError: it cannot be read, or there are no pictures in it.
    """
    frames = [frame.rgb for frame in clip.pictures(path, every_s=1.0, max_px=FRAME_MAX_SIDE_PX)]
    if not frames:
        raise ConfigError(f"There are no pictures in {path}.")
    sound = clip.sound(path)
    return Video(frames, sound if len(sound) else None)
