"""Which gateway a request belongs to, and its way there. Stands before a gateway's application.

What names a session or a call belongs to the gateway that its id names; a call that begins, to the one with the fewest
sessions; everything else to whichever the peer has come to. Knows nothing about what the application does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from duplex_server.gateways.ear import Ear
from duplex_server.gateways.link import SupervisorLink
from duplex_server.gateways.tunnel import Application, Message, Receive, Scope, Send, Tunnel, open_tunnel, socket_of
from duplex_server.transports.arrivals import resume_in
from duplex_server.transports.replies import BODY_TIMEOUT_S, MAX_BODY_BYTES, read_offer_form
from duplex_server.transports.rtc_sdp import InvalidOffer
from duplex_server.wire.ids import gateway_of

__all__ = ["Relay"]

_log = logging.getLogger(__name__)

PAGE_TIMEOUT_S = 2.0
"""A gateway that takes longer to tell its metrics is left out, before whoever asked has lost patience."""
EVEN_ENOUGH = 2
"""So many sessions more than the emptiest gateway has, and the next call goes there: only its offer is carried."""
OWNER_LOST = 1012
"""Close code for a peer whose gateway died: "service restart" (IANA's registry of WebSocket close codes)."""
_REFUSED = {401: 1008, 403: 1008, 429: 1013, 503: 1013}
"""Close codes for refusals of a peer that was taken in already."""

_WEBSOCKET_PATHS = ("/realtime", "/live/sessions")
_CALL_PATHS = ("/realtime/calls", "/live/sessions")
_CALL_PARENTS = ("realtime/calls/", "live/sessions/")


class Relay:
    """An ASGI application that answers what is ours, and carries what is not to where it belongs.

    Where the owner cannot be reached nobody has what the id names, so our own application says so in its words.

    Args:
        app: this gateway's application.
        link: knows the other gateways.
        folder: where their sockets are.
        ready: whether our model could take a session.
        merge: makes one page of metrics of the pages by gateway.
    """

    def __init__(
        self,
        app: Application,
        link: SupervisorLink,
        folder: Path,
        *,
        ready: Callable[[], bool],
        merge: Callable[[Mapping[int, bytes]], bytes],
    ) -> None:
        self._app = app
        self._link = link
        self._folder = folder
        self._ready = ready
        self._merge = merge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or a WebSocket."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/metrics" and scope["method"] == "GET":
            await self._metrics(scope, receive, send)
            return
        first: list[Message] = []
        owner = self._owner(_call_in(path))
        if scope["method"] == "POST" and path.endswith(_CALL_PATHS):
            session, first = await _offered_session(scope, receive)
            owner = self._roomiest() if session is None else self._owner(session)
        tunnel = await self._open(owner, scope)
        if tunnel is None:
            await self._app(scope, _after(first, receive), send)
        else:
            await _carry(tunnel, scope, receive, send, first)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the metrics of all gateways, to those to whom our own application gives ours."""
        page = _Page()
        await self._app(scope, receive, page.send)
        if page.status == 200:
            pages = {self._link.number: page.body}
            others = [state.number for state in self._link.state.gateways if state.up and state.number not in pages]
            async with asyncio.TaskGroup() as tasks:
                asked = {number: tasks.create_task(self._page_of(number, scope)) for number in others}
            pages.update({number: body for number, task in asked.items() if (body := task.result()) is not None})
            page.body = self._merge(dict(sorted(pages.items())))
        await page.show(send)

    async def _page_of(self, number: int, scope: Scope) -> bytes | None:
        """Return the metrics of another gateway; None if it has died meanwhile, or does not answer."""
        tunnel = await self._open(number, scope)
        if tunnel is None:
            return None
        page, done = _Page(), False
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                done = await tunnel.carry(_nothing_more, page.send)
        except TimeoutError:
            _log.warning("gateway %d does not tell its metrics", number)
        finally:
            tunnel.close()
        return page.body if done and page.status == 200 else None

    # -- WebSockets ---------------------------------------------------------------------------------------------------

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        # vLLM-Omni's dialect (?duplex=1) resumes nothing, and its events are others.
        if query.get("autostart") == ["0"] and not {"call_id", "duplex"} & query.keys():
            await self._first_word(scope, receive, send)
            return
        owner = self._owner(query.get("call_id", [""])[-1] or _call_in(scope["path"]))
        if owner is None and scope["path"].endswith(_WEBSOCKET_PATHS) and not self._ready():
            owner = self._roomiest()
        tunnel = await self._open(owner, scope)
        if tunnel is None:
            await self._app(scope, receive, send)
        else:
            await _carry(tunnel, scope, receive, send)

    async def _first_word(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let our application listen to a peer that speaks first, until that resumes another gateway's session."""

        async def find(session_id: str) -> Tunnel | None:
            return await self._open(self._owner(session_id), scope)

        ear = Ear(scope, receive, send, find)
        try:
            await self._app(ear.scope, ear.receive, ear.send)
            if ear.tunnel is not None:
                await _carry(ear.tunnel, scope, receive, send, ear.heard, accepted=True)
        finally:
            if ear.tunnel is not None:
                ear.tunnel.close()

    # -- where --------------------------------------------------------------------------------------------------------

    def _owner(self, id_: str) -> int | None:
        """Return the other gateway that an id names; None for ours, and for no id."""
        owner = gateway_of(id_)
        return None if owner == self._link.number else owner

    def _roomiest(self) -> int | None:
        """Return the other gateway that should have the next call; None if that is as well had here."""
        ready = [state for state in self._link.state.gateways if state.ready and state.number != self._link.number]
        if not ready:
            return None
        best = min(ready, key=lambda state: state.sessions)
        here = self._link.admission.sessions_here
        return best.number if not self._ready() or here >= best.sessions + EVEN_ENOUGH else None

    async def _open(self, owner: int | None, scope: Scope) -> Tunnel | None:
        if owner is None or not any(state.up and state.number == owner for state in self._link.state.gateways):
            return None
        return await open_tunnel(socket_of(self._folder, owner), scope)


class _Page:
    """A response that is kept."""

    def __init__(self) -> None:
        self.status = 500
        self.body = b""
        self._start: Message = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._start = message
        else:
            self.body += message.get("body", b"")

    async def show(self, send: Send) -> None:
        headers = [(name, value) for name, value in self._start.get("headers", ()) if name.lower() != b"content-length"]
        length = (b"content-length", str(len(self.body)).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": self.body})


async def _carry(
    tunnel: Tunnel,
    scope: Scope,
    receive: Receive,
    send: Send,
    first: list[Message] | None = None,
    *,
    accepted: bool = False,
) -> None:
    """Carry a request through a tunnel, and close that; if its owner dies the peer is told.

    Args:
        tunnel: to the owner.
        scope: the request's.
        receive: from the peer.
        send: to the peer.
        first: what was received from it already.
        accepted: of a WebSocket: whether it has been, here.
    """
    begun = accepted

    async def pass_on(message: Message) -> None:
        nonlocal begun
        kind = message["type"]
        if accepted and kind == "websocket.accept":
            return
        if accepted and kind == "websocket.http.response.start":
            await send({"type": "websocket.close", "code": _REFUSED.get(message["status"], 1011)})
            return
        if accepted and kind == "websocket.http.response.body":
            return
        begun = True
        await send(message)

    try:
        done = await tunnel.carry(receive, pass_on, first or [])
    finally:
        tunnel.close()
    if done:
        return
    if begun and scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": OWNER_LOST, "reason": "The gateway is started again."})
    elif not begun:
        await _unavailable(scope, send)


async def _unavailable(scope: Scope, send: Send) -> None:
    """Answer for an owner that died before it had."""
    prefix = "websocket." if scope["type"] == "websocket" else ""
    error = {"message": "The gateway stopped unexpectedly.", "type": "server_error", "code": "server_error"}
    body = json.dumps({"error": {**error, "param": None}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": f"{prefix}http.response.start", "status": 503, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


async def _offered_session(scope: Scope, receive: Receive) -> tuple[str | None, list[Message]]:
    """Read an offer that may resume a session.

    Returns:
        The session's id, None if it resumes none; and what was received, to be received again.
    """
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"").decode("latin-1")
    if not content_type.lower().startswith("multipart/"):
        return None, []
    heard: list[Message] = []
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                heard.append(await receive())
                body += heard[-1].get("body", b"")
                if not heard[-1].get("more_body", False) or len(body) > MAX_BODY_BYTES:
                    break
        resumed = resume_in(read_offer_form(content_type, bytes(body))[1])
    except (TimeoutError, InvalidOffer):
        resumed = None  # the application says what is wrong
    return (None if resumed is None else resumed.session_id), heard


def _after(first: list[Message], receive: Receive) -> Receive:
    """Return what receives some messages again before it goes on."""
    if not first:
        return receive
    waiting = iter(first)

    async def receive_again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return receive_again


async def _nothing_more() -> Message:
    """Receive a request without a body, and then nothing."""
    await asyncio.Event().wait()
    raise AssertionError("nothing comes")


def _call_in(path: str) -> str:
    """Return the call that a path names; "" for none."""
    for parent in _CALL_PARENTS:
        _, found, rest = path.partition(parent)
        if found:
            return rest.partition("/")[0]
    return ""
