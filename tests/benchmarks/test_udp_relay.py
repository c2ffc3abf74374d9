"""The bad network: what it does can be repeated, and is what was asked for."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from benchmarks.udp_relay import Impairment, LossyPath, NoCandidate, relayed

_SDP = (
    "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\n"
    "a=candidate:abc 1 udp 2130706431 {host} {port} typ host\r\n"
    "a=candidate:abd 1 udp 2130706430 fd00::2 4000 typ host\r\n"
    "a=candidate:abe 1 tcp 2130706429 {host} 9 typ host tcptype active\r\n"
    "a=end-of-candidates\r\n"
)


def fates(impairment: Impairment, n: int, seed: int = 1) -> list[list[float]]:
    path = LossyPath(impairment, seed)
    found = [path.carry(number * 0.02) for number in range(n)]
    assert (path.n_taken, path.n_lost) == (n, sum(not times for times in found))
    return found


def runs_of_loss(found: list[list[float]]) -> list[int]:
    return [len(list(run)) for lost, run in itertools.groupby(found, lambda times: not times) if lost]


def test_a_good_path_passes_everything_at_once() -> None:
    assert fates(Impairment(), 50) == [[number * 0.02] for number in range(50)]


def test_the_same_seed_has_the_same_luck_and_another_has_not() -> None:
    bad = Impairment(lost=0.1, bursts=0.02, jitter_s=0.03, reordered=0.1, duplicated=0.1)
    assert fates(bad, 500) == fates(bad, 500)
    assert fates(bad, 500) != fates(bad, 500, seed=2)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_the_asked_share_is_lost(share: float) -> None:
    lost = sum(not times for times in fates(Impairment(lost=share), 20_000))
    assert lost / 20_000 == pytest.approx(share, rel=0.15)


def test_bursts_have_the_asked_lengths() -> None:
    lengths = runs_of_loss(fates(Impairment(bursts=0.005), 20_000))
    assert {3, 10} <= set(lengths)
    assert min(lengths) == 3
    assert sum(length > 10 for length in lengths) <= len(lengths) * 0.1, "only two in a row are longer"


def test_everything_is_lost_in_an_outage() -> None:
    assert not any(fates(Impairment(lost=1.0), 100))


def test_jitter_keeps_the_order_of_a_queue_or_does_not() -> None:
    queued = [times[0] for times in fates(Impairment(jitter_s=0.03), 1000)]
    assert queued == sorted(queued)
    delays = [at_s - number * 0.02 for number, at_s in enumerate(queued)]
    assert min(delays) >= 0 and 0.025 < max(delays) <= 0.03
    free = [times[0] for times in fates(Impairment(jitter_s=0.03, keeps_order=False), 1000)]
    assert free != sorted(free)


def test_what_is_held_back_is_overtaken_and_delays_nobody() -> None:
    times = [times[0] for times in fates(Impairment(reordered=0.1), 1000)]
    held = [number for number, at_s in enumerate(times) if at_s > number * 0.02]
    assert len(held) == pytest.approx(100, rel=0.3)
    assert all(times[number] == pytest.approx(number * 0.02 + 0.05) for number in held)


def test_duplicates_come_a_little_later() -> None:
    twice = [times for times in fates(Impairment(duplicated=0.1), 1000) if len(times) == 2]
    assert len(twice) == pytest.approx(100, rel=0.3)
    assert all(second - first == pytest.approx(0.01) for first, second in twice)


class _End(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue(maxsize=100)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))


def test_two_ends_meet_through_the_relay_and_see_nothing_else() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        (caller, heard_by_caller), (server, heard_by_server) = [
            await loop.create_datagram_endpoint(_End, ("127.0.0.1", 0)) for _ in range(2)
        ]
        try:
            async with relayed("127.0.0.1") as relay, asyncio.timeout(5):
                host, port = caller.get_extra_info("sockname")
                offer = relay.offer(_SDP.format(host=host, port=port))
                address = server.get_extra_info("sockname")
                answer = relay.answer(_SDP.format(host=address[0], port=address[1]))
                assert str(port) not in offer and str(address[1]) not in answer
                assert "fd00::2" not in answer and "tcptype" not in answer and "a=end-of-candidates" in answer
                front = ("127.0.0.1", int(answer.split("127.0.0.1 ")[1].split(" ")[0]))
                caller.sendto(b"up", front)
                data, back = await heard_by_server.received.get()
                assert data == b"up" and str(back[1]) in offer
                server.sendto(b"down", back)
                assert await heard_by_caller.received.get() == (b"down", front)
                relay.up.impairment = Impairment(lost=1.0)
                caller.sendto(b"lost", front)
                server.sendto(b"after", back)
                assert (await heard_by_caller.received.get())[0] == b"after"
                assert heard_by_server.received.empty()
        finally:
            caller.close()
            server.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_description_without_an_address_is_refused() -> None:
    async def main() -> None:
        async with relayed("127.0.0.1") as relay:
            with pytest.raises(NoCandidate):
                relay.answer("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\n")

    asyncio.run(main())
