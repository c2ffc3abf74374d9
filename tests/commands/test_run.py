"""``duplex-server run``: a recorded clip as if live, and what is written of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from duplex_server.cli import main
from duplex_server.commands.clip import Caption, pictures, sound, write_video
from duplex_server.commands.replay import Reply, UnitReply, replay, units_of
from duplex_server.errors import CapacityError, ConfigError
from duplex_server.models.base import RowFailure, RowOutput, RowUnit
from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit
from tests.conftest import ROOT
from tests.helpers.virtual_time import run as run_virtually

GOLDENS = ROOT / "tests" / "goldens" / "minicpmo"
SPEC = ModelSpec(name="scripted", unit_ms=1000, max_frames=2)


def make_clip(path: Path, seconds: float, *, seen: bool = True, rate_hz: int = 44_100) -> None:
    """Write an MP4 whose sound is a tone and whose pictures grow lighter with every tenth of a second."""
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=10) if seen else None
        audio = made.add_stream("aac", rate=rate_hz, layout="mono")
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for number in range(round(10 * seconds)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number % 256, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                made.mux(video.encode(frame))
            made.mux(video.encode(None))
        tone = 0.2 * np.sin(np.arange(round(seconds * rate_hz)) * 0.05).astype(np.float32)
        samples = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        samples.rate, samples.pts = rate_hz, 0
        made.mux(audio.encode(samples))
        made.mux(audio.encode(None))


class Scripted:
    """A model that says, second by second, what it is told to."""

    spec = SPEC

    def __init__(self, script: Sequence[Sequence[ModelOutput] | RowFailure]) -> None:
        self.script = script
        self.given: list[Unit] = []
        self.closed = False

    def open(self, row: int, setup: SessionSetup) -> None: ...

    def configure(self, row: int, setup: SessionSetup) -> None: ...

    def cancel(self, row: int, turn: int, played_samples: int) -> None: ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput | RowFailure]:
        self.given.append(batch[0].unit)
        answer = self.script[batch[0].unit.index]
        if isinstance(answer, RowFailure):
            yield answer
        else:
            for output in answer:
                yield RowOutput(0, output)

    def close(self, row: int) -> None:
        self.closed = True


LISTEN = [ModelOutput(0, listening=True)]


def speech(seconds: float, text: str, *, end: bool = False) -> ModelOutput:
    return ModelOutput(1, np.full(round(24_000 * seconds), 0.5, np.float32), text, end_of_turn=end)


def replayed(model: Scripted, *, live: bool) -> tuple[Reply, list[UnitReply], float]:
    told: list[UnitReply] = []

    async def hold() -> tuple[Reply, float]:
        units = (Unit(i, np.zeros(16_000, np.float32)) for i in range(len(model.script)))
        begin_s = asyncio.get_running_loop().time()
        reply = Reply()
        await replay(model, SessionSetup(), units, dict, reply, live=live, tell=told.append)
        return reply, asyncio.get_running_loop().time() - begin_s

    reply, took_s = run_virtually(hold())
    return reply, told, took_s


class TestReplay:
    @pytest.mark.parametrize("live", [False, True])
    def test_speech_stands_where_it_is_heard(self, live: bool) -> None:
        model = Scripted([LISTEN, [speech(1, "one ")], [speech(1.5, "two", end=True)], [speech(0.5, "three")], LISTEN])
        reply, told, _ = replayed(model, live=live)
        # What comes while something still sounds waits for its end.
        assert [unit.begin_s for unit in told] == [None, 2.0, 3.0, 4.5, None]
        assert [unit.decision for unit in told] == ["listen", "speak", "speak", "speak", "listen"]
        assert [unit.end_of_turn for unit in told] == [False, False, True, False, False]
        whole = reply.timeline(24_000 * 8)
        assert len(whole) == 24_000 * 8
        assert np.array_equal(whole != 0, np.repeat([False, True, False], [48_000, 72_000, 72_000]))
        assert model.closed

    def test_live_takes_as_long_as_the_clip_and_fast_does_not_wait(self) -> None:
        assert replayed(Scripted([LISTEN] * 3), live=True)[2] == pytest.approx(3.0)
        assert replayed(Scripted([LISTEN] * 3), live=False)[2] == 0.0

    def test_a_conversation_that_fails_keeps_what_was_said(self) -> None:
        model = Scripted([[speech(1, "one")], RowFailure(0, CapacityError(1.0)), LISTEN])
        reply, told, _ = replayed(model, live=False)
        assert isinstance(reply.failure, CapacityError)
        assert len(told) == 1 and len(reply.sounds) == 1 and model.closed

    def test_a_conversation_that_is_stopped_keeps_what_was_said(self) -> None:
        model, reply = Scripted([[speech(1, "one")], LISTEN, LISTEN]), Reply()
        told: list[UnitReply] = []

        async def stop() -> None:
            units = (Unit(i, np.zeros(16_000, np.float32)) for i in range(3))
            held = replay(model, SessionSetup(), units, dict, reply, live=True, tell=told.append)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(held, 1.5)

        run_virtually(stop())
        assert len(reply.sounds) == 1 and len(told) == 1 and model.closed

    def test_units_are_cut_from_sound_and_pictures(self, tmp_path: Path) -> None:
        make_clip(tmp_path / "clip.mp4", 2.5)
        pcm = sound(tmp_path / "clip.mp4")
        assert len(pcm) == pytest.approx(2.5 * 16_000, abs=2500)  # the codec pads
        frames = pictures(tmp_path / "clip.mp4", every_s=0.5, max_px=32)
        units = list(units_of(pcm[:40_000], frames, 1000, 2, 1))
        assert [len(unit.frames) for unit in units] == [2, 2, 1, 0]
        assert [unit.index for unit in units] == [0, 1, 2, 3]
        assert all(unit.audio.shape == (16_000,) for unit in units)
        assert units[0].audio.any() and not units[3].audio.any()
        light = [frame.rgb.mean() for unit in units for frame in unit.frames]
        assert light == pytest.approx([5 * number % 256 for number in (4, 9, 14, 19, 24)], abs=3)
        assert units[0].frames[0].rgb.shape == (24, 32, 3)


class TestFiles:
    def test_a_video_gets_other_sound_and_captions(self, tmp_path: Path) -> None:
        make_clip(tmp_path / "clip.mp4", 2.0)
        stereo = np.zeros((3 * 24_000, 2), np.float32)
        captions = [Caption(0.5, 1.2, "Hello."), Caption(1.2, 2.0, "你好。")]
        assert write_video(tmp_path / "clip.mp4", tmp_path / "reply.mp4", stereo, captions)
        with av.open(str(tmp_path / "reply.mp4")) as made:
            assert len(list(made.decode(video=0))) == 20
        with av.open(str(tmp_path / "reply.mp4")) as made:
            assert made.streams.audio[0].layout.name == "stereo"
            texts = [bytes(packet)[2:].decode() for packet in made.demux(subtitles=0) if packet.size > 2]
            assert texts == ["Hello.", "你好。"]

    def test_sound_alone_makes_no_video(self, tmp_path: Path) -> None:
        make_clip(tmp_path / "clip.mp4", 1.0, seen=False)
        assert list(pictures(tmp_path / "clip.mp4", every_s=1.0, max_px=448)) == []
        assert not write_video(tmp_path / "clip.mp4", tmp_path / "reply.mp4", np.zeros((10, 2), np.float32), [])

    def test_what_is_no_clip_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clip.mp4").write_bytes(b"no video")
        for read in (lambda p: sound(p), lambda p: list(pictures(p, every_s=1.0, max_px=9))):
            with pytest.raises(ConfigError, match=r"clip\.mp4"):
                read(tmp_path / "clip.mp4")
            with pytest.raises(ConfigError, match=r"none\.mp4"):
                read(tmp_path / "none.mp4")


def golden_voice(folder: Path) -> Path:
    """A recording with its features beside it, so that no network need look at it."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install duplex-server[minicpmo]")
    from duplex_server.models.minicpmo.voice_prompt import VoicePrompt

    with np.load(GOLDENS / "golden_token2wav.npz") as arrays:
        parts = [torch.from_numpy(arrays[key])[0] for key in ("prompt_tokens", "spk", "prompt_mel")]
    VoicePrompt.of(*parts).save(folder / "voice.npz")
    (folder / "voice.wav").write_bytes((GOLDENS / "prompt.wav").read_bytes())
    return folder / "voice.wav"


@pytest.mark.timeout(300)
def test_a_clip_is_answered_by_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = golden_voice(tmp_path)
    from tests.helpers.minicpmo_checkpoint import cached_checkpoint, tiny_config

    make_clip(tmp_path / "clip.mp4", 3.0)
    out = tmp_path / "out"
    checkpoint = cached_checkpoint(tiny_config())
    flags = [
        "--ref-audio",
        str(voice),
        "--out",
        str(out),
        "--fast",
        "--greedy",
        "--device",
        "cpu",
        "--fps",
        "2",
        "--hd",
    ]
    assert main(["run", str(checkpoint), str(tmp_path / "clip.mp4"), *flags]) == 0, capsys.readouterr().err
    told = [json.loads(line) for line in (out / "transcript.jsonl").read_text().splitlines()]
    assert [line["unit"] for line in told] == list(range(len(told))) and len(told) in (6, 7)
    assert {"see", "hear", "decode"} <= told[0]["stages_ms"].keys()
    speaking = [line for line in told if line["decision"] == "speak"]
    assert speaking  # the tiny model speaks in most units
    reply, rate_hz = soundfile.read(out / "reply.wav", dtype="float32")
    assert rate_hz == 24_000
    begin = round(24_000 * speaking[0]["begin_s"])
    assert not reply[:begin].any() and reply[begin:].any()
    mix, _ = soundfile.read(out / "mix.wav", dtype="float32")
    assert mix.shape == (len(reply), 2) and np.array_equal(mix[:, 1], reply) and mix[:, 0].any()
    assert (out / "reply.mp4").is_file()


def test_a_voice_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install duplex-server[minicpmo]")
    make_clip(tmp_path / "clip.mp4", 1.0, seen=False)
    asked = ["run", str(tmp_path), str(tmp_path / "clip.mp4"), "--out", str(tmp_path), "--ref-audio", "nobody.wav"]
    assert main(asked) == 2
    assert "nobody.wav is not there" in capsys.readouterr().err


def test_a_reply_without_a_voice_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [[ModelOutput(1, text="hello", end_of_turn=True)], *[[ModelOutput(0, listening=True)]] * 3]
    monkeypatch.setattr("duplex_server.commands.stages.load_model", lambda *_, **__: Scripted(script))
    make_clip(tmp_path / "clip.mp4", 0.9, seen=False)
    assert main(["run", str(tmp_path), str(tmp_path / "clip.mp4"), "--out", str(tmp_path), "--fast"]) == 0
    assert "text only" in capsys.readouterr().err


def test_a_conversation_that_cannot_begin_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Scripted):
        def open(self, row: int, setup: SessionSetup) -> None:
            raise CapacityError(30)

    monkeypatch.setattr("duplex_server.commands.stages.load_model", lambda *_, **__: Full([]))
    make_clip(tmp_path / "clip.mp4", 0.9, seen=False)
    assert main(["run", str(tmp_path), str(tmp_path / "clip.mp4"), "--out", str(tmp_path), "--fast"]) == 1
    assert "ended early" in capsys.readouterr().err
