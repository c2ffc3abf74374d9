"""A bad network on loopback: a relay for the datagrams of one call that loses, delays, reorders and repeats them.

The relay stands between the two ends because the candidates of their session descriptions are rewritten on the way.
What happens to a datagram is decided by :class:`LossyPath`, which is given the time and a seed, and can be repeated.
Knows nothing about what the datagrams hold.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["Impairment", "LossyPath", "NoCandidate", "UdpRelay", "relayed"]

Address = tuple[str, int]

_CANDIDATE = re.compile(r"a=candidate:(\S+) 1 udp (\d+) (\d+\.\d+\.\d+\.\d+) (\d+) typ host", re.IGNORECASE)


class NoCandidate(Exception):
    """A session description names no IPv4 address of its host that a relay could stand before."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a path does to datagrams. Shares are 0..1, and each datagram has its own luck."""

    lost: float = 0.0
    """Share that is dropped; 1 is an outage."""
    bursts: float = 0.0
    """Share of datagrams with which a burst begins: a row of them that is dropped."""
    burst_packets: tuple[int, int] = (3, 10)
    """Shortest and longest burst; all lengths between are equally likely."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Longest extra delay; all between 0 and it are equally likely."""
    keeps_order: bool = True
    """Whether what is delayed more also delays what comes after it, as in a queue, instead of being overtaken."""
    reordered: float = 0.0
    """Share that is held back by :attr:`reordered_s` and overtaken."""
    reordered_s: float = 0.05
    duplicated: float = 0.0
    """Share that arrives twice."""
    duplicated_s: float = 0.01
    """How long after the first the second arrives."""


class LossyPath:
    """One direction of a bad network: says when, and how often, each datagram arrives.

    Args:
        impairment: what happens on it; may be replaced at any time.
        seed: of all luck. The same datagrams at the same times have the same fate.

    Attributes:
        n_taken: datagrams that were given.
        n_lost: those of them that never arrive.
    """

    def __init__(self, impairment: Impairment | None = None, seed: int = 0) -> None:
        self.impairment = impairment or Impairment()
        self.n_taken = 0
        self.n_lost = 0
        self._dice = random.Random(seed)
        self._burst_left = 0
        self._last_s = float("-inf")

    def carry(self, now_s: float) -> list[float]:
        """Return the times at which a datagram given now arrives, in order: none if it is lost, two if it is repeated.

        The dice are thrown equally often for every datagram, so that its fate depends on its number and on nothing
        that happened to others, except for bursts.
        """
        asked = self.impairment
        lost, burst, length, jitter, reordered, twice = (self._dice.random() for _ in range(6))
        self.n_taken += 1
        if not self._burst_left and burst < asked.bursts:
            shortest, longest = asked.burst_packets
            self._burst_left = shortest + int(length * (longest - shortest + 1))
        if self._burst_left or lost < asked.lost:
            self._burst_left = max(0, self._burst_left - 1)
            self.n_lost += 1
            return []
        at_s = now_s + asked.delay_s + jitter * asked.jitter_s
        if asked.keeps_order:
            at_s = self._last_s = max(at_s, self._last_s)
        if reordered < asked.reordered:
            at_s += asked.reordered_s
        return [at_s, at_s + asked.duplicated_s] if twice < asked.duplicated else [at_s]


class _Socket(asyncio.DatagramProtocol):
    """One side of a relay."""

    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own class does not say that it is one

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._received(data, addr)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._closed.set()

    def send(self, data: bytes, address: Address) -> None:
        """Send at once; nothing happens once the relay is closed."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.sendto(data, address)

    @property
    def address(self) -> Address:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    async def close(self) -> None:
        assert self._transport is not None
        self._transport.close()
        await self._closed.wait()


class UdpRelay:
    """Stands between a caller and a server. Made by :func:`relayed`.

    Attributes:
        up: the path from the caller to the server.
        down: the path back.
    """

    def __init__(self, seed: int) -> None:
        self.up = LossyPath(seed=seed)
        self.down = LossyPath(seed=seed + 1)
        self._loop = asyncio.get_running_loop()
        self._front: _Socket  # the caller sends to it
        self._back: _Socket  # the server sends to it
        self._caller: Address | None = None
        self._server: Address | None = None

    async def bind(self, host: str) -> None:
        """Open both sides; host is the address that the ends see, and must be one that they can reach."""
        _, self._front = await self._loop.create_datagram_endpoint(lambda: _Socket(self._from_caller), (host, 0))
        _, self._back = await self._loop.create_datagram_endpoint(lambda: _Socket(self._from_server), (host, 0))

    def offer(self, sdp: str) -> str:
        """Return the caller's offer as the server is to see it: with the relay's address instead of the caller's.

        Raises:
            NoCandidate: it has no candidate that could be replaced.
        """
        rewritten, caller = _with_candidate(sdp, self._back.address)
        self._caller = self._caller or caller
        return rewritten

    def answer(self, sdp: str) -> str:
        """Return the server's answer as the caller is to see it.

        Raises:
            NoCandidate: it has no candidate that could be replaced.
        """
        rewritten, self._server = _with_candidate(sdp, self._front.address)
        return rewritten

    async def close(self) -> None:
        """Stop; what is still under way is lost."""
        await self._front.close()
        await self._back.close()

    def _from_caller(self, data: bytes, address: Address) -> None:
        self._caller = address
        for at_s in self.up.carry(self._loop.time()):
            self._loop.call_at(at_s, self._to_server, data)

    def _from_server(self, data: bytes, address: Address) -> None:
        self._server = address
        for at_s in self.down.carry(self._loop.time()):
            self._loop.call_at(at_s, self._to_caller, data)

    def _to_server(self, data: bytes) -> None:
        if self._server is not None:
            self._back.send(data, self._server)

    def _to_caller(self, data: bytes) -> None:
        if self._caller is not None:
            self._front.send(data, self._caller)


@asynccontextmanager
async def relayed(host: str, seed: int = 0) -> AsyncIterator[UdpRelay]:
    """Open a relay for one call, and close it at the end of the block.

    Args:
        host: IPv4 address that it is reached at: one that the two ends can send to, such as the one they gathered.
        seed: of all luck, in both directions.
    """
    relay = UdpRelay(seed)
    await relay.bind(host)
    try:
        yield relay
    finally:
        await relay.close()


def _with_candidate(sdp: str, address: Address) -> tuple[str, Address]:
    """Replace all candidates; return the new description, and the first address that was in the old one."""
    first: Address | None = None
    lines = []
    for line in sdp.splitlines():
        if not line.startswith("a=candidate:"):
            lines.append(line)
            continue
        found = _CANDIDATE.match(line)
        replaced = found is not None and (first is None or first == (found[3], int(found[4])))
        if found is not None and replaced:
            first = found[3], int(found[4])
            host, port = address
            lines.append(f"a=candidate:{found[1]} 1 udp {found[2]} {host} {port} typ host")
    if first is None:
        raise NoCandidate("the session description has no IPv4 host candidate")
    return "\r\n".join([*lines, ""]), first
