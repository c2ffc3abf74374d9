"""Tests of the virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.virtual_time import START_S, Deadlock, run


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_an_hour_passes_within_the_time_limit_of_a_test() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return now_s()

    assert run(main()) == START_S + 3600


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    fired: list[tuple[str, float]] = []

    async def wait(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        fired.append((name, now_s() - START_S))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait("late", 2.0))
            group.create_task(wait("early", 0.5))
            group.create_task(wait("middle", 1.0))

    run(main())
    assert fired == [("early", 0.5), ("middle", 1.0), ("late", 2.0)]


def test_computing_takes_no_virtual_time() -> None:
    async def main() -> float:
        before = now_s()
        sum(range(100_000))
        await asyncio.sleep(0)
        return now_s() - before

    assert run(main()) == 0


def test_a_timeout_fires_at_its_deadline() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        return now_s()

    assert run(main()) == START_S + 10


def test_waiting_without_a_timer_is_a_deadlock_that_names_the_task() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="wait_for_nobody"):
        run(wait_for_nobody())


def test_a_deadlock_after_a_jump_is_found_too() -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        await asyncio.Queue[int]().get()

    with pytest.raises(Deadlock):
        run(main())


def test_the_clock_stands_still_while_a_thread_works() -> None:
    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(asyncio.sleep(1))
            assert await asyncio.to_thread(sum, range(200_000)) == 19_999_900_000
            assert not ticking.done()
            return now_s()

    assert run(main()) == START_S


def test_errors_come_out_as_they_are() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        run(main())


def test_debug_mode_is_on() -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert run(main())
