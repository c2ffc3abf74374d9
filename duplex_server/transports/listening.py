"""How the server listens: its socket, and the options under which uvicorn serves these transports well.

Whoever composes a server passes these on. Knows nothing about routes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

from duplex_server.config import Settings, is_loopback
from duplex_server.errors import ConfigError
from duplex_server.transports.uvicorn_internals import websocket_protocol

__all__ = ["invitation", "listening_socket", "reserving_socket", "server_options"]

BACKLOG = 1024
"""Connections that may wait to be taken."""

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


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Open the socket to listen on; ``::`` listens on IPv4 too.

    Args:
        host: address or name.
        port: 0 lets the system choose.
        shared: whether other processes of ours listen on the same port; the system deals connections out.

    Raises:
        ConfigError: the name is unknown, or the address is taken or not ours.
    """
    with _told_of_failure(host, port):
        family, address, both = _resolved(host, port)
        listening = socket.create_server(
            address, family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=shared
        )
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return listening


def reserving_socket(host: str, port: int) -> socket.socket:
    """Hold a port for processes that will listen on it with :func:`listening_socket`, ``shared``.

    Nobody can connect to this socket; while it is open, no other user of the machine gets the port.

    Raises:
        ConfigError: as there. A port on which another server listens is refused, even if that one shares it.
    """
    with listening_socket(host, port) as alone:  # were it shared at once, another server's would be shared with it
        port = alone.getsockname()[1]
    with _told_of_failure(host, port):
        family, address, both = _resolved(host, port)
        reserving = socket.socket(family)
        try:
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                reserving.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            reserving.bind(address)
        except BaseException:
            reserving.close()
            raise
    return reserving


def invitation(settings: Settings, listening: socket.socket) -> str:
    """Return the sentence that tells a person where the server is."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    name = "localhost" if is_loopback(settings.host) else host
    if ipaddress.ip_address(host).is_unspecified:
        name = socket.gethostname()
    shown = f"[{name}]" if ":" in name else name
    url = f"{scheme}://{shown}:{port}"
    if not settings.web_client:
        return f"Ready at {url}/v1/realtime. Stop with Ctrl-C."
    return f"Ready. Open {url}/ in a browser, press Start, and speak. Stop with Ctrl-C."


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int], bool]:
    """Return family, address, and whether it is to take IPv4 besides IPv6."""
    family, _, _, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return family, (str(address[0]), int(address[1])), both


@contextlib.contextmanager
def _told_of_failure(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Choose another host or port."
        ) from error


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
