"""The border between a conversation and the connection that carries it.

Knows the wire's events; knows nothing about what they mean to a listener.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from duplex_server.errors import AuthError, CapacityError, ConfigError, DuplexError, TransportError
from duplex_server.types import Pcm
from duplex_server.wire.events import ClientEvent, ServerEvent, UnknownEvent

__all__ = ["RETRY_AFTER_S", "Link", "Received", "ReceivedAudio", "address", "refusal"]

RETRY_AFTER_S = 5.0
"""When to try a full server again if it does not say."""


@dataclass(frozen=True, slots=True)
class ReceivedAudio:
    """Audio from the server, decoded."""

    pcm: Pcm
    """float32 ``[n]``, mono, 24 kHz, −1..1."""
    received_s: float
    """When it arrived, seconds of ``loop.time()``."""
    response_id: str = ""
    """The response it belongs to; empty on a media track, where ``output_audio_buffer.started`` tells."""
    item_id: str = ""
    position_samples: int | None = None
    """Where it belongs on the sender's media clock, samples at 24 kHz; None without a media track: it just follows."""
    server_event_seq: int | None = None
    """Number of the event that brought it, where the session can be resumed."""


Received = ServerEvent | UnknownEvent | ReceivedAudio
"""What a conversation yields. Audio that came as an event is a :class:`ReceivedAudio` instead."""


class Link(Protocol):
    """One connection to a server, open."""

    @property
    def media_track(self) -> bool:
        """Whether audio travels on a media track beside the events."""
        ...

    async def send(self, event: ClientEvent) -> bool:
        """Send an event; return False, and send nothing, when the server has closed the connection in good order.

        Raises:
            DuplexError: the connection was closed for a reason, or broke.
        """
        ...

    async def send_audio(self, pcm: Pcm, rate_hz: int) -> bool:
        """Send audio from the microphone, float32 mono ``[n]``, at real-time pace; else as :meth:`send`."""
        ...

    async def receive(self) -> Received | None:
        """Wait for the next thing that comes; None when the server has closed the connection in good order.

        Cancelled, it loses nothing.

        Raises:
            DuplexError: the connection was closed for a reason, or broke.
        """
        ...


def address(server: str, *, path: str, scheme: str, query: dict[str, str] | None = None) -> str:
    """Return the URL of an endpoint.

    Args:
        server: ``http://host:port``, ``wss://host/v1/realtime?model=x`` or just ``host:port``. Where it already names a
            path under ``/v1/realtime``, that is replaced by ``path``; any other path is a prefix. Its query is kept.
        path: e.g. ``/v1/realtime/calls``.
        scheme: ``"ws"`` or ``"http"``; becomes its secure form where ``server`` is secure.
        query: more parameters.

    Raises:
        ConfigError: ``server`` is not an address of this kind.
    """
    parts = urlsplit(server if "://" in server else f"http://{server}")
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
        raise ConfigError(f"{server!r} is not the address of a server. Give one like http://127.0.0.1:8000.")
    prefix = parts.path.split("/v1/realtime")[0].rstrip("/")
    secure = "s" if parts.scheme in ("https", "wss") else ""
    joined = "&".join(filter(None, [parts.query, urlencode(query or {})]))
    return SplitResult(f"{scheme}{secure}", parts.netloc, f"{prefix}{path}", joined, "").geturl()


def refusal(status: int, message: str, retry_after: str | None) -> DuplexError:
    """Return the error for an HTTP answer other than the one that was hoped for."""
    if status == 401:
        return AuthError(message or "The server asks for a key, or for another one.")
    if status == 503:
        return CapacityError(float(retry_after) if retry_after and retry_after.isdigit() else RETRY_AFTER_S)
    return TransportError(f"the server answered with HTTP {status}{': ' if message else ''}{message}")
