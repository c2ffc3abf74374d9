"""Recorded clips: sound and pictures out of them, sound and captions into them.

Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from duplex_server.errors import ConfigError
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm, VideoFrame

__all__ = ["Caption", "pictures", "sound", "write_sound", "write_video"]

CAPTION_STYLE = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
"""FFmpeg's encoder of MP4 captions takes its style as such a header. Source: Advanced SubStation Alpha 4+."""
MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class Caption:
    """A line of text and when it is shown, seconds from the clip's beginning."""

    begin_s: float
    end_s: float
    text: str


def sound(path: Path) -> Pcm:
    """Read a clip's sound: float32 mono at 16 kHz; none is no samples.

    Raises:
        ConfigError: the clip cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return np.zeros(0, np.float32)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=INPUT_RATE_HZ)
            parts = [
                part.to_ndarray().reshape(-1)
                for frame in [*container.decode(audio=0), None]
                for part in resampler.resample(frame)
            ]
    except (OSError, av.FFmpegError) as error:
        raise ConfigError(f"Cannot read sound from {path}: {error}.") from error
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def pictures(path: Path, *, every_s: float, max_px: int) -> Iterator[VideoFrame]:
    """Take from a clip the newest picture at the end of every ``every_s`` seconds; none where it has no pictures.

    Decoding happens while iterating, and blocks.

    Args:
        path: the clip.
        every_s: seconds between pictures.
        max_px: longer side, to which larger ones are scaled down.

    Raises:
        ConfigError: the clip cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return
            number, newest = 1, None
            for frame in container.decode(video=0):
                while newest is not None and (frame.time or 0.0) >= number * every_s:
                    yield _picture(newest, number * every_s, max_px)
                    number += 1
                newest = frame
            if newest is not None:
                yield _picture(newest, number * every_s, max_px)
    except (OSError, av.FFmpegError) as error:
        raise ConfigError(f"Cannot read pictures from {path}: {error}.") from error


def _picture(frame: av.VideoFrame, until_s: float, max_px: int) -> VideoFrame:
    scale = min(1.0, max_px / max(frame.width, frame.height))
    smaller = frame.reformat(max(1, round(frame.width * scale)), max(1, round(frame.height * scale)), "rgb24")
    return VideoFrame(min(frame.time or 0.0, until_s), smaller.to_ndarray().astype(np.uint8, copy=False))


def write_sound(path: Path, samples: Pcm) -> None:
    """Write a WAV file at 24 kHz, 16 bits: ``[n]``, or ``[n, 2]`` in stereo.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        soundfile.write(path, samples, OUTPUT_RATE_HZ, subtype="PCM_16")
    except (OSError, soundfile.SoundFileError) as error:
        raise ConfigError(f"Cannot write {path}: {error}.") from error


def write_video(source: Path, path: Path, stereo: Pcm, captions: Sequence[Caption]) -> bool:
    """Write a clip's pictures with other sound, and captions as a track that players can show.

    Args:
        source: the clip.
        path: an MP4 file.
        stereo: ``[n, 2]`` at 24 kHz.
        captions: in order.

    Returns:
        whether the clip has pictures; nothing is written where it has none.

    Raises:
        ConfigError: a file cannot be read or written.
    """
    try:
        with av.open(str(source)) as given:
            if not given.streams.video:
                return False
            with av.open(str(path), "w") as made:
                _encode(given, made, stereo, captions)
    except (OSError, av.FFmpegError) as error:
        raise ConfigError(f"Cannot write {path}: {error}.") from error
    return True


def _encode(
    given: av.container.InputContainer, made: av.container.OutputContainer, stereo: Pcm, captions: Sequence[Caption]
) -> None:
    seen = given.streams.video[0]
    video = made.add_stream("libx264", rate=seen.average_rate or 25, options={"preset": "veryfast"})
    video.width, video.height = seen.width // 2 * 2, seen.height // 2 * 2  # the pixel format needs even sides
    video.pix_fmt = "yuv420p"
    video.time_base = seen.time_base or MILLISECOND
    audio = made.add_stream("aac", rate=OUTPUT_RATE_HZ, layout="stereo")
    text = made.add_stream("mov_text")
    text.codec_context.subtitle_header = CAPTION_STYLE
    text.codec_context.time_base = MILLISECOND
    begin = None
    for frame in given.decode(video=0):
        picture = frame.reformat(video.width, video.height, "yuv420p")
        begin = frame.pts if begin is None else begin
        picture.pts = (frame.pts or 0) - (begin or 0)
        picture.pict_type = av.video.frame.PictureType.NONE
        made.mux(video.encode(picture))
    made.mux(video.encode(None))
    for start in range(0, len(stereo), OUTPUT_RATE_HZ):
        piece = np.ascontiguousarray(stereo[start : start + OUTPUT_RATE_HZ].reshape(1, -1), np.float32)
        sounding = av.AudioFrame.from_ndarray(piece, format="flt", layout="stereo")
        sounding.rate, sounding.pts, sounding.time_base = OUTPUT_RATE_HZ, start, Fraction(1, OUTPUT_RATE_HZ)
        made.mux(audio.encode(sounding))
    made.mux(audio.encode(None))
    for caption in captions:
        encoded = caption.text.encode()
        packet = av.Packet(len(encoded).to_bytes(2, "big") + encoded)  # as ETSI TS 126 245 writes text
        packet.stream = text
        packet.pts = packet.dts = round(caption.begin_s * 1000)
        packet.duration = max(1, round((caption.end_s - caption.begin_s) * 1000))
        packet.time_base = MILLISECOND
        made.mux(packet)
