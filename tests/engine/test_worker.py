"""Tests of one worker, in virtual time, over links that the test plays itself."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from duplex_server.engine.messages import (
    CancelTurn,
    CloseRow,
    Logged,
    OpenRow,
    RowClosed,
    RowOpened,
    Said,
    Stepped,
    TakeUnit,
)
from duplex_server.engine.pool import WorkerPool
from duplex_server.engine.slots import RowSlot
from duplex_server.engine.usage import UNKNOWN
from duplex_server.errors import CapacityError, EngineLost, ModelTimeout
from duplex_server.types import ModelOutput, SessionSetup
from tests.helpers.engines import unit
from tests.helpers.virtual_time import run
from tests.helpers.workers import LIMITS, Stage, fail_to_load, load, load_and_die, now_s, settle

SETUP = SessionSetup()


def test_what_is_posted_in_one_turn_of_the_loop_is_sent_together() -> None:
    async def main() -> None:
        stage = Stage(rows=3)
        async with WorkerPool([stage.worker]) as pool:
            slots = [await pool.open(SETUP) for _ in range(3)]
            stage.link.sent.clear()
            for slot in slots:
                await slot.push(unit(0))
            await settle()
            (together,) = stage.link.sent
            assert [command.conversation for command in together if isinstance(command, TakeUnit)] == [1, 2, 3]

    run(main())


def test_a_row_is_given_out_again_only_when_its_close_is_confirmed() -> None:
    async def main() -> None:
        stage = Stage(rows=1)
        async with WorkerPool([stage.worker]) as pool, asyncio.TaskGroup() as group:
            first = await pool.open(SETUP)
            closing = group.create_task(first.aclose())
            await settle()
            assert stage.link.sent[-1] == [CloseRow(1)]
            with pytest.raises(CapacityError):
                await pool.open(SETUP)
            stage.link.hear([RowClosed(1)])
            await settle()
            assert closing.done()
            second = await pool.open(SETUP)
            assert (second.row, second.conversation) == (0, 2)

    run(main())


def test_the_first_free_row_is_given_out() -> None:
    async def main() -> None:
        stage = Stage(rows=3)
        async with WorkerPool([stage.worker]) as pool:
            slots = [await pool.open(SETUP) for _ in range(3)]
            for slot in (slots[2], slots[0]):
                slot.hang_up()
                stage.link.hear([RowClosed(slot.conversation)])
            assert [(await pool.open(SETUP)).row for _ in range(2)] == [0, 2]

    run(main())


def test_late_reports_of_a_conversation_do_not_reach_the_next_one_in_its_row() -> None:
    async def main() -> None:
        stage = Stage(rows=1)
        async with WorkerPool([stage.worker]) as pool:
            first = await pool.open(SETUP)
            await first.push(unit(0))
            first.hang_up()
            stage.link.hear([RowClosed(1)])
            second = await pool.open(SETUP)
            await second.push(unit(0))
            stage.link.hear([Said(1, ModelOutput(1, text="stale")), Stepped((1,), 0.1), RowClosed(1)])
            stage.link.hear([Said(2, ModelOutput(1, text="fresh"))])
            assert (await anext(second.outputs())).text == "fresh"
            assert second.units_behind == 1

    run(main())


def test_an_open_that_is_cancelled_gives_its_row_back() -> None:
    async def main() -> None:
        stage = Stage(rows=1, confirms=False)
        async with WorkerPool([stage.worker]) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await pool.open(SETUP)
            await settle()
            assert stage.link.sent == [[OpenRow(0, 1, SETUP)], [CloseRow(1)]]
            assert stage.worker.free_rows == 0
            stage.link.hear([RowOpened(1), RowClosed(1)])
            assert stage.worker.free_rows == 1

    run(main())


def test_a_dead_worker_loses_its_slots_and_comes_back_with_all_rows_free() -> None:
    async def main() -> None:
        stage = Stage(rows=2)
        async with WorkerPool([stage.worker]) as pool:
            slot = await pool.open(SETUP)
            stage.link.died.set()
            with pytest.raises(EngineLost) as caught:
                await anext(slot.outputs())
            assert caught.value.worker == "model-0"
            ready = [pool.ready]
            await slot.aclose()
            with pytest.raises(CapacityError):
                await pool.open(SETUP)
            await asyncio.sleep(LIMITS.backoff_first_s)
            await settle()
            ready.append(pool.ready)
            assert ready == [False, True]
            assert stage.worker.free_rows == 2
            again = await pool.open(SETUP)
            assert again.conversation == 2

    run(main())


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often() -> None:
    async def main() -> None:
        stage = Stage(play=load_and_die)
        async with WorkerPool([stage.worker]):
            await asyncio.sleep(14)
            gaps = np.diff(stage.launched_s)
            assert gaps.tolist() == [1, 2, 4, 4]
            assert stage.worker.statistics().restarts == 4

    run(main())


def test_a_worker_that_ran_long_is_started_again_soon() -> None:
    async def main() -> None:
        stage = Stage()
        async with WorkerPool([stage.worker]):
            for _ in range(4):
                await asyncio.sleep(LIMITS.stable_s + 1)
                stage.link.died.set()
                died_s = now_s()
                await asyncio.sleep(LIMITS.backoff_first_s)
                await settle()
                assert stage.launched_s[-1] == died_s + LIMITS.backoff_first_s

    run(main())


def test_a_later_load_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        async with WorkerPool([stage.worker]) as pool:
            stage.play = fail_to_load
            stage.link.died.set()
            await asyncio.sleep(2)
            stage.play = load
            await asyncio.sleep(2)
            assert pool.ready

    run(main())
    assert "no weights; it is started again in 2.0 s" in caplog.text


def test_a_model_that_is_loaded_is_not_timed_any_more() -> None:
    async def main() -> None:
        stage = Stage()
        async with WorkerPool([stage.worker]) as pool:
            await asyncio.sleep(LIMITS.load_s * 10)
            assert pool.ready
            assert len(stage.links) == 1

    run(main())


async def push_until_it_fails(slot: RowSlot) -> None:
    for index in range(100):
        await slot.push(unit(index))


def test_a_silent_worker_is_killed_by_the_first_who_waits_too_long() -> None:
    async def main() -> None:
        stage = Stage(rows=2)
        async with WorkerPool([stage.worker]) as pool:
            slot, mate = await pool.open(SETUP), await pool.open(SETUP)
            with pytest.raises(ModelTimeout):
                await push_until_it_fails(slot)
            assert stage.link.killed
            with pytest.raises(EngineLost):
                await mate.push(unit(0))

    run(main())


def test_a_worker_that_serves_others_is_not_killed() -> None:
    async def main() -> None:
        stage = Stage(rows=2)
        async with WorkerPool([stage.worker]) as pool, asyncio.TaskGroup() as group:
            slot, mate = await pool.open(SETUP), await pool.open(SETUP)
            starving = group.create_task(starve(slot))
            while not starving.done():
                await asyncio.sleep(1)
                stage.link.hear([Said(mate.conversation, ModelOutput(0, listening=True))])
            assert not stage.link.killed
            await mate.push(unit(0))

    async def starve(slot: RowSlot) -> None:
        with pytest.raises(ModelTimeout):
            await push_until_it_fails(slot)

    run(main())


def test_a_cancel_goes_its_own_way() -> None:
    async def main() -> None:
        stage = Stage()
        async with WorkerPool([stage.worker]) as pool:
            slot = await pool.open(SETUP)
            stage.link.sent.clear()
            await slot.push(unit(0))
            slot.cancel(1, 480)
            assert stage.link.cancels == [CancelTurn(1, 1, 480)]
            assert stage.link.sent == []

    run(main())


def test_records_of_a_worker_go_to_the_log_under_their_own_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        async with WorkerPool([stage.worker]):
            stage.link.hear([Logged("some.logger", 40, "words")])

    run(main())
    assert ("some.logger", 40, "model-0: words") in caplog.record_tuples


def test_statistics_add_up() -> None:
    async def main() -> None:
        stage = Stage(rows=3)
        assert stage.worker.statistics().cpu_s is UNKNOWN.cpu_s
        async with WorkerPool([stage.worker]) as pool:
            slot, mate = await pool.open(SETUP), await pool.open(SETUP)
            await slot.push(unit(0))
            await slot.push(unit(1))
            await mate.push(unit(0))
            stage.link.hear([Stepped((1, 2), 0.25), Stepped((1,), 0.5)])
            await slot.push(unit(2))
            (statistics,) = pool.statistics()
        assert (statistics.rows, statistics.rows_used, statistics.units_behind) == (3, 2, 1)
        assert (statistics.steps, statistics.units) == (2, 3)
        assert (statistics.step_total_s, statistics.step_max_s) == (0.75, 0.5)
        assert (statistics.cpu_s, statistics.rss_bytes) == (1.5, 1000)
        assert (statistics.up, statistics.restarts, statistics.lost_conversations) == (True, 0, 0)

    run(main())
