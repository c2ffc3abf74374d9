"""What the fake microphone and the fake camera of a browser play: files made for one test."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_server.media.pcm import to_int16
from duplex_server.media.resample import resample
from duplex_server.types import INPUT_RATE_HZ, Pcm
from tests.helpers.speech import UserVoice, place, silence

__all__ = ["FAKE_RATE_HZ", "camera_file", "microphone_file", "said"]

FAKE_RATE_HZ = 48_000
"""Chromium's fake microphone plays other rates too, but resamples them badly."""
_TAIL_S = 1.0
_AT_DB = -26.0
"""Level of speech before the browser's gain control, which brings it up by some 10 dB: louder and it is squashed."""


def said(voice: UserVoice, *sentences: tuple[float, str], lasts_s: float = 0.0) -> Pcm:
    """Return a track on which sentences are spoken at given times.

    Args:
        voice: who speaks.
        sentences: when each begins, in seconds, and what it is.
        lasts_s: least length of the track.

    Returns:
        float32 ``[n]`` at 16 kHz.
    """
    clips = [(at_s, voice.say(text, at_db=_AT_DB)) for at_s, text in sentences]
    ends_s = [at_s + len(clip) / INPUT_RATE_HZ + _TAIL_S for at_s, clip in clips]
    track = silence(max([lasts_s, *ends_s]))
    for at_s, clip in clips:
        place(track, clip, at_s)
    return track


def microphone_file(path: Path, track: Pcm) -> Path:
    """Write a track for Chromium's ``--use-file-for-fake-audio-capture``: 16-bit mono WAV at 48 kHz."""
    samples = to_int16(resample(track, INPUT_RATE_HZ, FAKE_RATE_HZ))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(FAKE_RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def camera_file(path: Path, scenes: Sequence[tuple[float, float]], *, frames_per_s: int = 5) -> Path:
    """Write a film for Chromium's ``--use-file-for-fake-video-capture``: a textured wall in changing light.

    Args:
        path: of the Y4M file.
        scenes: for each, how long it lasts in seconds and how bright it is, 0..1.
        frames_per_s: pictures per second.
    """
    width, height = 320, 240
    wall = np.random.default_rng(7).uniform(0.6, 1.0, (height // 16, width // 16)).repeat(16, 0).repeat(16, 1)
    colourless: npt.NDArray[np.uint8] = np.full((height // 2) * (width // 2) * 2, 128, np.uint8)
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{frames_per_s}:1 Ip A1:1 C420jpeg\n".encode())
        for lasts_s, light in scenes:
            picture = (wall * light * 255).astype(np.uint8)
            frame = b"FRAME\n" + picture.tobytes() + colourless.tobytes()
            file.write(frame * round(lasts_s * frames_per_s))
    return path
