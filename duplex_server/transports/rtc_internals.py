"""Everything that is changed inside aiortc and aioice, in one place, for the versions that it was written against.

Public means do not exist for: media that goes past aiortc's own receivers and senders, news of every arriving datagram,
127.0.0.1 as an address, and an ICE restart. Knows nothing about sessions, codecs or what RTP carries.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import aioice.ice
import aioice.stun
import pylibsrtp
from aiortc import RTCDtlsTransport, RTCIceTransport, RTCPeerConnection, RTCRtpTransceiver

from duplex_server.media.rtp import is_rtcp

__all__ = [
    "MAX_ADDRESSES",
    "MAX_SOURCES",
    "IceRestart",
    "MediaListener",
    "MediaTap",
    "bypass",
    "dtls_transport",
    "message_round_trip_s",
    "offer_loopback",
    "unacknowledged_messages",
    "unknown_versions",
]

KNOWN = {"aiortc": "1.16.", "aioice": "0.13."}
"""Beginnings of the versions whose insides are known."""

LOOPBACK = "127.0.0.1"

RESTART_TIMEOUT_S = 15.0
"""How long a new path is looked for before the old one is kept."""

OLD_PATH_LINGERS_S = 2.0
"""How long the old path is kept for what is still under way on it, and for a peer that moves later than we."""

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

_MONITOR_TASK = "_RTCIceTransport__monitor_task"
_RECEIVED_BYTES = "_RTCDtlsTransport__rx_bytes"
_SENT_BYTES = "_RTCDtlsTransport__tx_bytes"

_RTP_HEADER_BYTES = 12
"""Shorter datagrams are no RTP. Source: RFC 3550 §5.1; RTCP's shortest, 8 bytes, has 14 more when it is encrypted."""


_LONGEST_BYTES = 1500
"""Of a datagram that pylibsrtp takes. What is longer raises an error that aiortc does not expect, and ends its call."""

MAX_ADDRESSES = 100
"""Addresses of one peer's that are believed: what it offers, and what its checks come from. Each costs checks of ours,
and whoever overhears one of the peer's can send it again from as many as he likes."""

MAX_SOURCES = 256
"""Streams that a peer may send in one call. libsrtp looks at one after the other for each packet, and keeps all."""


def unknown_versions() -> str:
    """Return which of aiortc and aioice is not the one whose insides are known, and what is; "" if both are."""
    for name, known in KNOWN.items():
        installed = importlib.metadata.version(name)
        if not installed.startswith(known):
            return f"{name} {installed} is installed, {name} {known}x is known"
    return ""


class MediaListener(Protocol):
    """Who takes what a :class:`MediaTap` lets out. Called on the event loop, once per packet."""

    def take_rtp(self, data: bytes, now_s: float) -> None:
        """Take a decrypted RTP packet that arrived at ``now_s``, loop time."""
        ...

    def take_rtcp(self, data: bytes, now_s: float) -> None:
        """Take a decrypted compound of RTCP packets, likewise."""
        ...


class MediaTap:
    """Media of one bundled connection: taken from the sockets before aiortc sees it, and put on them after.

    What is neither media, nor DTLS, nor STUN (RFC 7983 §7) ends here: an empty datagram, or one longer than SRTP
    allows, would end aiortc's connection. So do STUN messages that aioice stumbles over, and requests without the
    call's password: an answer would go to whomever the sender's address was forged to be.

    Args:
        dtls: the connection's transport; media passes when its handshake is done.
        listener: takes the peer's media.

    Attributes:
        arrived_s: when the peer was last heard of, loop time. Peers check every 5 s at least (RFC 7675 §5.1), so that
            one from whom nothing arrives is gone.
        n_rejected: datagrams that looked like media and were not the peer's, or like STUN and were none.
    """

    def __init__(self, dtls: RTCDtlsTransport, listener: MediaListener) -> None:
        self._dtls = dtls
        self._listener = listener
        self._path = dtls.transport._connection
        self._now_s = asyncio.get_running_loop().time
        self._received_bytes = self._sent_bytes = 0
        self.arrived_s = self._now_s()
        self.n_rejected = 0
        self._sources: set[bytes] = set()  # SSRCs of the peer's streams; at most MAX_SOURCES

    @property
    def moved_bytes(self) -> tuple[int, int]:
        """Bytes received and sent so far: media, and what DTLS carries."""
        return (
            self._received_bytes + getattr(self._dtls, _RECEIVED_BYTES),
            self._sent_bytes + getattr(self._dtls, _SENT_BYTES),
        )

    def listen(self, path: aioice.Connection | None = None) -> None:
        """Take the media that arrives at any address of ``path``, whose candidates have been gathered.

        Args:
            path: None for the connection's own.
        """
        path = path or self._path
        for protocol in path._protocols:
            if "datagram_received" not in vars(protocol):
                vars(protocol)["datagram_received"] = self._filter(path, protocol.datagram_received)

    def send_by(self, path: aioice.Connection) -> None:
        """From now on send by ``path``."""
        self._path = path

    def send_rtp(self, packet: bytes) -> bool:
        """Encrypt and send; False if there is no way to the peer, or none yet."""
        session: pylibsrtp.Session | None = self._dtls._tx_srtp
        return session is not None and self._send(session.protect(packet))

    def send_rtcp(self, compound: bytes) -> bool:
        """Encrypt and send; False if there is no way to the peer, or none yet."""
        session: pylibsrtp.Session | None = self._dtls._tx_srtp
        return session is not None and self._send(session.protect_rtcp(compound))

    def _send(self, datagram: bytes) -> bool:
        pair = self._path._nominated.get(1)
        if pair is None:
            return False
        pair.protocol.transport.sendto(datagram, pair.remote_addr)
        self._sent_bytes += len(datagram)
        return True

    def _filter(self, path: aioice.Connection, pass_on: Callable[[Any, Any], None]) -> Callable[[bytes, Any], None]:
        def datagram_received(data: bytes, addr: Any) -> None:
            kind = data[0] if data else 255
            if 127 < kind < 192:
                if _RTP_HEADER_BYTES < len(data) <= _LONGEST_BYTES:
                    self._take(data)
                return
            try:
                if 19 < kind < 64 or (kind < 4 and self._is_check(path, data, addr)):
                    pair = path._nominated.get(1)
                    if pair is None or addr[:2] == pair.remote_addr:  # a stranger's are no sign of the peer
                        self.arrived_s = self._now_s()
                    pass_on(data, addr)
            except struct.error:  # aioice takes everything for STUN, and its attributes to be as long as they should be
                self.n_rejected += 1

        return datagram_received

    def _is_check(self, path: aioice.Connection, data: bytes, addr: Any) -> bool:
        """Tell whether aioice should see what looks like STUN."""
        try:
            message = aioice.stun.parse_message(data)
            passes = message.message_class != aioice.stun.Class.REQUEST or (
                message.check_message_integrity(path.local_password.encode())
                and (
                    len(path._remote_candidates) < MAX_ADDRESSES
                    or any((peer._network_host, peer.port) == addr[:2] for peer in path._remote_candidates)
                )
            )
        except ValueError:
            passes = False
        self.n_rejected += not passes
        return passes

    def _take(self, data: bytes) -> None:
        session: pylibsrtp.Session | None = self._dtls._rx_srtp
        if session is None:
            return
        reports = is_rtcp(data)
        source = data[4:8] if reports else data[8:12]
        if source not in self._sources and len(self._sources) == MAX_SOURCES:
            self.n_rejected += 1
            return
        try:
            packet = session.unprotect_rtcp(data) if reports else session.unprotect(data)
        except pylibsrtp.Error:  # forged, repeated, too old
            self.n_rejected += 1
            return
        self._sources.add(source)
        self._received_bytes += len(data)
        self.arrived_s = now_s = self._now_s()
        if reports:
            self._listener.take_rtcp(packet, now_s)
        else:
            self._listener.take_rtp(packet, now_s)


def bypass(transceiver: RTCRtpTransceiver) -> None:
    """Have aiortc negotiate a transceiver's media and neither receive nor send any: no thread, decoder, task or report.

    Call before a description that holds it is in force on both sides.
    """

    async def leave_alone(_: Any) -> None:
        pass

    vars(transceiver.receiver)["receive"] = vars(transceiver.sender)["send"] = leave_alone


def dtls_transport(connection: RTCPeerConnection) -> RTCDtlsTransport | None:
    """Return the one transport of a bundled connection; None before anything is negotiated."""
    for transceiver in connection.getTransceivers():
        return transceiver.receiver.transport
    return connection.sctp.transport if connection.sctp else None


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


def unacknowledged_messages(connection: RTCPeerConnection) -> int:
    """Return how many pieces of data channel messages the peer has not confirmed."""
    sctp = connection.sctp
    return 0 if sctp is None else len(sctp._data_channel_queue) + len(sctp._outbound_queue) + len(sctp._sent_queue)


def message_round_trip_s(connection: RTCPeerConnection) -> float | None:
    """Return how long data channel messages take to the peer and their receipts back, smoothed; None if unknown."""
    return None if connection.sctp is None else connection.sctp._srtt


class IceRestart:
    """Move a running call to another network path (RFC 8445 §9): the path changes, DTLS and everything above it stay.

    Aiortc ignores new ICE credentials. Here a second aioice connection is made beside the first, connects with the new
    ones while the first goes on carrying media, and then takes its place. Call :meth:`prepare` before the new offer is
    applied, and :meth:`complete` after it was answered.

    Args:
        transport: the call's, connected.
        tap: carries its media; None if aiortc does.
    """

    def __init__(self, transport: RTCIceTransport, tap: MediaTap | None) -> None:
        self._transport = transport
        self._tap = tap
        self._old = transport._connection
        self._new = aioice.Connection(
            ice_controlling=self._old.ice_controlling,
            stun_server=self._old.stun_server,
            transport_policy=self._old._transport_policy,
        )

    async def prepare(self) -> None:
        """Gather new candidates; from now on descriptions carry them. Cancelled, the old path stays."""
        await self._new.gather_candidates()
        if self._tap is not None:
            self._tap.listen(self._new)
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
        if self._tap is not None:
            self._tap.send_by(self._new)
        self._transport._send, self._transport._recv = self._new.send, self._new.recv
        # The monitor of the old path would take its end for the call's.
        getattr(self._transport, _MONITOR_TASK).cancel()
        setattr(self._transport, _MONITOR_TASK, spawn(self._transport._monitor()))


async def _close_quietly(connection: aioice.Connection) -> None:
    # Nobody puts anything into the new one but the mark for its end, so it needs no bound.
    connection._queue = asyncio.Queue()  # it ends its queue when it closes, and DTLS still reads from the shared one
    await connection.close()
