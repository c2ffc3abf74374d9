"""An echo as aiortc's examples would write it: the track that is sent reads the one that is received.

Run by an interpreter that has aiortc, FastAPI and uvicorn: ``python aiortc_echo.py --port 8001``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
from typing import Any

import av
import uvicorn
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from fastapi import FastAPI, Request
from PIL import Image

OUTPUT_RATE_HZ = 24_000

app = FastAPI()
calls: set[RTCPeerConnection] = set()  # each leaves when it is closed


class Echo(MediaStreamTrack):
    """What was heard, as a speech model would say it: mono, 24 kHz."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self._source = source
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=OUTPUT_RATE_HZ)
        self._ready: list[av.AudioFrame] = []

    async def recv(self) -> Any:
        while not self._ready:
            frame = await self._source.recv()
            assert isinstance(frame, av.AudioFrame)
            self._ready += self._resampler.resample(frame)
        return self._ready.pop(0)


def look(message: str | bytes) -> None:
    """Decode a picture and drop it."""
    image = base64.b64decode(json.loads(message)["image"])
    Image.open(io.BytesIO(image)).convert("RGB").load()


@app.get("/readyz")
def readyz() -> dict[str, bool]:
    return {"ready": True}


@app.post("/offer")
async def offer(request: Request) -> dict[str, str]:
    asked = await request.json()
    call = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    calls.add(call)

    @call.on("track")
    def take(track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            call.addTrack(Echo(track))

    @call.on("datachannel")
    def listen(channel: Any) -> None:
        @channel.on("message")  # type: ignore[untyped-decorator, unused-ignore]
        async def show(message: str | bytes) -> None:
            await asyncio.to_thread(look, message)

    @call.on("connectionstatechange")
    async def follow() -> None:
        if call.connectionState in ("failed", "closed"):
            calls.discard(call)
            await call.close()

    await call.setRemoteDescription(RTCSessionDescription(asked["sdp"], asked["type"]))
    await call.setLocalDescription(await call.createAnswer())
    return {"sdp": call.localDescription.sdp, "type": call.localDescription.type}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-level", default="warning")
    words = parser.parse_args()
    uvicorn.run(app, host="127.0.0.1", port=words.port, log_level=words.log_level)
