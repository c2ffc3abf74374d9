"""One caller of :mod:`benchmarks.media`, made as cheap as it can be: aiortc shakes hands, and then only bytes move.

Opus packets are sent that were encoded before, and received packets are kept with their time of arrival, to be
decrypted and decoded after the measurement. Knows aiortc's insides, of the version that this project needs anyway;
knows nothing about what is measured.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
import urllib.request
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pylibsrtp
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from benchmarks.udp_relay import UdpRelay
from duplex_server.transports.rtc_internals import offer_loopback

__all__ = ["Call", "Door", "NoCall", "called"]

_CONNECT_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0
_HEADER_BYTES = 12
_STAMP_STEP = 960
_HEADER = struct.Struct("!BBHII")


class NoCall(Exception):
    """The server did not answer, or no media could be exchanged with it."""


@dataclass(frozen=True, slots=True)
class Door:
    """How a server is called."""

    path: str
    json: bool
    """Whether offer and answer travel as ``{"sdp", "type"}``; if not they are the body as they are."""
    channel: str
    """Label of the data channel."""


class _Idle(MediaStreamTrack):
    """A track that never has anything, so that aiortc's own media path does nothing."""

    kind = "audio"

    async def recv(self) -> Any:
        await asyncio.Event().wait()


class Call:
    """A call that stands. Made by :func:`called`.

    Attributes:
        packets: what was received: time (monotonic clock) and RTP datagram, encrypted; of callers that do not listen
            only its header.
        departures_s: when each packet was sent, monotonic clock.
        connect_s: from the offer until both directions were open.
        listens: whether whole packets are kept.
        first: number of the track's packet that this caller begins with.
    """

    def __init__(self, *, listens: bool, first: int = 0) -> None:
        self.packets: list[tuple[float, bytes]] = []
        self.departures_s = array("d")
        self.connect_s = 0.0
        self.first = first
        self.listens = listens
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._transceiver = self._connection.addTransceiver(_Idle(), direction="sendrecv")
        self._number = 0
        self._progress = asyncio.Event()
        self._connection.on("connectionstatechange", self._progress.set)

    async def open(self, url: str, door: Door, relay: UdpRelay | None) -> None:
        """Connect; see :func:`called`."""
        began_s = time.monotonic()
        self._channel = self._connection.createDataChannel(door.channel)
        self._channel.on("open", self._progress.set)
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = self._connection.localDescription.sdp
        if relay is not None:
            offer = relay.offer(offer)
        try:
            answer = await asyncio.to_thread(_post, url + door.path, offer, door.json, f"caller{id(self)}")
        except (OSError, ValueError, KeyError) as error:
            raise NoCall(f"the offer was not answered: {error}") from error
        if relay is not None:
            answer = relay.answer(answer)
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except ValueError as error:
            raise NoCall(f"the answer cannot be used: {error}") from error
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                while self._connection.connectionState != "connected" or self._channel.readyState != "open":
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise NoCall(f"no media after {_CONNECT_TIMEOUT_S:.0f} s: {self._connection.connectionState}") from None
        self._take_over()
        self.connect_s = time.monotonic() - began_s

    def _take_over(self) -> None:
        """Send and receive beside aiortc from now on, with the keys that it agreed on."""
        dtls = self._transceiver.sender.transport
        ice = dtls.transport._connection
        pair = ice._nominated[1]
        self._socket, self._address = pair.protocol.transport, pair.remote_addr
        self._protect, self._unprotect = dtls._tx_srtp.protect, dtls._rx_srtp.unprotect
        self._payload_type = int(self._transceiver._codecs[0].payloadType or 0)
        self._ssrc = self._transceiver.sender._ssrc
        for protocol in ice._protocols:
            protocol.datagram_received = self._taking(protocol.datagram_received)  # type: ignore[method-assign]

    def _taking(self, others: Callable[..., None]) -> Callable[..., None]:
        keep, clock, n_bytes = self.packets.append, time.monotonic, None if self.listens else _HEADER_BYTES

        def take(datagram: bytes, address: Any) -> None:
            if 127 < datagram[0] < 192 and not 191 < datagram[1] < 224:  # RTP, not RTCP: RFC 5761 §4
                keep((clock(), datagram[:n_bytes]))
            else:
                others(datagram, address)

        return take

    @property
    def stands(self) -> bool:
        """Whether the call still stands."""
        return bool(self._connection.connectionState == "connected")

    @property
    def number(self) -> int:
        """Of the packet that is sent next, from 0 on."""
        return self._number

    def send(self, payload: bytes) -> None:
        """Send one Opus packet of 20 ms; nothing, once the connection is gone."""
        if self._socket.is_closing():
            return
        number = self._number
        header = _HEADER.pack(
            0x80,
            self._payload_type | (0 if number else 0x80),
            number & 0xFFFF,
            number * _STAMP_STEP & 0xFFFFFFFF,
            self._ssrc,
        )
        self.departures_s.append(time.monotonic())
        self._socket.sendto(self._protect(header + payload), self._address)
        self._number += 1

    def show(self, message: str) -> None:
        """Send a text on the data channel, while it is open."""
        if self._channel.readyState == "open":
            self._channel.send(message)

    def payloads(self) -> list[tuple[float, bytes, bytes]]:
        """Decrypt what was received, once: time of arrival, RTP header, payload. Only of a caller that listens."""
        assert self.listens
        found = []
        for at_s, datagram in self.packets:
            try:
                packet = self._unprotect(datagram)
            except pylibsrtp.Error:  # a duplicate, or nothing of the server's
                continue
            start = _HEADER_BYTES + 4 * (packet[0] & 0x0F)
            if packet[0] & 0x10:
                start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
            found.append((at_s, packet[:_HEADER_BYTES], packet[start:]))
        return found

    async def close(self) -> None:
        """Hang up."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._connection.close()
        except TimeoutError:
            pass  # a server that is overloaded does not keep the benchmark


@asynccontextmanager
async def called(
    url: str, door: Door, *, listens: bool, first: int = 0, relay: UdpRelay | None = None
) -> AsyncIterator[Call]:
    """Call a server, and hang up at the end of the block.

    Args:
        url: the server's, without a path.
        door: how it is called.
        listens: whether whole packets are kept, for :meth:`Call.payloads`.
        first: see :class:`Call`.
        relay: a network that the call's datagrams pass through.

    Raises:
        NoCall: it came to no call.
    """
    offer_loopback()
    call = Call(listens=listens, first=first)
    try:
        await call.open(url, door, relay)
        yield call
    finally:
        await call.close()


def _post(url: str, sdp: str, as_json: bool, caller: str) -> str:
    """Send an offer and return the answer; blocks."""
    body = json.dumps({"sdp": sdp, "type": "offer", "webrtc_id": caller}) if as_json else sdp
    kind = "application/json" if as_json else "application/sdp"
    request = urllib.request.Request(url, body.encode(), {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=_CONNECT_TIMEOUT_S) as response:
        answer = response.read().decode()
    return str(json.loads(answer)["sdp"]) if as_json else str(answer)
