"""The options under which uvicorn serves these transports well.

Whoever composes a server passes these on. Knows nothing about routes.
"""

from __future__ import annotations

from typing import Any

from duplex_server.config import Settings
from duplex_server.transports.uvicorn_internals import websocket_protocol

__all__ = ["server_options"]

PING_EVERY_S = 20.0
"""Of WebSocket keepalive; clients of the same protocol use the same."""

PING_TIMEOUT_S = 20.0
"""Generous, because a pong waits behind whatever the peer is sending."""

SHUTDOWN_S = 5
"""How long connections that are left when the server stops may take to close; conversations have ended before."""

OVERSIZE = 2
"""uvicorn drops a connection at once for a message so many times longer than allowed, and the peer may never learn why.
Up to there we take the message, and answer with close code 1009."""


def server_options(settings: Settings) -> dict[str, Any]:
    """Return keyword arguments for ``uvicorn.Config``, besides the application and the choice of event loop."""
    return {
        "ws": websocket_protocol(),
        "ws_max_size": OVERSIZE * settings.max_message_bytes,
        # Base64 of sound does not shrink: deflate doubles the cost of a message and saves a quarter of it.
        "ws_per_message_deflate": False,
        "ws_ping_interval": PING_EVERY_S,
        "ws_ping_timeout": PING_TIMEOUT_S,
        "ssl_certfile": settings.tls_certificate or None,
        "ssl_keyfile": settings.tls_key or None,
        "lifespan": "on",
        "timeout_graceful_shutdown": SHUTDOWN_S,
        "server_header": False,
        # What uvicorn logs below a warning holds the addresses of requests, and those may hold keys (?api_key=).
        "access_log": False,
        "log_config": None,
        "log_level": "warning",
    }
