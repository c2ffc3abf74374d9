"""Our WebRTC transport with an echo above it, and nothing else: ``python -m benchmarks.media_echo --port 8001``.

The real routes, signalling, transport and codecs, without sessions and models: what was heard at 16 kHz is sent at
24 kHz, tick by tick; pictures are decoded and dropped. Knows nothing about who calls.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
from typing import cast

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from benchmarks.media_mirror import QUIET_RMS
from duplex_server.config import Settings
from duplex_server.media.image import decode_image
from duplex_server.media.resample import StreamResampler
from duplex_server.metrics import Metrics
from duplex_server.security import Gate
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.session.transport import MediaAudio, Received, Transport
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import server_options
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, TICK_MS, ModelSpec, Pcm
from duplex_server.wire.events import InputImageBufferAppend

__all__ = ["application"]

_TICK_SAMPLES = OUTPUT_RATE_HZ * TICK_MS // 1000
_PAUSE_TICKS = 6
"""Quiet after which nothing is sent, as a session sends nothing while its model is silent: 120 ms, more than most
pauses within a sentence. What was sent late is made up for between two, as it is when a model begins a new turn."""
_MAX_PX = 4_000_000


class _Echo:
    """One call's sound, from the microphone's rate and pieces to ticks of speech."""

    def __init__(self) -> None:
        self._resampler = StreamResampler(INPUT_RATE_HZ, OUTPUT_RATE_HZ)
        self._carry: Pcm = np.zeros(0, np.float32)
        self._quiet_ticks = _PAUSE_TICKS

    def ticks(self, pcm: Pcm) -> list[Pcm]:
        """Return what is to be sent now; nothing in a pause."""
        speech = np.concatenate([self._carry, self._resampler.push(pcm)])
        n_ticks = len(speech) // _TICK_SAMPLES
        self._carry = speech[n_ticks * _TICK_SAMPLES :]
        found = []
        for tick in speech[: n_ticks * _TICK_SAMPLES].reshape(n_ticks, _TICK_SAMPLES):
            quiet = float(tick @ tick) < QUIET_RMS**2 * _TICK_SAMPLES
            self._quiet_ticks = self._quiet_ticks + 1 if quiet else 0
            if self._quiet_ticks < _PAUSE_TICKS:
                found.append(tick)
        return found


class _Echoes:
    """Stands where the manager of sessions stands."""

    ready, draining, sessions, places = True, False, 0, 1000
    spec = ModelSpec(name="echo", unit_ms=1000, max_frames=1)

    async def admit(self, *, queue: bool = False) -> Place:  # noqa: ARG002 - the manager's signature
        """Let everybody in."""
        return Place(lambda: None)

    async def serve(self, place: Place, transport: Transport, hello: Hello) -> None:  # noqa: ARG002 - see above
        """Send back what is heard until the caller hangs up."""
        echo = _Echo()
        async with asyncio.TaskGroup() as tasks:

            def take(received: Received) -> None:
                if isinstance(received, MediaAudio):
                    for tick in echo.ticks(received.pcm):
                        transport.send_audio(tick)
                elif isinstance(received, InputImageBufferAppend):
                    tasks.create_task(asyncio.to_thread(_look, received.image))

            await transport.events().for_each(take)
        await transport.close()


def _look(image: str) -> None:
    try:
        decode_image(base64.b64decode(image), max_px=_MAX_PX, max_side_px=448)
    except binascii.Error:
        pass  # nobody sees the picture


def application() -> ASGIApp:
    """Return our application, with an echo instead of sessions."""
    settings = Settings()
    manager = cast(SessionManager, _Echoes())
    gate = Gate.of(settings, lambda: 0.0)
    return create_app(manager, settings, gate, Metrics(), None, wall_clock_s=lambda: 0.0)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media_echo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-level", default="warning")
    asked = parser.parse_args()
    config = uvicorn.Config(application(), host="127.0.0.1", port=asked.port, **server_options(Settings()))
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
