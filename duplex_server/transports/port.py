"""The port that the server listens on, and what people are told of it. Knows nothing about what is served."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

from duplex_server.config import Settings, is_loopback
from duplex_server.errors import ConfigError

__all__ = ["invitation", "listening_socket", "reserving_socket"]

BACKLOG = 1024
"""Connections that may wait to be taken."""

USER_TIMEOUT_MS = 20_000
"""A peer that acknowledges nothing, or reads nothing, for so long loses its connection (RFC 5482, Linux).

Neither pings nor timeouts free the connection of a peer that completes the handshake and never reads."""


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
            # Needed for a port on which connections were closed a moment ago. Left on, it would let others listen.
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
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
