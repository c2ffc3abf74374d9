"""Tests of ``duplex-server chat`` with the tiny checkpoint: what it loads, says and refuses."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from duplex_server.cli import main

pytest.importorskip("torch", reason="torch is not installed: pip install duplex-server[minicpmo]")

from duplex_server.commands.recordings import read_sound, read_video
from duplex_server.models.minicpmo import parts as loading
from duplex_server.models.minicpmo.placement import Placement
from tests.helpers.minicpmo_checkpoint import cached_checkpoint, tiny_config
from tests.helpers.minicpmo_voice import speaking_checkpoint

SHORT = ["--greedy", "--max-tokens", "12", "--device", "cpu"]
SPOKEN = ["--greedy", "--max-tokens", "3", "--device", "cpu"]
"""Random weights may speak 20 s for a few words."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[Placement]:
    """What was loaded where."""
    seen: list[Placement] = []
    load = loading.load_parts

    def watched(folder: Path, placement: Placement, **options: object) -> loading.Parts:
        seen.append(placement)
        return load(folder, placement, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_parts", watched)
    return seen


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (44_100, 2)), 44_100)
    return path


def write_video(path: Path, *, seconds: int, with_sound: bool) -> None:
    """Write pictures that become brighter, five a second, and perhaps a hum."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        hum = container.add_stream("pcm_s16le", rate=8000, layout="mono") if with_sound else None
        for number in range(5 * seconds):
            rgb = np.full((48, 64, 3), 20 + 10 * number, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(pictures.encode(None))
        if hum is not None:
            wave = (3000 * np.sin(np.arange(8000 * seconds) * 0.3)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(hum.encode(frame))
            container.mux(hum.encode(None))


def test_a_question_about_a_picture_loads_neither_hearing_nor_speech(
    checkpoint: Path, picture: Path, placed: list[Placement], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", str(checkpoint), "--image", str(picture), "What is in the image?", *SHORT]) == 0
    (placement,) = placed
    assert (placement.vision, placement.audio, placement.speech) == ("cpu", None, None)
    answer = capsys.readouterr().out
    assert answer.endswith("\n")
    assert main(["chat", str(checkpoint), "--image", str(picture), "What is in the image?", *SHORT]) == 0
    assert capsys.readouterr().out == answer


def test_words_alone_load_the_language_model_alone(checkpoint: Path, placed: list[Placement]) -> None:
    assert main(["chat", str(checkpoint), "Hello!", *SHORT]) == 0
    assert (placed[0].vision, placed[0].audio, placed[0].speech) == (None, None, None)


def test_an_answer_can_be_heard_in_the_checkpoints_voice(
    checkpoint: Path, sound: Path, tmp_path: Path, placed: list[Placement], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.wav"
    assert main(["chat", str(checkpoint), "--audio", str(sound), "--speak", str(out), "", *SPOKEN]) == 0
    assert (placed[0].vision, placed[0].audio, placed[0].speech) == (None, "cpu", "cpu")
    heard, rate_hz = soundfile.read(out)
    assert rate_hz == 24_000
    assert len(heard) > 12_000
    assert np.abs(heard).max() > 0
    assert f"{out}: " in capsys.readouterr().err


def test_a_voice_is_heard_even_where_nothing_is_said(checkpoint: Path, sound: Path, placed: list[Placement]) -> None:
    assert main(["chat", str(checkpoint), "Hello!", "--ref-audio", str(sound), *SHORT]) == 0
    assert (placed[0].vision, placed[0].audio, placed[0].speech) == (None, "cpu", None)


def test_nothing_is_said_without_a_voice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = cached_checkpoint(tiny_config())
    assert main(["chat", str(bare), "Hello!", "--speak", str(tmp_path / "out.wav"), *SHORT]) == 2
    assert "give one with --ref-audio" in capsys.readouterr().err


@pytest.mark.parametrize("with_sound", [True, False])
def test_a_video_is_watched_and_heard(
    checkpoint: Path, tmp_path: Path, placed: list[Placement], with_sound: bool
) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, seconds=2, with_sound=with_sound)
    assert main(["chat", str(checkpoint), "--video", str(path), "What happens?", *SHORT]) == 0
    assert placed[0].vision == "cpu"
    assert (placed[0].audio == "cpu") == with_sound


def test_a_video_has_a_picture_for_every_second_begun(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, seconds=3, with_sound=True)
    video = read_video(path)
    assert [round(float(frame.mean()) / 10) * 10 for frame in video.frames] == [60, 110, 160]
    assert video.sound is not None
    assert len(video.sound) == pytest.approx(48_000, abs=200)


def test_channels_of_any_rate_become_one_at_16_khz(sound: Path) -> None:
    assert read_sound(sound).shape == pytest.approx((16_000,), abs=100)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([""], "nothing to answer"),
        (["--image", "{tmp}/none.png", "?"], "cannot be read"),
        (["--image", "{tmp}/text", "?"], "cannot be shown"),
        (["--audio", "{tmp}/text", ""], "Cannot read"),
        (["--video", "{tmp}/a.wav", ""], "no pictures"),
    ],
)
def test_what_cannot_be_asked_is_a_wrong_setting(
    checkpoint: Path,
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    (tmp_path / "text").write_text("neither seen nor heard")
    asked = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["chat", str(checkpoint), *asked, *SHORT]) == 2
    assert reason in capsys.readouterr().err


def test_a_chat_that_is_too_long_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(checkpoint), "word " * 41_000, *SHORT]) == 1
    assert "can hold 40959" in capsys.readouterr().err


def test_memory_that_runs_out_while_speaking_is_told_in_a_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from duplex_server.models.minicpmo.narration import Narrator

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Narrator, "finish", exhausted)
    told_to = ["--speak", str(tmp_path / "said.wav"), *SPOKEN]
    assert main(["chat", str(checkpoint), "What is it?", *told_to]) == 1
    told = capsys.readouterr().err
    assert "memory ran out" in told
    assert "Traceback" not in told
