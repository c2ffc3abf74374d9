"""A call under garbage: nothing breaks, and it goes on. More of it: ``python -m benchmarks.media_fuzz``."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.lone_call import lone_call
from benchmarks.media_fuzz import damaged_offers, endure, watched
from tests.transports import serving

pytestmark = pytest.mark.e2e


def test_a_call_goes_on_under_garbage_of_all_kinds() -> None:
    async def scenario() -> None:
        with watched() as breakage:
            async with asyncio.timeout(60), lone_call() as call:
                while len(call.samples["rtp"]) < 50 or not call.samples["rtcp"]:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.05)
                endured = await endure(call, seed=1, n_packets=4000)
                assert call.n_rejected > 1000
                await call.heartbeat()
                heard, heard_back = call.n_heard, call.n_heard_back
                while call.n_heard == heard or call.n_heard_back == heard_back:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert endured.n_packets == 4000
        assert not breakage.faults

    serving.run(scenario())


def test_damaged_offers_are_answered_or_refused_with_a_word() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), lone_call() as call:
            good = call.caller.localDescription.sdp
        with watched() as breakage:
            outcomes = await damaged_offers(good, seed=1, n_offers=60, breakage=breakage)
        assert outcomes["answered"] > 5 and outcomes["refused"] > 5
        assert not breakage.faults

    serving.run(scenario())


def test_what_breaks_is_noticed() -> None:
    async def scenario() -> None:
        with watched() as breakage:
            asyncio.get_running_loop().call_soon(lambda: 1 // 0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [what for what in breakage.faults if "ZeroDivisionError" in what]

    serving.run(scenario())
