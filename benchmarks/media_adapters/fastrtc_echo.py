"""An echo on fastrtc: a stream handler that gives out what it took in.

Run by an interpreter that has fastrtc and uvicorn: ``python fastrtc_echo.py --port 8001``.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastrtc import AsyncStreamHandler, Stream

OUTPUT_RATE_HZ = 24_000
MOST_FRAMES = 500
"""What waits for a sender that is too slow, 10 s: enough for a delay to be seen, and no more."""


class Echo(AsyncStreamHandler):  # type: ignore[misc,unused-ignore]
    """Frames of 20 ms at 24 kHz, as they came."""

    def __init__(self) -> None:
        super().__init__("mono", OUTPUT_RATE_HZ, OUTPUT_RATE_HZ // 50, OUTPUT_RATE_HZ)
        self._frames: asyncio.Queue[Any] = asyncio.Queue(MOST_FRAMES)

    async def receive(self, frame: Any) -> None:
        if self._frames.full():
            self._frames.get_nowait()
        self._frames.put_nowait(frame)

    async def emit(self) -> Any:
        return await self._frames.get()

    def copy(self) -> Echo:
        return Echo()

    async def shutdown(self) -> None:
        pass


app = FastAPI()
Stream(
    Echo(),
    modality="audio",
    mode="send-receive",
    concurrency_limit=1000,
    server_rtc_configuration={"iceServers": []},
    verbose=False,
).mount(app)


@app.get("/readyz")
def readyz() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-level", default="warning")
    words = parser.parse_args()
    uvicorn.run(app, host="127.0.0.1", port=words.port, log_level=words.log_level)
