"""What is compared does the same."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from websockets.asyncio.client import connect

from benchmarks import wire_codec
from benchmarks.server import free_port
from benchmarks.wire_echo import bare, ours, plain
from duplex_server.wire.codec import decode_client
from duplex_server.wire.events import InputAudioBufferAppend


@pytest.mark.parametrize("application", [ours, plain])
def test_both_servers_send_the_sound_back(application: Callable[[], ASGIApp]) -> None:
    sound = np.random.default_rng(3).integers(-8000, 8000, 4800, dtype=np.int16).tobytes()
    echoed = b""
    with TestClient(application(), base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
        with client.websocket_connect("ws://localhost/v1/realtime") as socket:
            for start in range(0, len(sound), 960):
                audio = base64.b64encode(sound[start : start + 960]).decode()
                socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
            while len(echoed) < len(sound):
                event = socket.receive_json()
                if event["type"] == "response.output_audio.delta":
                    echoed += base64.b64decode(event["delta"])
    difference = np.frombuffer(echoed, np.int16).astype(int) - np.frombuffer(sound, np.int16)
    assert np.abs(difference).max() <= 1


def test_bytes_come_back_as_they_are() -> None:
    with (
        TestClient(plain(binary=True), base_url="http://localhost") as client,
        client.websocket_connect("ws://localhost/v1/realtime") as socket,
    ):
        socket.send_bytes(b"sound")
        assert socket.receive_bytes() == b"sound"


@pytest.mark.parametrize("binary", [True, False])
def test_the_library_alone_sends_the_sound_back(binary: bool) -> None:
    async def main() -> None:
        port = free_port()
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(10):
            serving = tasks.create_task(bare(port, binary=binary))
            while True:
                try:
                    socket = await connect(f"ws://127.0.0.1:{port}/v1/realtime")
                    break
                except OSError:
                    await asyncio.sleep(0.01)
            event = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(b"sound!").decode()})
            await socket.send(b"sound!" if binary else event)
            back = await socket.recv()
            await socket.close()
            serving.cancel()
        assert back == b"sound!" if binary else base64.b64decode(json.loads(back)["delta"]) == b"sound!"

    asyncio.run(main())


def test_both_codecs_read_and_write_the_same() -> None:
    text = wire_codec._append(20)
    event = decode_client(text)
    assert isinstance(event, InputAudioBufferAppend)
    assert event.audio == wire_codec._decode_append(text)
    assert wire_codec._decode_append_json(text) == wire_codec._decode_append(text)
    mine = json.loads(wire_codec._ours_audio(bytes(960)))
    theirs = wire_codec._audio_event(bytes(960)).model_dump()
    assert {key: mine[key] for key in theirs} == theirs
