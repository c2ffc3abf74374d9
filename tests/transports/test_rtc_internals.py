from __future__ import annotations

import asyncio
import importlib.metadata
import struct
from types import SimpleNamespace
from typing import Any

import aioice.ice
import aioice.stun
import pytest
from pylibsrtp import Policy, Session

from duplex_server.media.rtp import RtpPacket, write_rtp
from duplex_server.transports import rtc_internals
from duplex_server.transports.rtc_internals import MAX_SOURCES, MediaTap, offer_loopback, unknown_versions
from tests.helpers.virtual_time import run


def test_the_installed_versions_are_the_known_ones() -> None:
    assert unknown_versions() == ""


def test_other_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0")
    assert unknown_versions() == "aiortc 2.0.0 is installed, aiortc 1.16.x is known"


def test_loopback_is_an_address_only_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["10.0.0.1"]
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: list(addresses))
    offer_loopback()
    patched = aioice.ice.get_host_addresses
    offer_loopback()
    assert aioice.ice.get_host_addresses is patched
    assert patched(True, True) == ["10.0.0.1"]
    addresses.clear()
    assert patched(True, True) == [rtc_internals.LOOPBACK]
    assert patched(False, True) == []


class Socket:
    """What a tap listens to: a protocol of aioice's, reduced to what is used."""

    def __init__(self) -> None:
        self.passed_on: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.passed_on.append(data)


class Listener:
    def __init__(self) -> None:
        self.rtp: list[bytes] = []
        self.rtcp: list[bytes] = []

    def take_rtp(self, data: bytes, now_s: float) -> None:
        self.rtp.append(data)

    def take_rtcp(self, data: bytes, now_s: float) -> None:
        self.rtcp.append(data)


class Line:
    """A tap on a connection made of nothing but its parts that a tap touches, and the peer's end of its encryption."""

    def __init__(self) -> None:
        keys = [bytes([n]) * 30 for n in (1, 2)]
        self.peer = Session(Policy(key=keys[0], ssrc_type=Policy.SSRC_ANY_OUTBOUND))
        self.socket, self.listener = Socket(), Listener()
        self.path = SimpleNamespace(
            _protocols=[self.socket], _nominated={}, _remote_candidates=[], local_password="secret"
        )
        dtls: Any = SimpleNamespace(
            transport=SimpleNamespace(_connection=self.path),
            _rx_srtp=Session(Policy(key=keys[0], ssrc_type=Policy.SSRC_ANY_INBOUND)),
            _tx_srtp=Session(Policy(key=keys[1], ssrc_type=Policy.SSRC_ANY_OUTBOUND)),
            _RTCDtlsTransport__rx_bytes=0,
            _RTCDtlsTransport__tx_bytes=0,
        )
        self.dtls = dtls
        self.tap = MediaTap(dtls, self.listener)
        self.tap.listen()
        self.tap.listen()

    def arrive(self, data: bytes) -> None:
        self.socket.datagram_received(data, ("10.0.0.2", 5))


def packet(number: int, payload: bytes = b"sound", payload_type: int = 111) -> bytes:
    return write_rtp(RtpPacket(payload_type, False, number, 960 * number, 7, payload))


REPORT = bytes.fromhex("80c9000100000007")


def test_media_is_decrypted_and_goes_to_the_listener_alone() -> None:
    async def scenario() -> None:
        line = Line()
        protected = line.peer.protect(packet(1))
        line.arrive(protected)
        line.arrive(line.peer.protect_rtcp(REPORT))
        assert line.listener.rtp == [packet(1)]
        assert line.listener.rtcp == [REPORT]
        assert not line.socket.passed_on
        assert line.tap.moved_bytes[0] == len(protected) + len(line.peer.protect_rtcp(REPORT))

    run(scenario())


def test_stun_and_dtls_go_on_to_aiortc() -> None:
    async def scenario() -> None:
        line = Line()
        datagrams = [request(), *(bytes([first]) + b"x" * 20 for first in (20, 22, 63))]
        for datagram in datagrams:
            line.arrive(datagram)
        assert line.socket.passed_on == datagrams

    run(scenario())


def test_what_belongs_to_nobody_ends_at_the_tap() -> None:
    """Of these, the empty datagram and the one longer than SRTP takes would end aiortc's connection."""

    async def scenario() -> None:
        line = Line()
        sent = line.peer.protect(packet(1))
        forged = sent[:-1] + bytes([sent[-1] ^ 1])
        for garbage in (
            b"",
            b"\x80",
            bytes([64]) * 40,
            b"\xff" * 40,
            forged,
            b"\x80\x6f" + bytes(3000),
            b"\x80\xc9" * 9,
        ):
            line.arrive(garbage)
        assert not line.socket.passed_on
        assert not line.listener.rtp
        assert line.tap.n_rejected == 2
        line.arrive(sent)
        line.arrive(sent)
        assert line.listener.rtp == [packet(1)], "once"

    run(scenario())


def request(password: str = "secret") -> bytes:
    message = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST)
    message.attributes["PRIORITY"] = 1
    message.add_message_integrity(password.encode())
    return bytes(message)


def test_stun_that_is_not_the_peers_ends_at_the_tap() -> None:
    """Aioice parses attributes before it asks who sent them, and answers whatever address the sender gave itself."""

    async def scenario() -> None:
        line = Line()
        short_priority = bytes.fromhex("0001 0008 2112a442") + bytes(12) + bytes.fromhex("0024 0001 00000000")
        with pytest.raises(struct.error):
            aioice.stun.parse_message(short_priority)
        for garbage in (short_priority, bytes(20), b"\x00", request("another secret")):
            line.arrive(garbage)
        assert line.tap.n_rejected == 4
        assert not line.socket.passed_on
        line.arrive(request())
        assert len(line.socket.passed_on) == 1

    run(scenario())


def test_dtls_that_aioice_takes_for_stun_harms_nobody() -> None:
    async def scenario() -> None:
        line = Line()
        protocol = aioice.ice.StunProtocol(SimpleNamespace())  # type: ignore[arg-type]
        line.path._protocols.append(protocol)
        line.tap.listen()
        short_priority = bytes.fromhex("1601 0008 2112a442") + bytes(12) + bytes.fromhex("0024 0001 00000000")
        protocol.datagram_received(short_priority, ("10.0.0.2", 5))
        assert line.tap.n_rejected == 1

    run(scenario())


def test_a_peer_has_only_so_many_addresses() -> None:
    async def scenario() -> None:
        line = Line()
        line.path._remote_candidates += [SimpleNamespace(_network_host=f"10.0.1.{n}", port=5) for n in range(99)]
        line.arrive(request())
        line.path._remote_candidates.append(SimpleNamespace(_network_host="10.0.0.2", port=5))
        line.arrive(request())
        line.socket.datagram_received(request(), ("10.0.0.9", 5))
        assert len(line.socket.passed_on) == 2
        assert line.tap.n_rejected == 1

    run(scenario())


def test_what_a_stranger_sends_is_no_sign_of_the_peer() -> None:
    async def scenario() -> None:
        line = Line()
        check = request()
        began_s = line.tap.arrived_s
        await asyncio.sleep(1)
        line.arrive(check)
        assert line.tap.arrived_s == began_s + 1, "while there is no pair, anybody may be the peer"
        line.path._nominated[1] = SimpleNamespace(remote_addr=("10.0.0.2", 5))
        await asyncio.sleep(1)
        line.socket.datagram_received(check, ("10.0.0.3", 5))
        assert line.tap.arrived_s == began_s + 1
        line.arrive(check)
        assert line.tap.arrived_s == began_s + 2

    run(scenario())


def test_a_peer_may_send_only_so_many_streams() -> None:
    """Libsrtp would keep each, and look through all of them for every packet."""

    async def scenario() -> None:
        line = Line()
        for ssrc in range(MAX_SOURCES + 10):
            line.arrive(line.peer.protect(write_rtp(RtpPacket(111, False, 1, 960, ssrc, b"sound"))))
        assert len(line.listener.rtp) == MAX_SOURCES
        assert line.tap.n_rejected == 10
        line.arrive(line.peer.protect(write_rtp(RtpPacket(111, False, 2, 1920, 0, b"sound"))))
        assert len(line.listener.rtp) == MAX_SOURCES + 1, "those that there are go on"

    run(scenario())


def test_before_the_handshake_media_is_dropped_and_none_is_sent() -> None:
    async def scenario() -> None:
        line = Line()
        line.dtls._rx_srtp = line.dtls._tx_srtp = None
        line.arrive(line.peer.protect(packet(1)))
        assert not line.listener.rtp
        assert not line.socket.passed_on
        assert not line.tap.send_rtp(packet(1))
        assert not line.tap.send_rtcp(REPORT)

    run(scenario())


def test_media_leaves_by_the_pair_that_was_nominated_and_by_the_new_path_after_a_move() -> None:
    async def scenario() -> None:
        line = Line()
        assert not line.tap.send_rtp(packet(0)), "no pair yet"
        paths = [line.path, SimpleNamespace(_protocols=[], _nominated={})]
        sent: list[tuple[int, Any]] = []
        for n, path in enumerate(paths):
            transport = SimpleNamespace(sendto=lambda data, addr, n=n: sent.append((n, addr)))
            pair = SimpleNamespace(protocol=SimpleNamespace(transport=transport), remote_addr=("10.0.0.2", n))
            path._nominated[1] = pair
        assert line.tap.send_rtp(packet(1))
        line.tap.send_by(paths[1])  # type: ignore[arg-type]
        assert line.tap.send_rtcp(REPORT)
        assert sent == [(0, ("10.0.0.2", 0)), (1, ("10.0.0.2", 1))]
        assert line.tap.moved_bytes[1] > len(packet(1)) + len(REPORT)

    run(scenario())
