"""Everything that is changed inside aiortc and aioice, in one place, for the versions that it was written against.

Public means do not exist for: a jitter buffer without delay, news of every arriving datagram, 127.0.0.1 as an address,
and an ICE restart. Knows nothing about sessions.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import aioice.ice
from aiortc import RTCIceTransport, RTCPeerConnection, RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer

from duplex_server.errors import ConfigError

__all__ = [
    "IceRestart",
    "PacketSink",
    "check_versions",
    "ice_transport",
    "offer_loopback",
    "read_stats",
    "take_over",
    "unacknowledged_messages",
    "watch_arrivals",
]

KNOWN = {"aiortc": "1.16.", "aioice": "0.13."}
"""Beginnings of the versions whose insides are known."""

LOOPBACK = "127.0.0.1"

RESTART_TIMEOUT_S = 15.0
"""How long a new path is looked for before the old one is kept."""

OLD_PATH_LINGERS_S = 2.0
"""How long the old path is kept for what is still under way on it, and for a peer that moves later than we."""

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

_JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_MONITOR_TASK = "_RTCIceTransport__monitor_task"


class PacketSink(Protocol):
    """What stands in for aiortc's jitter buffer."""

    def add(self, packet: Any) -> tuple[bool, None]: ...


def check_versions() -> None:
    """Make sure that aiortc and aioice are the ones whose insides are known.

    Raises:
        ConfigError: they are not; says what to install.
    """
    for name, known in KNOWN.items():
        installed = importlib.metadata.version(name)
        if not installed.startswith(known):
            raise ConfigError(
                f"{name} {installed} is installed, but WebRTC calls need {name} {known}x. Run: "
                f"pip install '{name}~={known}0'."
            )


def take_over(receiver: RTCRtpReceiver, sink: PacketSink) -> None:
    """Give every RTP packet that ``receiver`` gets to ``sink``, as it arrives, instead of to aiortc's jitter buffer.

    Aiortc's buffer delays audio by 80 ms, and by 280 ms for ever after one lost packet.
    """
    assert isinstance(getattr(receiver, _JITTER_BUFFER), JitterBuffer), "taken over already, or aiortc has changed"
    setattr(receiver, _JITTER_BUFFER, sink)


def watch_arrivals(connection: aioice.Connection, arrived: Callable[[], None]) -> None:
    """Have ``arrived`` called for every datagram of the peer's, be it media, a message or an ICE check.

    Peers check every 5 s at least (RFC 7675 §5.1), so that a peer from whom nothing arrives is gone.
    """
    data_received, request_received = connection.data_received, connection.request_received

    def on_data(data: bytes, component: int) -> None:
        arrived()
        data_received(data, component)

    def on_request(message: Any, addr: tuple[str, int], protocol: Any) -> None:
        arrived()
        request_received(message, addr, protocol)

    connection.data_received = on_data  # type: ignore[method-assign]
    connection.request_received = on_request  # type: ignore[method-assign]


def offer_loopback() -> None:
    """Make 127.0.0.1 a candidate on hosts that have no other address; elsewhere nothing changes. Safe to call twice."""
    original = aioice.ice.get_host_addresses
    if getattr(original, "falls_back", False):
        return

    def get_host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        addresses = original(use_ipv4, use_ipv6)
        return addresses if addresses or not use_ipv4 else [LOOPBACK]

    get_host_addresses.falls_back = True  # type: ignore[attr-defined]
    aioice.ice.get_host_addresses = get_host_addresses


def ice_transport(connection: RTCPeerConnection) -> RTCIceTransport | None:
    """Return the one ICE transport of a bundled connection; None before anything is negotiated."""
    for transceiver in connection.getTransceivers():
        return transceiver.receiver.transport.transport
    return connection.sctp.transport.transport if connection.sctp else None


def unacknowledged_messages(connection: RTCPeerConnection) -> int:
    """Return how many pieces of data channel messages the peer has not confirmed."""
    sctp = connection.sctp
    return 0 if sctp is None else len(sctp._data_channel_queue) + len(sctp._outbound_queue) + len(sctp._sent_queue)


class IceRestart:
    """Move a running call to another network path (RFC 8445 §9): the path changes, DTLS and everything above it stay.

    Aiortc ignores new ICE credentials. Here a second aioice connection is made beside the first, connects with the new
    ones while the first goes on carrying media, and then takes its place. Call :meth:`prepare` before the new offer is
    applied, and :meth:`complete` after it was answered.

    Args:
        transport: the call's, connected.
        arrived: as in :func:`watch_arrivals`.
    """

    def __init__(self, transport: RTCIceTransport, arrived: Callable[[], None]) -> None:
        self._transport = transport
        self._arrived = arrived
        self._old = transport._connection
        self._new = aioice.Connection(
            ice_controlling=self._old.ice_controlling,
            stun_server=self._old.stun_server,
            transport_policy=self._old._transport_policy,
        )

    async def prepare(self) -> None:
        """Gather new candidates; from now on descriptions carry them. Cancelled, the old path stays."""
        await self._new.gather_candidates()
        watch_arrivals(self._new, self._arrived)
        # DTLS reads from the shared queue, whichever path a datagram came by.
        self._new._queue = self._old._queue
        self._describe(self._new)

    async def complete(self, username: str, password: str, spawn: Spawn) -> None:
        """Connect with the peer's new credentials, then let the new path carry everything and close the old one.

        Cancelled, or without a new path, it leaves the old one as it was.

        Args:
            username: the peer's new ``ice-ufrag``.
            password: the peer's new ``ice-pwd``.
            spawn: starts a task that lives as long as the call.

        Raises:
            ConnectionError: no new path was found.
            TimeoutError: none was found in time.
        """
        moved = False
        try:
            self._new.remote_username, self._new.remote_password = username, password
            async with asyncio.timeout(RESTART_TIMEOUT_S):
                await self._new.connect()
            self._move(spawn)
            moved = True
            await asyncio.sleep(OLD_PATH_LINGERS_S)
        finally:
            if moved:
                await _close_quietly(self._old)
            else:
                await self.abandon()

    async def abandon(self) -> None:
        """Keep the old path, close the new one."""
        self._describe(self._old)
        await _close_quietly(self._new)

    def _describe(self, connection: aioice.Connection) -> None:
        """Have descriptions speak of ``connection``, and new candidates go to it."""
        gatherer = self._transport.iceGatherer
        gatherer._connection = self._transport._connection = connection
        gatherer._remote_candidates_end = False

    def _move(self, spawn: Spawn) -> None:
        self._transport._send, self._transport._recv = self._new.send, self._new.recv
        # The monitor of the old path would take its end for the call's.
        getattr(self._transport, _MONITOR_TASK).cancel()
        setattr(self._transport, _MONITOR_TASK, spawn(self._transport._monitor()))


async def _close_quietly(connection: aioice.Connection) -> None:
    # Nobody puts anything into the new one but the mark for its end, so it needs no bound.
    connection._queue = asyncio.Queue()  # it ends its queue when it closes, and DTLS still reads from the shared one
    await connection.close()


def read_stats(reports: Iterable[Any]) -> tuple[dict[str, float], int, int]:
    """Return what a connection's reports say of its quality, and the bytes received and sent so far."""
    quality: dict[str, float] = {}
    received = sent = 0
    for report in reports:
        if report.type == "inbound-rtp" and report.kind == "audio":
            quality["jitter_ms"] = report.jitter / 48  # RTP clock units of 48 kHz
            quality["received_packets"] = float(report.packetsReceived)
        elif report.type == "remote-inbound-rtp" and report.roundTripTime is not None:
            quality["rtt_ms"] = report.roundTripTime * 1000
        elif report.type == "transport":
            received, sent = report.bytesReceived, report.bytesSent
    return quality, received, sent
