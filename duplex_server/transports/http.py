"""All routes: the page, the two ways into a conversation, and what operators look at.

Knows nothing about what is said in a conversation.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from duplex_server.config import Settings
from duplex_server.errors import DuplexError
from duplex_server.security import Gate, relay_credentials
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.transports.arrivals import Arrivals, resume_in
from duplex_server.transports.calls import Calls
from duplex_server.transports.live import LiveDesk
from duplex_server.transports.observer import TransportObserver
from duplex_server.transports.page import Page
from duplex_server.transports.reception import Reception, asks, hello_of
from duplex_server.transports.replies import (
    MAX_BODY_BYTES,
    read_body,
    read_offer_form,
    reply_to_failure,
    reply_to_status,
    visitor_of,
)
from duplex_server.transports.rtc_camera import CameraView
from duplex_server.transports.rtc_media import why_not_ours
from duplex_server.wire.client_secrets import ClientSecret, ExpiresAfter, read_secret_request
from duplex_server.wire.codec import encode
from duplex_server.wire.dialect import Dialect, RealtimeDialect
from duplex_server.wire.vllm_dialect import VllmDialect

__all__ = ["MetricsPage", "create_app"]

_log = logging.getLogger(__name__)

PREFLIGHT_S = 600
_CALLS = "/v1/realtime/calls"


class MetricsPage(TransportObserver, Protocol):
    """Counts what happens, and shows it."""

    content_type: str

    def render(self) -> bytes:
        """Return everything counted, in the format that :attr:`content_type` names."""
        ...


def create_app(
    manager: SessionManager,
    settings: Settings,
    gate: Gate,
    metrics: MetricsPage,
    page_folder: Path | None,
    *,
    wall_clock_s: Callable[[], float],
    gateway: int = 0,
) -> Starlette:
    """Build the application.

    Its lifespan owns the WebRTC calls: the manager is to be drained before it ends.

    Args:
        manager: an entered session manager.
        settings: checked settings.
        gate: decides who may enter.
        metrics: told what happens, and shown at ``/metrics``.
        page_folder: the web page's files; None to serve none.
        wall_clock_s: Unix time, for credentials that expire.
        gateway: our number, which calls' ids hold.
    """
    if reason := why_not_ours():
        _log.warning("WebRTC calls are carried by aiortc, at several times the cost and with more delay: %s", reason)
    arrivals = Arrivals(manager)
    calls = Calls(
        manager,
        arrivals,
        ice_servers=settings.ice_servers,
        max_message_bytes=settings.max_message_bytes,
        send_queue_bytes=settings.send_queue_bytes,
        observer=metrics,
        view=CameraView.of(manager.spec, settings.image_max_px),
        gateway=gateway,
    )
    reception = Reception(manager, settings, gate, metrics)
    desk = _Desk(manager, arrivals, settings, gate, metrics, calls, reception, wall_clock_s, gateway)
    live = LiveDesk(manager, gate, calls, reception)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with calls:
            yield

    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=sorted(gate.allowed_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Location", "Retry-After"],
        max_age=PREFLIGHT_S,
    )
    return Starlette(
        routes=_routes(desk, live, page_folder),
        lifespan=lifespan,
        middleware=[cross_origin],
        exception_handlers={
            DuplexError: reply_to_failure,
            HTTPException: reply_to_status,
            Exception: reply_to_failure,
        },
    )


def _routes(desk: _Desk, live: LiveDesk, page_folder: Path | None) -> list[BaseRoute]:
    routes: list[BaseRoute] = [
        Route("/healthz", desk.health),
        Route("/readyz", desk.readiness),
        Route("/metrics", desk.metrics_page),
    ]
    for base in ("/v1", ""):  # clients append to whatever base they are given
        calls = base + "/realtime/calls"
        routes += [
            WebSocketRoute(base + "/realtime", desk.converse),
            Route(calls, desk.open_call, methods=["POST"]),
            Route(calls + "/{call_id}", desk.renegotiate, methods=["POST"]),
            Route(calls + "/{call_id}", desk.hang_up, methods=["DELETE"]),
            Route(calls + "/{call_id}/hangup", desk.hang_up, methods=["POST"]),
            Route(base + "/realtime/client_secrets", desk.client_secrets, methods=["POST"]),
            *live.routes(base),
            Route(base + "/models", desk.models),
            Route(base + "/ice_servers", desk.ice_servers),
        ]
    if page_folder is not None:
        routes.append(Mount("/", Page(page_folder)))
    return routes


class _Desk:
    """Answers requests."""

    def __init__(
        self,
        manager: SessionManager,
        arrivals: Arrivals,
        settings: Settings,
        gate: Gate,
        metrics: MetricsPage,
        calls: Calls,
        reception: Reception,
        wall_clock_s: Callable[[], float],
        gateway: int,
    ) -> None:
        self._manager = manager
        self._arrivals = arrivals
        self._settings = settings
        self._gate = gate
        self._metrics = metrics
        self._calls = calls
        self._wall_clock_s = wall_clock_s
        self._reception = reception
        self._gateway = gateway

    # -- conversations ------------------------------------------------------------------------------------------------

    async def converse(self, socket: WebSocket) -> None:
        """Hold a conversation over a WebSocket. Whoever may not, or finds no place, learns it before the upgrade.

        With ``autostart=0`` the client speaks first, and may resume a session, which has its place.
        """
        if "call_id" in socket.query_params:
            await self._reception.listen_in(socket, self._calls, socket.query_params["call_id"])
            return
        if socket.query_params.get("autostart") == "0":
            await self._listen_first(socket)
            return
        try:
            entry = self._gate.admit(visitor_of(socket))
            place = await self._reception.place_for(socket, entry)
        except DuplexError as error:
            await self._reception.refuse(socket, error)
            return
        try:
            async with self._reception.accepted(socket, _dialect_of(socket)) as transport:
                await self._manager.serve(place, transport, hello_of(socket, entry))
        finally:
            place.release()

    async def _listen_first(self, socket: WebSocket) -> None:
        """Let a client say what it wants before it is given a place."""
        visitor = visitor_of(socket)
        try:
            entry = self._gate.admit(visitor, to_go_on=True)
            self._arrivals.admit()
        except DuplexError as error:
            await self._reception.refuse(socket, error)
            return
        async with self._reception.accepted(socket, _dialect_of(socket)) as transport:
            hello = hello_of(socket, entry)

            async def admit() -> Place:
                return await self._reception.place_for(socket, self._gate.admit(visitor))

            await self._arrivals.receive(transport, hello, admit)

    async def open_call(self, request: Request) -> Response:
        """Answer an SDP offer: 201, the answer, and in ``Location`` where the call can be found."""
        try:
            visitor = visitor_of(request)
            entry = self._gate.admit(visitor, to_go_on=True)
            body = await read_body(request, MAX_BODY_BYTES)
            sdp, session = read_offer_form(request.headers.get("content-type", ""), body)
            resumed = resume_in(session)
            if resumed is None:
                place: Place | None = await self._reception.place_for(request, self._gate.admit(visitor))
            else:
                place = None
                self._manager.find(resumed)
            call_id, answer = await self._calls.open(place, sdp, resumed or session, hello_of(request, entry))
        except DuplexError as error:
            self._reception.note_refusal("webrtc", error)
            raise
        return Response(answer, 201, {"Location": f"{_CALLS}/{call_id}"}, "application/sdp")

    async def renegotiate(self, request: Request) -> Response:
        """Answer a later offer of the same call: 200 and the answer."""
        entry = self._gate.admit(visitor_of(request), to_go_on=True)
        body = await read_body(request, MAX_BODY_BYTES)
        sdp, _ = read_offer_form(request.headers.get("content-type", ""), body)
        answer = await self._calls.renegotiate(request.path_params["call_id"], entry.key_id, sdp)
        return Response(answer, 200, media_type="application/sdp")

    async def hang_up(self, request: Request) -> Response:
        """End a call."""
        entry = self._gate.admit(visitor_of(request), to_go_on=True)
        self._calls.hang_up(request.path_params["call_id"], entry.key_id)
        return Response(status_code=204 if request.method == "DELETE" else 200)

    async def client_secrets(self, request: Request) -> Response:
        """Make a client secret: a key for a browser, which expires and begins sessions with a given configuration."""
        entry = self._gate.admit_owner(visitor_of(request))
        asked = read_secret_request(await read_body(request, MAX_BODY_BYTES))
        terms = asked.expires_after or ExpiresAfter()
        session = self._manager.preview(
            Hello(session=() if asked.session is None else (asked.session,), session_max_s=terms.max_session_seconds)
        )
        value, expires_at = await self._gate.mint(
            entry,
            ttl_s=terms.seconds,
            session=asked.session,
            max_session_s=terms.max_session_seconds,
            max_sessions=terms.max_sessions,
        )
        secret = ClientSecret(value=value, expires_at=expires_at, session=session)
        return Response(encode(secret), 200, {"Cache-Control": "no-store"}, "application/json")

    # -- what clients ask before --------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """Name the model that is served, as OpenAI lists models."""
        self._gate.admit(visitor_of(request))
        model = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "duplex-server"}
        return JSONResponse({"object": "list", "data": [model]})

    async def ice_servers(self, request: Request) -> Response:
        """Name STUN and TURN servers, the latter with credentials that expire; for ``RTCConfiguration.iceServers``."""
        self._gate.admit(visitor_of(request))
        settings, servers = self._settings, list[dict[str, Any]]()
        body: dict[str, Any] = {"ice_servers": servers}
        if settings.ice_servers:
            servers.append({"urls": list(settings.ice_servers)})
        if settings.turn_urls:
            credentials = relay_credentials(
                settings.turn_secret, ttl_s=settings.turn_ttl_s, now_s=self._wall_clock_s(), name="duplex"
            )
            servers.append(
                {
                    "urls": list(settings.turn_urls),
                    "username": credentials.username,
                    "credential": credentials.password,
                }
            )
            body["expires_at"] = credentials.expires_at
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    # -- operators ----------------------------------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        """Say that the process is alive."""
        return PlainTextResponse("ok\n")

    async def readiness(self, _: Request) -> Response:
        """Say whether a conversation could begin: 200, or 503 while the model loads, is lost, or the server stops."""
        manager = self._manager
        body = {
            "ready": manager.ready,
            "sessions": manager.sessions,
            "places": manager.places,
            "gateway": self._gateway,
        }
        return JSONResponse(body, 200 if manager.ready else 503, {"Cache-Control": "no-store"})

    async def metrics_page(self, request: Request) -> Response:
        """Show what was counted."""
        self._gate.admit_owner(visitor_of(request))
        return Response(self._metrics.render(), headers={"Content-Type": self._metrics.content_type})


def _dialect_of(socket: WebSocket) -> Dialect:
    return VllmDialect() if asks(socket, "duplex") else RealtimeDialect()
