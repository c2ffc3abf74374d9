"""The whole of ``talk`` with files, against a scripted server on a real socket."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.server import ServerConnection, serve

from duplex_server.media.pcm import to_int16
from duplex_server.talk import run
from duplex_server.talk.program import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from duplex_server.wire.codec import encode
from duplex_server.wire.events import (
    ConversationItemInputAudioTranscriptionCompleted,
    ResponseCreated,
    ResponseDone,
    ResponseOutputAudioDelta,
    ResponseOutputAudioTranscriptDelta,
    SessionCreated,
    SessionUpdated,
)
from duplex_server.wire.objects import Response
from duplex_server.wire.session_object import Session

ANSWER_S = 0.3
ASKED_S = 0.4


class Server:
    """Answers, once it has heard 0.4 s of sound, with 0.3 s of a tone, and hangs up at once."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.pictures: list[bytes] = []
        self.heard: list[np.ndarray[Any, Any]] = []
        self.close_code = 1000
        self.answers = True

    async def converse(self, connection: ServerConnection) -> None:
        async def say(event: Any) -> None:
            await connection.send(encode(event), text=True)

        await say(SessionCreated(session=Session(id="s1", model="scripted")))
        async for message in connection:
            event = json.loads(message)
            match event["type"]:
                case "session.update":
                    self.settings = event["session"]
                    await say(SessionUpdated(session=Session(id="s1", model="scripted")))
                case "input_image_buffer.append":
                    self.pictures.append(base64.b64decode(event["image"]))
                case "input_audio_buffer.append":
                    self.heard.append(np.frombuffer(base64.b64decode(event["audio"]), "<i2"))
                    if len(self.heard) == round(ASKED_S / 0.02):
                        if self.answers:
                            await self.answer(say)
                        await connection.close(self.close_code)

    async def answer(self, say: Any) -> None:
        await say(ConversationItemInputAudioTranscriptionCompleted(item_id="u1", transcript="what time is it"))
        await say(ResponseCreated(response=Response(id="r1")))
        await say(ResponseOutputAudioTranscriptDelta(response_id="r1", item_id="i1", delta="Noon."))
        tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(ANSWER_S * 24_000)) / 24_000)
        delta = to_int16(tone.astype(np.float32)).tobytes()
        await say(ResponseOutputAudioDelta(response_id="r1", item_id="i1", delta=delta))
        await say(ResponseDone(response=Response(id="r1", status="completed")))


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Run the server in a thread of its own, as ``run`` has a loop of its own."""
    ready = threading.Event()
    address: list[str] = []
    stop: list[Any] = []

    async def main() -> None:
        async with serve(server.converse, "127.0.0.1", 0) as listening:
            stopped = asyncio.Event()
            stop.extend([asyncio.get_running_loop(), stopped])
            address.append(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        stop[0].call_soon_threadsafe(stop[1].set)
        thread.join(10)


def asked(server: str, **given: Any) -> argparse.Namespace:
    nothing = dict.fromkeys(("input", "frames", "output", "transcript", "language", "api_key", "interruption"))
    return argparse.Namespace(**{"server": server, "transport": "websocket", "stereo": False, **nothing, **given})


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    soundfile.write(path, np.full(round(ASKED_S * 16_000), 0.25), 16_000)
    return path


def test_a_question_from_a_file_is_answered_into_a_file(
    tmp_path: Path, question: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    with serving(server) as url:
        options = asked(
            url,
            input=question,
            output=tmp_path / "reply.wav",
            transcript=tmp_path / "out.jsonl",
            language="en",
            interruption="immediate",
            stereo=True,
        )
        assert run(options) == EXIT_OK
    assert server.settings["extra_body"]["language"] == "en"
    assert server.settings["extra_body"]["interruption"] == "immediate"
    assert "overlap" in server.settings["extra_body"]["duplex_events"]
    sent = np.concatenate(server.heard)
    assert sent[1000:9000] == pytest.approx(0.25 * 32_768, abs=300)
    assert not sent[round(ASKED_S * 24_000) + 100 :].any()
    both, rate_hz = soundfile.read(tmp_path / "reply.wav")
    assert rate_hz == 24_000
    answered = np.flatnonzero(np.abs(both[:, 1]) > 0.01)
    assert answered[0] / 24_000 >= ASKED_S - 0.02
    assert (answered[-1] - answered[0]) / 24_000 == pytest.approx(ANSWER_S, abs=0.01)
    assert both[1000 : round(ASKED_S * 24_000) - 1000, 0] == pytest.approx(0.25, abs=0.02)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [line["type"] for line in lines][:2] == ["session.created", "session.updated"]
    assert {"audio", "response.done"} <= {line["type"] for line in lines}
    times_s = [line["t_s"] for line in lines]
    assert times_s == sorted(times_s)
    assert "you:   what time is it\nmodel: Noon.\n" in capsys.readouterr().out


def test_pictures_are_sent_beside_speech(tmp_path: Path, question: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (0, 0, 200)).save(tmp_path / "a.png")
    server = Server()
    with serving(server) as url:
        assert run(asked(url, input=question, frames=tmp_path / "a.png")) == EXIT_OK
    assert server.pictures
    assert all(picture.startswith(b"\xff\xd8") for picture in server.pictures)


def test_a_broken_conversation_exits_1_with_the_reason(
    question: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    server.close_code = 1011
    server.answers = False
    with serving(server) as url:
        assert run(asked(url, input=question, output=tmp_path / "reply.wav")) == EXIT_FAILED
    assert "code 1011" in capsys.readouterr().err
    samples, _ = soundfile.read(tmp_path / "reply.wav")
    assert len(samples) / 24_000 == pytest.approx(ASKED_S, abs=0.1)


def test_no_server_exits_1(question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked("http://127.0.0.1:9", input=question)) == EXIT_FAILED
    assert capsys.readouterr().err.startswith("duplex-server: cannot connect to http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"input": Path("missing.wav")}, "Cannot read speech from missing.wav"),
        ({"server": "ftp://x"}, "not the address of a server"),
        ({"stereo": True, "input": None}, "--stereo needs --input"),
        ({"output": Path("nowhere/out.wav")}, "Cannot write nowhere"),
    ],
)
def test_a_bad_word_on_the_command_line_exits_2(
    question: Path, given: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(asked(**{"server": "http://127.0.0.1:9", "input": question, **given})) == 2
    assert sentence in capsys.readouterr().err


def test_a_video_that_cannot_be_read_exits_2(
    tmp_path: Path, question: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with serving(Server()) as url:
        assert run(asked(url, input=question, frames=tmp_path / "a.mp4")) == 2
    assert "Cannot read pictures" in capsys.readouterr().err


def test_ctrl_c_leaves_complete_files(tmp_path: Path, question: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    real_run = asyncio.run

    def interrupted(conversation: Any) -> None:
        """Do what asyncio.run does on Ctrl-C: cancel the main task, then raise KeyboardInterrupt."""

        async def main() -> None:
            async with asyncio.timeout(0.6):
                await conversation

        with pytest.raises(TimeoutError):
            real_run(main())
        raise KeyboardInterrupt

    with serving(server) as url:
        monkeypatch.setattr(asyncio, "run", interrupted)
        options = asked(url, input=question, output=tmp_path / "reply.wav", transcript=tmp_path / "out.jsonl")
        status = run(options)
        monkeypatch.undo()
    assert status == EXIT_INTERRUPTED
    samples, _ = soundfile.read(tmp_path / "reply.wav")
    assert len(samples) > 0.3 * 24_000
    assert (tmp_path / "out.jsonl").read_text("utf-8").count("\n") >= 2
