"""Tests of start, admission and stop, in virtual time, over workers that the test plays itself."""

from __future__ import annotations

import asyncio

import pytest

from duplex_server.engine.messages import Loaded
from duplex_server.engine.pool import WorkerPool
from duplex_server.errors import CapacityError, ModelLoadError
from duplex_server.types import SessionSetup
from tests.helpers.virtual_time import run
from tests.helpers.workers import LIMITS, SPEC, Stage, fail_to_load, never_load, now_s, settle

SETUP = SessionSetup()


def test_the_first_load_that_fails_ends_the_others() -> None:
    async def main() -> None:
        good = Stage()
        bad = Stage(play=fail_to_load)
        slow = Stage(play=never_load)
        with pytest.raises(ModelLoadError, match="no weights"):
            async with WorkerPool([good.worker, bad.worker, slow.worker]):
                raise AssertionError("entered")
        assert (good.stopped, bad.stopped, slow.stopped) == (1, 1, 1)

    run(main())


def test_two_loads_that_fail_raise_one_error_and_nothing_is_left() -> None:
    async def main() -> None:
        stages = [Stage(play=fail_to_load) for _ in range(2)]
        with pytest.raises(ModelLoadError, match="no weights"):
            async with WorkerPool([stage.worker for stage in stages]):
                raise AssertionError("entered")

    run(main())


def test_a_load_without_end_is_a_load_that_fails() -> None:
    async def main() -> None:
        stage = Stage(play=never_load)
        began_s = now_s()
        with pytest.raises(ModelLoadError, match="not loaded within 60 s"):
            async with WorkerPool([stage.worker]):
                raise AssertionError("entered")
        assert now_s() - began_s == 60
        assert stage.stopped == 1

    run(main())


def test_a_start_that_is_cancelled_ends_the_workers() -> None:
    async def main() -> None:
        stage = Stage(play=never_load)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), WorkerPool([stage.worker]):
                raise AssertionError("entered")
        assert stage.stopped == 1

    run(main())


def test_errors_of_the_body_come_out_as_they_are() -> None:
    async def main() -> None:
        stage = Stage()
        with pytest.raises(KeyError):
            async with WorkerPool([stage.worker]):
                raise KeyError("mine")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), WorkerPool([Stage().worker]):
                await asyncio.Event().wait()
        assert stage.stopped == 1

    run(main())


def test_conversations_go_where_most_rows_are_free() -> None:
    async def main() -> None:
        stages = [Stage(rows=2) for _ in range(3)]
        async with WorkerPool([stage.worker for stage in stages]) as pool:
            assert pool.places == 6
            assert pool.spec == SPEC
            for _ in range(3):
                await pool.open(SETUP)
            assert [stage.worker.free_rows for stage in stages] == [1, 1, 1]
            stages[1].link.died.set()
            await settle()
            assert pool.ready
            assert pool.places == 6
            await pool.open(SETUP)
            await pool.open(SETUP)
            assert [stage.worker.free_rows for stage in stages] == [0, 0, 0]
            with pytest.raises(CapacityError) as caught:
                await pool.open(SETUP)
            assert caught.value.retry_after_s == 5

    run(main())


def test_callers_are_told_when_a_worker_will_be_back() -> None:
    async def main() -> None:
        stage = Stage()
        stage.play = never_load
        async with asyncio.TaskGroup() as group:
            group.create_task(load_after(stage, 8))
            async with WorkerPool([stage.worker]) as pool:
                stage.link.died.set()
                await settle()
                with pytest.raises(CapacityError) as caught:
                    await pool.open(SETUP)
        assert caught.value.retry_after_s == LIMITS.backoff_first_s + 8

    async def load_after(stage: Stage, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        stage.link.hear([Loaded(SPEC)])

    run(main())
