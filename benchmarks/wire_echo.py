"""Servers that send back the sound that they get, as the audio of one long response: ours, and plain ones.

``python -m benchmarks.wire_echo ours --port 8001``: the real application, its transport, its dialogue and its codec,
with nobody behind them. ``plain``: what one writes in ten lines with FastAPI, on the same HTTP server; ``bare``: with
the websockets library alone. With ``--binary`` these two send back bytes, PCM16 without any event around it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
from typing import cast

import numpy as np
import uvicorn
import uvloop
from fastapi import FastAPI, WebSocket
from starlette.types import ASGIApp
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from duplex_server.config import Settings
from duplex_server.metrics import Metrics
from duplex_server.security import Gate
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.session.transport import MediaAudio, MediaFrame, Received, Transport
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import server_options
from duplex_server.types import OUTPUT_RATE_HZ, ModelSpec, Pcm, SessionSetup
from duplex_server.wire.dialogue import Dialogue
from duplex_server.wire.requests import AppendAudio, TurnTaking

_SPEC = ModelSpec(name="echo", unit_ms=20, transcribes=False, languages=("en",), voices=("none",))
_TURN = 1


class _Echoes:
    """Stands where the manager of sessions stands."""

    ready, draining, sessions, places, spec = True, False, 0, 1000, _SPEC

    async def admit(self, *, queue: bool = False) -> Place:  # noqa: ARG002 - the manager's signature
        """Let everybody in."""
        return Place(lambda: None)

    async def serve(self, place: Place, transport: Transport, hello: Hello) -> None:  # noqa: ARG002 - see above
        """Send back what comes."""
        dialogue = Dialogue(
            spec=_SPEC,
            session_id=f"sess_{id(transport):024x}",
            media_track=False,
            setup=SessionSetup(voice=_SPEC.voices[0]),
            turn_taking=TurnTaking(),
        )
        for event in [*dialogue.open(), *dialogue.begin_response(_TURN)]:
            transport.send(event)
        chunk_samples = transport.traits.chunk_ms * OUTPUT_RATE_HZ // 1000
        waiting: list[Pcm] = []
        n_waiting = 0

        def take(received: Received) -> None:
            nonlocal n_waiting
            assert not isinstance(received, (MediaAudio, MediaFrame, Exception)), received
            for request in dialogue.receive(received).requests:
                assert isinstance(request, AppendAudio)
                waiting.append(request.pcm)
                n_waiting += len(request.pcm)
                if n_waiting >= chunk_samples:  # as a session's voice does it
                    for event in dialogue.audio(_TURN, np.concatenate(waiting)):
                        transport.send(event)
                    waiting.clear()
                    n_waiting = 0

        await transport.events().for_each(take)
        await transport.close()


def ours() -> ASGIApp:
    """Return our application, without sessions."""
    settings = Settings()
    manager = cast(SessionManager, _Echoes())
    gate = Gate.of(settings, lambda: 0.0)
    return create_app(manager, settings, gate, Metrics(), None, wall_clock_s=lambda: 0.0)


def plain(*, binary: bool = False) -> ASGIApp:
    """Return FastAPI with ``json`` and ``base64``, or with bytes as they are."""
    app = FastAPI()

    @app.get("/readyz")
    def readyz() -> dict[str, bool]:
        return {"ready": True}

    @app.websocket("/v1/realtime")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        try:
            if binary:
                while True:
                    await socket.send_bytes(await socket.receive_bytes())
            for number in itertools.count():
                await socket.send_json(_delta(number, await socket.receive_json()))
        except WebSocketDisconnect:
            pass

    return app


def _delta(number: int, event: dict[str, str]) -> dict[str, object]:
    pcm = base64.b64decode(event["audio"])
    return {
        "type": "response.output_audio.delta",
        "event_id": f"event_{number}",
        "response_id": "resp_0011223344556677000001",
        "item_id": "item_0011223344556677000001",
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(pcm).decode(),
    }


async def bare(port: int, *, binary: bool) -> None:
    """Serve with the websockets library alone, until cancelled."""

    async def echo(socket: ServerConnection) -> None:
        if binary:
            async for message in socket:
                await socket.send(message)
        else:
            number = 0
            async for message in socket:
                await socket.send(json.dumps(_delta(number, json.loads(message))))
                number += 1

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(200, "ready\n") if request.path == "/readyz" else None

    async with serve(echo, "127.0.0.1", port, process_request=answer, compression=None) as server:
        await server.serve_forever()


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire_echo", description=__doc__.split("\n\n")[0])
    parser.add_argument("application", choices=["ours", "plain", "bare"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deflate", action="store_true", help="compress for clients that offer it, as uvicorn would")
    parser.add_argument("--binary", action="store_true", help="bytes instead of events")
    parser.add_argument("--log-level", default="warning")
    asked = parser.parse_args()
    if asked.application == "bare":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as uvicorn does
            runner.run(bare(asked.port, binary=asked.binary))
    options = server_options(Settings()) | {"ws_per_message_deflate": asked.deflate}
    if asked.application == "plain":
        options["ws"] = "websockets-sansio"
    application = plain(binary=asked.binary) if asked.application == "plain" else ours()
    config = uvicorn.Config(application, host="127.0.0.1", port=asked.port, **options)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
