from __future__ import annotations

import asyncio

import numpy as np

from duplex_server.errors import SessionExpired
from duplex_server.transports.base import MediaAudio
from duplex_server.transports.loopback import MEDIA_TRACK_TRAITS, LoopbackTransport, repeating, steady
from tests.helpers.virtual_time import START_S, run

TICK = np.zeros(480, np.float32)


def positions(received: list[object]) -> list[int]:
    return [item.position_samples for item in received if isinstance(item, MediaAudio)]


def test_media_is_lost_and_reordered_as_the_pattern_says() -> None:
    async def scenario() -> list[object]:
        transport = LoopbackTransport(traits=MEDIA_TRACK_TRAITS, media_to_server=repeating([0.0, None, 0.3, 0.1]))
        for n in range(8):
            transport.peer.send_media(np.zeros(320, np.float32), 320 * n)
        received: list[object] = []
        async for item in transport.events():
            received.append(item)
            if len(received) == 6:
                transport.peer.leave()
        assert transport.stats() == {"lost_packets": 2.0}
        return received

    assert positions(run(scenario())) == [0, 320 * 4, 320 * 3, 320 * 7, 320 * 2, 320 * 6]


def test_audio_reaches_the_peer_after_the_delay() -> None:
    async def scenario() -> list[float]:
        transport = LoopbackTransport(traits=MEDIA_TRACK_TRAITS, media_to_peer=steady(0.05))
        transport.send_audio(TICK)
        assert transport.peer.audio == []
        await asyncio.sleep(0.1)
        return [at_s for at_s, _ in transport.peer.audio]

    assert run(scenario()) == [START_S + 0.05]


def test_close_tells_the_peer_why_and_ends_the_events() -> None:
    async def scenario() -> None:
        transport = LoopbackTransport()
        expired = SessionExpired("timeout", "Time is up.")
        await transport.close(expired)
        await transport.close()
        assert [item async for item in transport.events()] == []
        assert transport.peer.closed_with is expired
        assert transport.peer.closed_s == START_S

    run(scenario())


def test_the_server_sees_what_was_sent_before_the_peer_left() -> None:
    async def scenario() -> int:
        transport = LoopbackTransport()
        transport.peer.send_media(TICK, 0)
        transport.peer.leave()
        return len([item async for item in transport.events()])

    assert run(scenario()) == 1
