"""What a call needs of the media below it, whoever carries that. Knows nothing about events or sessions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from aiortc import RTCPeerConnection

from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_camera import Eye
from duplex_server.transports.rtc_fallback import AiortcMedia
from duplex_server.transports.rtc_internals import IceRestart, unknown_versions
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_path import MediaPath
from duplex_server.types import INPUT_RATE_HZ, Pcm

__all__ = ["Media", "make_media", "why_not_ours"]


class Media(Protocol):
    """Carries the media of one call: sound both ways, the camera's pictures in."""

    @property
    def arrived_s(self) -> float:
        """When the peer was last heard of, loop time."""
        ...

    @property
    def moved_bytes(self) -> tuple[int, int]:
        """Bytes received from the peer and sent to it so far."""
        ...

    @property
    def unconfirmed(self) -> int:
        """How much of what was sent on data channels the peer has not confirmed; 0 if nothing."""
        ...

    def attach(self) -> None:
        """Take charge of every track of the peer's newest description; call before it is answered."""
        ...

    def settle(self) -> None:
        """Follow what was agreed; call when both descriptions are in force."""
        ...

    def restart(self) -> IceRestart:
        """Begin a move to another network path.

        Raises:
            InvalidOffer: that cannot be done with the installed aiortc.
        """
        ...

    def send(self, pcm: Pcm) -> None:
        """Send speech: float32 at 24 kHz, whole ticks. Before there is a track it goes nowhere."""
        ...

    def clear(self) -> None:
        """Drop speech that has not left, and send silence."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Return what is known of the connection's quality."""
        ...

    def close(self) -> None:
        """Say goodbye, and stop everything. Safe to call twice."""
        ...


@functools.cache
def why_not_ours() -> str:
    """Return why calls have to use aiortc's own media path; "" if they can use ours."""
    return unknown_versions()


def make_media(
    connection: RTCPeerConnection,
    hear: Callable[[MediaAudio], None],
    eye: Eye | None,
    spawn: Callable[[Coroutine[Any, Any, None]], object],
    pacer: Pacer,
    *,
    offering: bool = False,
    rate_hz: int = INPUT_RATE_HZ,
) -> Media:
    """Make what carries the media of one call: our own path, or aiortc's where nobody has looked into aiortc.

    Args:
        connection: the call's, before any description was applied.
        hear: given decoded sound, on the event loop.
        eye: who looks at the peer's camera; None if nobody does.
        spawn: starts a task that lives at most as long as the call.
        pacer: of this event loop.
        offering: whether this end makes the offers.
        rate_hz: of the sound that is delivered.
    """
    if why_not_ours():
        return AiortcMedia(connection, hear, eye, spawn, rate_hz)
    return MediaPath(connection, hear, eye, spawn, pacer, offering=offering, rate_hz=rate_hz)
