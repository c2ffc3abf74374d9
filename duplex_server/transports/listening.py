"""How the server listens: its socket, and the options under which uvicorn serves these transports well.

Whoever composes a server passes these on. Knows nothing about routes.
"""

from __future__ import annotations

import socket
from typing import Any

from duplex_server.config import Settings
from duplex_server.errors import ConfigError
from duplex_server.transports.uvicorn_internals import websocket_protocol

__all__ = ["listening_socket", "server_options"]

USER_TIMEOUT_MS = 20_000
"""A peer that acknowledges nothing, or reads nothing, for so long loses its connection (RFC 5482, Linux).

Neither pings nor timeouts free the connection of a peer that completes the handshake and never reads."""

PING_EVERY_S = 20.0
"""Of WebSocket keepalive; clients of the same protocol use the same."""

PING_TIMEOUT_S = 20.0
"""Generous, because a pong waits behind whatever the peer is sending."""

SHUTDOWN_S = 5
"""How long connections that are left when the server stops may take to close; conversations have ended before."""

OVERSIZE = 2
"""uvicorn drops a connection at once for a message so many times longer than allowed, and the peer may never learn why.
Up to there we take the message, and answer with close code 1009."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Open the socket to listen on; ``::`` listens on IPv4 too.

    Args:
        host: address or name.
        port: 0 lets the system choose.

    Raises:
        ConfigError: the name is unknown, or the address is taken or not ours.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server(address[:2], family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Choose another host or port."
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return listening


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
