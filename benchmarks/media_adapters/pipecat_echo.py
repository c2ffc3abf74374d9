"""An echo on pipecat: its small WebRTC transport, with one processor between input and output.

Run by an interpreter that has pipecat-ai[webrtc], FastAPI and uvicorn: ``python pipecat_echo.py --port 8001``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

OUTPUT_RATE_HZ = 24_000

app = FastAPI()
calls: set[asyncio.Task[None]] = set()  # each leaves when it is over


class Echo(FrameProcessor):  # type: ignore[misc,unused-ignore]
    """Sends on as speech what came in as sound."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


async def converse(connection: SmallWebRTCConnection) -> None:
    transport = SmallWebRTCTransport(
        connection,
        TransportParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            audio_in_sample_rate=OUTPUT_RATE_HZ,
            audio_out_sample_rate=OUTPUT_RATE_HZ,
            audio_out_10ms_chunks=2,
        ),
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=OUTPUT_RATE_HZ, audio_out_sample_rate=OUTPUT_RATE_HZ),
        cancel_on_idle_timeout=False,
    )

    @transport.event_handler("on_client_disconnected")  # type: ignore[untyped-decorator, unused-ignore]
    async def leave(_: Any, __: Any) -> None:
        await worker.cancel()

    await WorkerRunner(handle_sigint=False).run(worker)


@app.get("/readyz")
def readyz() -> dict[str, bool]:
    return {"ready": True}


@app.post("/offer")
async def offer(request: Request) -> dict[str, Any]:
    asked = await request.json()
    connection = SmallWebRTCConnection()
    await connection.initialize(sdp=asked["sdp"], type=asked["type"])
    call = asyncio.create_task(converse(connection))
    calls.add(call)
    call.add_done_callback(calls.discard)
    answer: dict[str, Any] = connection.get_answer()
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-level", default="warning")
    words = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level=words.log_level.upper())
    uvicorn.run(app, host="127.0.0.1", port=words.port, log_level=words.log_level)
