"""Tests of the engine whose workers are processes: real ones, on the real clock, and without sleeping."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from duplex_server.engine.processes import ProcessEngine
from duplex_server.engine.worker import Limits
from duplex_server.errors import CapacityError, ClientError, EngineLost, ModelLoadError, ModelTimeout
from duplex_server.types import Floor, SessionSetup, Unit, VideoFrame
from tests.helpers.engines import EVENT_LOOPS, Said, needs_pidfd, run_really, said_in_log, wait_until_dead

SETUP = SessionSetup()
AT_ONCE = Limits(backoff_first_s=0.0)
COMMANDED = "tests.helpers.models:commanded"


@asynccontextmanager
async def commanded(rows: int = 2, workers: int = 1, limits: Limits = AT_ONCE) -> AsyncIterator[ProcessEngine]:
    async with ProcessEngine(COMMANDED, rows=rows, workers=workers, limits=limits) as engine:
        yield engine


@EVENT_LOOPS
def test_a_conversation_is_answered_in_order(event_loop: str) -> None:
    async def main() -> list[float]:
        options = {"unit_ms": 20, "pieces": 2}
        async with ProcessEngine("tests.helpers.models:counting", rows=2, workers=1, options=options) as engine:
            assert engine.spec.unit_ms == 20
            assert engine.places == 2
            said = Said(await engine.open(SETUP))
            heard = []
            for _ in range(20):
                await said.push()
                for _ in range(2):
                    output = await said.next()
                    assert output.audio.shape == (240,)
                    heard.append(float(output.audio[0]))
            await said.slot.aclose()
            return heard

    assert run_really(main(), event_loop) == [value for value in range(1, 21) for _ in range(2)]


def test_pictures_and_set_ups_arrive_whole() -> None:
    async def main() -> None:
        async with ProcessEngine("tests.helpers.models:counting", rows=1, workers=1) as engine:
            slot = await engine.open(SessionSetup(instructions="one "))
            outputs = slot.outputs()
            # Far more than a socket holds, so that it goes out and comes in by pieces.
            frames = tuple(VideoFrame(float(k), np.zeros((448, 448, 3), np.uint8)) for k in range(5))
            for index in range(4):
                if index == 2:
                    slot.configure(SessionSetup(instructions="two "))
                await slot.push(Unit(index, np.zeros(640, np.float32), frames=frames))
            assert [(await anext(outputs)).text for _ in range(4)] == ["one 0 ", "one 1 ", "two 2 ", "two 3 "]

    run_really(main())


def test_a_model_that_only_listens_says_so_without_being_asked_again() -> None:
    async def main() -> None:
        async with ProcessEngine("tests.helpers.models:counting", rows=1, workers=1) as engine:
            said = Said(await engine.open(SETUP))
            await said.push(floor=Floor.LISTEN)
            assert (await said.next()).listening

    run_really(main())


@EVENT_LOOPS
def test_a_cancel_takes_effect_before_the_step_ends(event_loop: str) -> None:
    async def main() -> None:
        async with commanded() as engine:
            said = Said(await engine.open(SETUP))
            assert await said.ask("until cancelled") == "waiting"
            said.slot.cancel(1, 480)
            assert (await said.next()).text == "cancelled turn 1 after 480 samples"

    run_really(main(), event_loop)


@EVENT_LOOPS
@pytest.mark.parametrize("crash", ["kill", "segfault", "exit", "raise", "wrong dtype"])
def test_a_crash_loses_the_conversations_of_one_worker_which_comes_back(crash: str, event_loop: str) -> None:
    async def main() -> None:
        async with commanded(rows=2, workers=2) as engine:
            slots = [await engine.open(SETUP) for _ in range(4)]
            said = [Said(slot) for slot in slots]
            pids = [await one.ask("pid") for one in said]
            assert len(set(pids)) == 2, "conversations are spread over the workers"
            victim = said[0]
            mate = next(one for one, pid in zip(said[1:], pids[1:], strict=True) if pid == pids[0])
            others = [one for one, pid in zip(said, pids, strict=True) if pid != pids[0]]
            with said_in_log("duplex_server.engine.worker", "loaded") as loaded:
                with pytest.raises(EngineLost):
                    await victim.ask(crash)
                with pytest.raises(EngineLost):
                    await mate.next()
                with pytest.raises(EngineLost):
                    await mate.push()
                assert engine.ready
                for one in others:
                    assert await one.ask("still here") == "still here"
                await victim.slot.aclose()
                await mate.slot.aclose()
                await loaded.wait()
            reborn = Said(await engine.open(SETUP))
            assert await reborn.ask("pid") not in pids
            lost = {statistics.lost_conversations: statistics.restarts for statistics in engine.statistics()}
            assert lost == {0: 0, 2: 1}

    run_really(main(), event_loop)


def test_what_was_said_before_a_crash_is_heard() -> None:
    async def main() -> None:
        async with commanded() as engine:
            said = Said(await engine.open(SETUP))
            await said.push("famous", "last", "words", "kill")
            assert [(await said.next()).text for _ in range(3)] == ["famous", "last", "words"]
            with pytest.raises(EngineLost):
                await said.next()

    run_really(main())


def test_the_traceback_of_a_worker_is_in_the_servers_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with commanded() as engine:
            said = Said(await engine.open(SETUP))
            assert await said.ask("log") == "logged"
            with pytest.raises(EngineLost):
                await said.ask("raise")

    run_really(main())
    assert "model-0: told to log this" in caplog.text
    assert "ValueError: told to raise" in caplog.text
    assert "Traceback" in caplog.text
    assert "the model raised ValueError: told to raise; it is started again" in caplog.text


def test_a_model_that_raises_in_open_or_cancel_is_lost() -> None:
    async def main() -> None:
        async with commanded(limits=AT_ONCE) as engine:
            with said_in_log("duplex_server.engine.worker", "loaded") as loaded:
                with pytest.raises(EngineLost):
                    await engine.open(SessionSetup(instructions="raise"))
                await loaded.wait()
            said = Said(await engine.open(SETUP))
            assert await said.ask("hello") == "hello"
            said.slot.cancel(666, 0)
            with pytest.raises(EngineLost):
                await said.push_until_it_fails()

    run_really(main())


def test_a_conversation_that_the_model_refuses_or_fails_touches_no_other() -> None:
    async def main() -> None:
        async with commanded(rows=8) as engine:
            other = Said(await engine.open(SETUP))
            for _ in range(3):
                with pytest.raises(CapacityError) as refused:
                    await engine.open(SessionSetup(instructions="refuse"))
                assert refused.value.retry_after_s == 7
            with pytest.raises(ClientError, match="told to refuse them") as wrong:
                await engine.open(SessionSetup(instructions="refuse instructions"))
            assert wrong.value.param == "session.instructions"
            failing = Said(await engine.open(SETUP))
            with pytest.raises(CapacityError):
                await failing.ask("fail")
            await failing.slot.aclose()
            assert await other.ask("still here") == "still here"
            opened = [await engine.open(SETUP) for _ in range(7)]  # no row is lost
            assert await Said(opened[-1]).ask("room again") == "room again"

    run_really(main())


def test_a_full_engine_refuses_and_has_room_again_after_a_close() -> None:
    async def main() -> None:
        async with commanded(rows=1, workers=2) as engine:
            first, second = await engine.open(SETUP), await engine.open(SETUP)
            with pytest.raises(CapacityError) as caught:
                await engine.open(SETUP)
            assert caught.value.retry_after_s > 0
            await first.aclose()
            third = Said(await engine.open(SETUP))
            assert await third.ask("hello") == "hello"
            await second.aclose()

    run_really(main())


def test_a_worker_that_hangs_is_a_timeout_and_is_replaced() -> None:
    async def main() -> None:
        async with commanded(rows=2, limits=Limits(stall_s=1.0, backoff_first_s=0.0)) as engine:
            stuck, mate = Said(await engine.open(SETUP)), Said(await engine.open(SETUP))
            with said_in_log("duplex_server.engine.worker", "loaded") as loaded:
                assert await stuck.ask("hang") == "hanging"
                with pytest.raises(ModelTimeout):
                    await stuck.push_until_it_fails()
                with pytest.raises(EngineLost):
                    await mate.push()
                await loaded.wait()
            assert await Said(await engine.open(SETUP)).ask("hello") == "hello"

    run_really(main())


def test_a_flood_of_outputs_arrives_whole_while_it_is_read() -> None:
    async def main() -> None:
        async with commanded() as engine:
            said = Said(await engine.open(SETUP))
            await said.push("flood 200")
            assert [(await said.next()).text for _ in range(200)] == [str(number) for number in range(200)]

    run_really(main())


@EVENT_LOOPS
@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("tests.helpers.models:refusing_to_load", {"message": "put the weights there"}, "put the weights there"),
        ("tests.helpers.models:dying_while_loading", {}, "exited with status 9"),
        ("tests.helpers.models:no_such_factory", {}, "no_such_factory"),
        ("tests.no_such_module:factory", {}, "no_such_module"),
        (COMMANDED, {"no_such_option": 1}, "no_such_option"),
    ],
)
def test_a_model_that_cannot_be_loaded_stops_the_start(
    factory: str, options: dict[str, object], message: str, event_loop: str
) -> None:
    async def main() -> None:
        async with ProcessEngine(factory, rows=1, workers=2, options=options):
            raise AssertionError("entered")

    with pytest.raises(ModelLoadError, match=message):
        run_really(main(), event_loop)


def test_a_model_that_takes_too_long_to_load_stops_the_start() -> None:
    async def main() -> None:
        limits = Limits(load_s=0.5, stop_s=0.1)
        async with ProcessEngine("tests.helpers.models:hanging_while_loading", rows=1, workers=1, limits=limits):
            raise AssertionError("entered")

    with pytest.raises(ModelLoadError, match="not loaded within"):
        run_really(main())


@needs_pidfd
def test_workers_end_with_the_engine_even_from_within_a_step() -> None:
    async def main() -> list[int]:
        async with commanded(rows=1, workers=2, limits=Limits(stop_s=0.2)) as engine:
            idle, busy = Said(await engine.open(SETUP)), Said(await engine.open(SETUP))
            pidfds = [os.pidfd_open(int(await said.ask("pid"))) for said in (idle, busy)]
            assert await busy.ask("hang") == "hanging"
            return pidfds

    wait_until_dead(run_really(main()))


@needs_pidfd
def test_what_a_killed_model_had_started_is_ended_too() -> None:
    async def main() -> list[int]:
        async with commanded() as engine:
            said = Said(await engine.open(SETUP))
            pidfds = [os.pidfd_open(int(await said.ask("child")))]
            with pytest.raises(EngineLost):
                await said.ask("kill")
            return pidfds

    wait_until_dead(run_really(main()))
