"""Sound over a network that loses, delays, reorders and repeats packets, from aiortc as it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import aioice.ice
import pytest

from benchmarks.lone_call import LoneCall, lone_call
from benchmarks.udp_relay import Impairment, UdpRelay, relayed
from duplex_server.media.jitter_buffer import MIN_PATIENCE_S
from duplex_server.transports.rtc_internals import offer_loopback
from duplex_server.types import INPUT_RATE_HZ
from tests.transports import serving

pytestmark = pytest.mark.e2e


def run(scenario: Callable[[LoneCall, UdpRelay], Awaitable[None]], asking: bool = False) -> None:
    """Hold a call through a relay.

    Args:
        scenario: what happens in it.
        asking: whether the caller offers to send lost packets again.
    """

    async def main() -> None:
        offer_loopback()
        (host, *_) = aioice.ice.get_host_addresses(True, False)
        async with asyncio.timeout(60), relayed(host) as relay:

            def on_offer(sdp: str) -> str:
                return relay.offer(with_nack(sdp) if asking else sdp)

            async with lone_call(on_offer, relay.answer) as call:
                await packets(relay, 25)
                await scenario(call, relay)

    serving.run(main())


def with_nack(sdp: str) -> str:
    return re.sub(r"(a=rtpmap:(\d+) opus/48000/2\r\n)", r"\1a=rtcp-fb:\2 nack\r\n", sdp)


async def packets(relay: UdpRelay, n_packets: int) -> None:
    """Wait until the caller has sent so many more."""
    until = relay.up.n_taken + n_packets
    while relay.up.n_taken < until:  # noqa: ASYNC110 - the relay tells nobody
        await asyncio.sleep(0.01)


def covered(heard: list[tuple[int, int]]) -> float:
    """Which share of the time from the first to the last piece is heard; each piece must follow the one before."""
    end = heard[0][0]
    for place, length in heard:
        assert place >= end, "no sound is heard twice"
        end = place + length
    return sum(length for _, length in heard) / (end - heard[0][0])


def test_sound_goes_on_over_a_network_that_does_everything_wrong() -> None:
    async def scenario(call: LoneCall, relay: UdpRelay) -> None:
        bad = Impairment(lost=0.1, reordered=0.1, reordered_s=0.03, duplicated=0.1, jitter_s=0.03, keeps_order=False)
        relay.up.impairment = relay.down.impairment = bad
        before = len(call.heard)
        await packets(relay, 150)
        assert covered(call.heard[before:]) > 0.95, "single losses are hidden"
        assert relay.up.n_lost > 5
        relay.up.impairment = relay.down.impairment = Impairment()
        await call.heartbeat()

    run(scenario)


def test_after_a_burst_nothing_is_delayed_and_patience_is_short_again() -> None:
    async def scenario(call: LoneCall, relay: UdpRelay) -> None:
        before = len(call.heard)
        relay.up.impairment = Impairment(reordered=0.3, reordered_s=0.06)
        await packets(relay, 25)
        relay.up.impairment = Impairment(lost=1.0)
        await packets(relay, 10)
        relay.up.impairment = Impairment()
        await packets(relay, 120)  # of sound 100 a second come at most, with checks and reports: more than two seconds
        held = []
        for _ in range(20):
            await packets(relay, 1)
            await asyncio.sleep(0.005)
            held.append(call.n_held)
        assert not any(held)
        assert call.transport.stats()["patience_ms"] == pytest.approx(1000 * MIN_PATIENCE_S)
        total = sum(length for _, length in call.heard[before:]) / INPUT_RATE_HZ
        assert covered(call.heard[before:]) > 1 - 0.5 / total, "what came before and after is all there, in its place"

    run(scenario)


def test_lost_packets_are_asked_for_and_come() -> None:
    async def scenario(call: LoneCall, relay: UdpRelay) -> None:
        relay.up.impairment = Impairment(bursts=0.05, burst_packets=(1, 3))
        before = len(call.heard)
        await packets(relay, 150)
        stats = call.transport.stats()
        assert stats["requested_packets"] >= 5
        assert relay.up.n_lost >= 5
        assert stats["lost_packets"] < relay.up.n_lost / 2
        assert covered(call.heard[before:]) > 0.97

    run(scenario, asking=True)
