"""Places are limited, given back whatever happens, and a server that stops lets conversations finish."""

from __future__ import annotations

import asyncio
import threading

import pytest

from duplex_server.errors import CapacityError, SessionExpired
from tests.helpers.slots import LoudnessDetector, speech
from tests.helpers.virtual_time import run
from tests.session.stage import staged


def test_a_full_server_says_when_to_come_back() -> None:
    async def main() -> None:
        async with staged() as stage:
            with pytest.raises(CapacityError) as full:
                await stage.manager.admit()
            assert full.value.retry_after_s >= 1
        (await stage.manager.admit()).release()

    run(main())


def test_a_place_released_twice_counts_once() -> None:
    async def main() -> None:
        async with staged() as stage:
            pass
        place = await stage.manager.admit()
        place.release()
        place.release()
        assert stage.manager.sessions == 0

    run(main())


def test_a_failed_session_gives_its_place_back() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.break_down(RuntimeError("bug"))
            await stage.peer.wait_closed()
            await asyncio.sleep(0.1)
            assert stage.manager.sessions == 0

    run(main())


def test_draining_admits_nobody_and_tells_everybody() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(60.0))
            await asyncio.sleep(1)
            began_s = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stage.manager.drain())
                await asyncio.sleep(0.1)
                with pytest.raises(CapacityError):
                    await stage.manager.admit()
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.0, abs=0.2), "the grace"
            assert stage.of("session.go_away")[0]["reason"] == "shutdown"
            assert isinstance(stage.peer.closed_with, SessionExpired)

    run(main())


def test_a_drained_server_with_nobody_on_it_stops_at_once() -> None:
    async def main() -> None:
        async with staged() as stage:
            pass
        began_s = asyncio.get_running_loop().time()
        await stage.manager.drain()
        assert asyncio.get_running_loop().time() == began_s

    run(main())


def test_a_voice_detector_is_made_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network is read nobody else's sound would move."""
    makers: list[int] = []

    def make() -> LoudnessDetector:
        makers.append(threading.get_ident())
        return LoudnessDetector()

    async def main() -> None:
        async with staged():
            await asyncio.sleep(0.1)

    monkeypatch.setattr("tests.session.stage.LoudnessDetector", make)
    run(main())
    assert makers and threading.get_ident() not in makers
