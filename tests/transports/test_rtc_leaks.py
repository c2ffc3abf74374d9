"""Calls that come and go leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest
from aiortc import RTCPeerConnection

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.transports.webrtc import WebRtcTransport
from tests.transports import serving
from tests.transports.calling import calling
from tests.transports.serving import FakeManager, Served

pytestmark = pytest.mark.e2e

DESCRIPTORS = Path("/proc/self/fd")
N_CALLS = 20
AT_A_TIME = 4
HELD = (RTCPeerConnection, WebRtcTransport, OpusDecoder, OpusEncoder)


def resources() -> tuple[int, ...]:
    """Count descriptors, threads, and objects of each kind in :data:`HELD`."""
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return len(list(DESCRIPTORS.iterdir())), threading.active_count(), *(kinds.count(kind) for kind in HELD)


async def come_and_go(served: Served, n_calls: int) -> None:
    """Call and hang up, a few at a time, and wait until the server has noticed."""
    waiting = iter(range(n_calls))
    ended = served.manager.n_ended + n_calls

    async def caller() -> None:
        for _ in waiting:
            async with calling(served) as client:
                await client.connect()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_A_TIME):
            tasks.create_task(caller())
    await served.manager.until(lambda: served.manager.n_ended == ended)
    served.manager.hellos.clear()
    served.manager.transports.clear()


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="/proc/self/fd is not there: this is no Linux")
def test_calls_leave_no_descriptors_no_threads_and_no_objects() -> None:
    async def main() -> None:
        async with asyncio.timeout(90), serving.serving(FakeManager()) as served:
            await come_and_go(served, AT_A_TIME)
            await asyncio.sleep(0.2)
            before = resources()
            await come_and_go(served, N_CALLS)
            # Pools may still grow, and other tests' things may still go; one thing a call would be twenty. A timer may
            # know a call for a second after its end.
            while any(now >= then + N_CALLS // 2 for now, then in zip(resources(), before, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    serving.run(main())
