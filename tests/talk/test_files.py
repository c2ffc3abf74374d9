"""Files that stand in for devices."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from duplex_server.client import ReceivedAudio
from duplex_server.errors import ConfigError
from duplex_server.talk.files import EventLog, SoundFile, camera_pictures, read_speech
from duplex_server.wire.events import RateLimitsUpdated, ResponseDone, UnknownEvent
from duplex_server.wire.objects import Response


def test_speech_of_any_rate_and_channels_becomes_mono_at_24_khz(tmp_path: Path) -> None:
    time_s = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 300 * time_s)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, np.zeros(44_100)], axis=1), 44_100)
    speech = read_speech(tmp_path / "a.wav")
    assert speech.dtype == np.float32
    assert len(speech) == 24_000
    assert np.sqrt(np.mean(speech[1000:-1000] ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


def test_what_is_no_sound_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")
    for name in ("a.wav", "missing.wav"):
        with pytest.raises(ConfigError, match=name):
            read_speech(tmp_path / name)


def colour(jpeg: bytes) -> tuple[int, ...]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        return tuple(int(round(value, -2)) for value in np.asarray(picture).mean(axis=(0, 1)))


def test_a_video_gives_a_picture_per_second(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 1280, 64, "yuv420p"
        for n in range(13):
            picture = np.full((64, 1280, 3), (200, 0, 0) if n < 5 else (0, 200, 0), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    pictures = list(camera_pictures(path))
    assert [colour(jpeg) for jpeg in pictures] == [(200, 0, 0), (0, 200, 0), (0, 200, 0)]
    with Image.open(io.BytesIO(pictures[0])) as first:
        assert first.size == (640, 32)


def test_a_picture_gives_itself_once(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (0, 0, 200)).save(tmp_path / "a.png")
    assert [colour(jpeg) for jpeg in camera_pictures(tmp_path / "a.png")] == [(0, 0, 200)]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"a\.mp4"):
        list(camera_pictures(tmp_path / "a.mp4"))


@pytest.mark.parametrize("stereo", [False, True])
def test_a_sound_file_holds_both_sides_in_step(tmp_path: Path, stereo: bool) -> None:
    with SoundFile(tmp_path / "out.wav", stereo=stereo) as output:
        for n in range(3):
            output.write(np.full(480, 0.25, np.float32), np.full(480, n / 4, np.float32))
    samples, rate_hz = soundfile.read(tmp_path / "out.wav", always_2d=True)
    assert rate_hz == 24_000
    assert samples[:, -1].tolist() == [*[0.0] * 480, *[0.25] * 480, *[0.5] * 480]
    assert samples.shape[1] == (2 if stereo else 1)
    if stereo:
        assert set(samples[:, 0]) == {0.25}


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        SoundFile(tmp_path / "nowhere" / "out.wav", stereo=False)
    with pytest.raises(ConfigError, match="nowhere"):
        EventLog(tmp_path / "nowhere" / "out.jsonl")


def test_every_event_is_a_line_with_its_time(tmp_path: Path) -> None:
    with EventLog(tmp_path / "out.jsonl") as log:
        log.write(0.5, RateLimitsUpdated(event_id="e1"))
        log.write(1.25, ReceivedAudio(np.zeros(960, np.float32), 100.0, "r1", "i1"))
        log.write(2.0, UnknownEvent("new.thing", {"type": "new.thing", "text": "时间"}))
        log.write(3.0, ResponseDone(response=Response(id="r1", status="completed")))
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines[:3]] == [
        {"t_s": 0.5, "type": "rate_limits.updated", "event_id": "e1", "rate_limits": []},
        {"t_s": 1.25, "type": "audio", "response_id": "r1", "duration_ms": 40.0},
        {"t_s": 2.0, "type": "new.thing", "text": "时间"},
    ]
    assert "时间" in lines[2]
    assert json.loads(lines[3])["response"]["status"] == "completed"
