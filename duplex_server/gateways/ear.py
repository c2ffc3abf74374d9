"""Stands between a peer that speaks first and the application, until the peer has said whose it is.

Knows nothing about where gateways are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from duplex_server.errors import InvalidEvent
from duplex_server.gateways.tunnel import Message, Receive, Scope, Send, Tunnel
from duplex_server.transports.uvicorn_internals import DIRECT_TEXT, direct_text
from duplex_server.wire.codec import decode_client
from duplex_server.wire.events import SessionResume

__all__ = ["Ear"]


class Ear:
    """Hears a WebSocket's first event before the application does. A ``DirectText``, where the server offers one.

    Args:
        scope: the connection's.
        receive: from the peer.
        send: to the peer.
        find: opens a tunnel to whoever has a session; None if that is nobody else.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, find: Callable[[str], Awaitable[Tunnel | None]]
    ) -> None:
        self._receive = receive
        self._send = send
        self._find = find
        self._decided = False
        self._take: Callable[[str], None] | None = None
        self._direct = direct_text(scope)
        self.tunnel: Tunnel | None = None
        """To the gateway that has the session; the application was told that the peer has left."""
        self.heard: list[Message] = []
        """What that gateway is to hear first."""
        self.scope = scope
        """What the application is to be given."""
        if self._direct is not None:
            self.scope = {**scope, "extensions": {**scope["extensions"], DIRECT_TEXT: {"text": self}}}

    async def receive(self) -> Message:
        """Receive a message for the application."""
        while True:
            message = await self._receive()
            text = message.get("text") if message["type"] == "websocket.receive" else None
            if self._decided or not text:
                return message
            if await self._is_elsewhere(text):
                self.heard = [{"type": "websocket.connect"}, message]
                return {"type": "websocket.disconnect", "code": 1005, "reason": ""}
            if self._take is None:
                return message
            self._take(text)
            self._step_aside()

    async def send(self, message: Message) -> None:
        """Send a message of the application, unless its peer is somebody else's now."""
        if self.tunnel is None:
            await self._send(message)

    def read_text(self, take: Callable[[str], None]) -> None:
        """Hand text over as it comes, but the first event only when it is known to be ours."""
        self._take = take

    def write_text(self, message: bytes) -> bool:
        """Write text at once, unless the peer is somebody else's now."""
        return self.tunnel is not None or (self._direct is not None and self._direct.write_text(message))

    def _step_aside(self) -> None:
        """Let text go past ASGI once it is known whose it is."""
        if self._decided and self._direct is not None and self._take is not None:
            self._direct.read_text(self._take)

    async def _is_elsewhere(self, text: str) -> bool:
        try:
            event = decode_client(text)
        except InvalidEvent:
            return False  # it is answered, and another one may follow
        self._decided = True
        if isinstance(event, SessionResume):
            self.tunnel = await self._find(event.session_id)
        return self.tunnel is not None
