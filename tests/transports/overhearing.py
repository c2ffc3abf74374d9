"""Stands between the application and its sockets, and holds what it says of the Realtime API against its shape.

Order cannot be judged here: most conversations of these tests are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from duplex_server.transports.uvicorn_internals import DIRECT_TEXT, DirectText, direct_text
from tests.helpers.wire_witness import Witness

__all__ = ["Overheard"]


class Overheard:
    """An ASGI application around another one; call :meth:`verdict` when nothing is served any more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._witnesses: list[Witness] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection or request."""
        if scope["type"] != "websocket" or not _is_ours(scope):
            await self._app(scope, receive, send)
            return
        witness = Witness(ordered=False)
        self._witnesses.append(witness)

        async def overhear(message: Message) -> None:
            if message["type"] == "websocket.send":
                text = message.get("text")
                witness.hear(message["bytes"] if text is None else text)
            await send(message)

        direct = direct_text(scope)
        if direct is not None:
            extensions = {**scope["extensions"], DIRECT_TEXT: {"text": _OverheardText(direct, witness)}}
            scope = {**scope, "extensions": extensions}
        await self._app(scope, receive, overhear)

    def verdict(self) -> None:
        """Raise the first thing that was wrong, if anything was."""
        for witness in self._witnesses:
            witness.verdict()


class _OverheardText:
    """A connection's text past ASGI, with a witness."""

    def __init__(self, direct: DirectText, witness: Witness) -> None:
        self._direct = direct
        self._witness = witness

    def read_text(self, take: Callable[[str], None]) -> None:
        self._direct.read_text(take)

    def write_text(self, message: bytes) -> bool:
        if not self._direct.write_text(message):
            return False
        self._witness.hear(message.decode())
        return True


def _is_ours(scope: Scope) -> bool:
    """OpenAI's Live API and vLLM-Omni's dialect have shapes of their own, and tests of their own."""
    query = parse_qs(scope["query_string"].decode())
    return str(scope["path"]).endswith("/realtime") and "autostart" not in query
