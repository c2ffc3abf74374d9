"""The ways into a conversation of OpenAI's Live API: a WebSocket, a WebRTC call, a socket attached to one.

Knows nothing about what is said.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from duplex_server.errors import DuplexError
from duplex_server.security import Gate
from duplex_server.session.manager import Hello, SessionManager
from duplex_server.transports.calls import Calls
from duplex_server.transports.continuous import ContinuousVoice
from duplex_server.transports.reception import Reception, hello_of
from duplex_server.transports.replies import MAX_BODY_BYTES, read_body, visitor_of
from duplex_server.wire.codec import encode
from duplex_server.wire.live_dialect import LIVE_OPT_IN, LIVE_PCM_RATES_HZ, LiveDialect, live_patch, without_format
from duplex_server.wire.live_sessions import LiveAnswer, LiveCreated, LiveTransport, read_live_request

__all__ = ["LiveDesk"]

_PATH = "/v1/live/sessions"
"""Where a call is told to be found; see :meth:`LiveDesk.routes` for all paths."""


class LiveDesk:
    """Answers the requests of that API."""

    def __init__(self, manager: SessionManager, gate: Gate, calls: Calls, reception: Reception) -> None:
        self._manager = manager
        self._gate = gate
        self._calls = calls
        self._reception = reception

    def routes(self, base: str) -> list[BaseRoute]:
        """Return where all of this is found below a base."""
        sessions = base + "/live/sessions"
        return [
            WebSocketRoute(sessions, self.converse),
            WebSocketRoute(sessions + "/{call_id}/attach", self.listen_in),
            Route(sessions, self.open_call, methods=["POST"]),
            Route(sessions + "/{call_id}/hangup", self.hang_up, methods=["POST"]),
        ]

    async def converse(self, socket: WebSocket) -> None:
        """Hold a conversation over a WebSocket; it begins with the peer's ``session.start``."""
        try:
            entry = self._gate.admit(visitor_of(socket))
            place = await self._reception.place_for(socket, entry)
        except DuplexError as error:
            await self._reception.refuse(socket, error)
            return
        try:
            voice = ContinuousVoice()
            dialect = LiveDialect(voice)
            voice.spelt_by(dialect)
            async with self._reception.accepted(socket, dialect, voice=voice) as transport:
                hello = await self._reception.opening(transport, _live(hello_of(socket, entry)))
                if hello is not None:
                    await self._manager.serve(place, transport, hello)
        finally:
            place.release()

    async def open_call(self, request: Request) -> Response:
        """Answer an SDP offer in JSON."""
        try:
            entry = self._gate.admit(visitor_of(request))
            asked = read_live_request(await read_body(request, MAX_BODY_BYTES))
            config = without_format(asked.session)
            hello = _live(hello_of(request, entry))
            hello = replace(hello, session=(*hello.session, live_patch(config)))
            self._manager.preview(hello)
            call_id = self._calls.new_id()
            dialect = LiveDialect(_Stopwatch(), config=config, session_id=call_id)
            _, answer = await self._calls.open(
                await self._reception.place_for(request, entry),
                asked.transport.sdp,
                "",
                hello,
                call_id=call_id,
                dialect=dialect,
                first=dialect.history(),
            )
        except DuplexError as error:
            self._reception.note_refusal("webrtc", error)
            raise
        created = LiveAnswer(session=LiveCreated(id=call_id), transport=LiveTransport(sdp=answer))
        return Response(encode(created), 201, {"Location": f"{_PATH}/{call_id}"}, "application/json")

    async def listen_in(self, socket: WebSocket) -> None:
        """Attach a WebSocket to a call."""
        await self._reception.listen_in(socket, self._calls, socket.path_params["call_id"])

    async def hang_up(self, request: Request) -> Response:
        """End a call."""
        entry = self._gate.admit(visitor_of(request), to_go_on=True)
        self._calls.hang_up(request.path_params["call_id"], entry.key_id)
        return Response(status_code=200)


class _Stopwatch:
    """The clock of a call: real time from the session's begin."""

    def __init__(self) -> None:
        self._began_s: float | None = None

    @property
    def next_ms(self) -> int:
        return 0 if self._began_s is None else int((asyncio.get_running_loop().time() - self._began_s) * 1000)

    def begin(self) -> None:
        if self._began_s is None:
            self._began_s = asyncio.get_running_loop().time()


def _live(hello: Hello) -> Hello:
    return replace(hello, opt_in=LIVE_OPT_IN, input_rates_hz=LIVE_PCM_RATES_HZ)
