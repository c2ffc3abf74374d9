from __future__ import annotations

import asyncio

import pytest

from duplex_server.transports.mailbox import Mailbox


def test_items_come_out_in_the_order_they_went_in() -> None:
    async def scenario() -> list[int]:
        box: Mailbox[int] = Mailbox(limit_items=10, limit_bytes=0)
        for item in range(5):
            assert box.put(item)
        box.close()
        return [item async for item in box]

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_a_waiting_reader_gets_what_is_put_in_later() -> None:
    async def scenario() -> int:
        box: Mailbox[int] = Mailbox(limit_items=1, limit_bytes=0)
        asyncio.get_running_loop().call_soon(box.put, 7)
        return await anext(box)

    assert asyncio.run(scenario()) == 7


def test_a_full_mailbox_refuses_by_count_and_by_bytes() -> None:
    by_count: Mailbox[str] = Mailbox(limit_items=2, limit_bytes=1000)
    assert [by_count.put("a"), by_count.put("b"), by_count.put("c")] == [True, True, False]
    by_bytes: Mailbox[str] = Mailbox(limit_items=100, limit_bytes=10)
    assert [by_bytes.put("a", 6), by_bytes.put("b", 4), by_bytes.put("c", 1)] == [True, True, False]


def test_an_item_larger_than_the_limit_is_taken_alone() -> None:
    box: Mailbox[str] = Mailbox(limit_items=2, limit_bytes=10)
    assert box.put("huge", 100)
    assert not box.put("next", 1)


def test_dropping_the_oldest_makes_room() -> None:
    box: Mailbox[str] = Mailbox(limit_items=1, limit_bytes=10)
    assert box.put("old", 10)
    box.drop_oldest()
    assert box.put("new", 10)
    assert len(box) == 1


def test_close_ends_a_waiting_reader() -> None:
    async def scenario() -> None:
        box: Mailbox[int] = Mailbox(limit_items=1, limit_bytes=0)
        asyncio.get_running_loop().call_soon(box.close)
        with pytest.raises(StopAsyncIteration):
            await anext(box)

    asyncio.run(scenario())


def test_discarding_close_forgets_what_waits() -> None:
    async def scenario() -> list[int]:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)
        box.put(1)
        box.close(discard=True)
        assert not box.put(2)
        return [item async for item in box]

    assert asyncio.run(scenario()) == []


def test_a_cancelled_reader_loses_nothing() -> None:
    async def scenario() -> int:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(box)
        box.put(3)
        return await anext(box)

    assert asyncio.run(scenario()) == 3


def test_a_function_is_called_with_what_waits_and_with_what_is_put_at_once() -> None:
    async def scenario() -> None:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=10)
        taken: list[int] = []
        box.put(1, 10)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(box.for_each(taken.append))
            await asyncio.sleep(0)
            assert taken == [1]
            assert box.put(2, 10)
            assert box.put(3, 10)
            assert taken == [1, 2, 3]
            await asyncio.sleep(0)
            assert not reading.done()
            box.close()

    asyncio.run(scenario())


def test_what_is_put_while_another_is_taken_comes_after_it() -> None:
    async def scenario() -> list[str]:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)
        told: list[str] = []

        def take(item: int) -> None:
            told.append(f"begin {item}")
            if item < 3:
                box.put(item + 1)
            else:
                box.close()
            told.append(f"end {item}")

        box.put(1)
        await box.for_each(take)
        return told

    assert asyncio.run(scenario()) == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


@pytest.mark.parametrize("when", ["waiting", "later"])
def test_what_the_function_raises_is_its_readers_and_the_rest_stays(when: str) -> None:
    async def scenario() -> int:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)

        def take(item: int) -> None:
            raise ZeroDivisionError(item)

        async def fail() -> None:
            with pytest.raises(ZeroDivisionError, match="1"):
                await box.for_each(take)

        async with asyncio.TaskGroup() as tasks:
            if when == "waiting":
                box.put(1)
            tasks.create_task(fail())
            await asyncio.sleep(0)
            if when == "later":
                box.put(1)
            assert box.put(2)
        return await anext(box)

    assert asyncio.run(scenario()) == 2


def test_a_cancelled_reader_that_is_called_loses_nothing() -> None:
    async def scenario() -> int:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)
        taken: list[int] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await box.for_each(taken.append)
        box.put(3)
        assert not taken
        return await anext(box)

    assert asyncio.run(scenario()) == 3


@pytest.mark.parametrize("discard", [True, False])
def test_close_ends_a_reader_that_is_called(discard: bool) -> None:
    async def scenario() -> list[int]:
        box: Mailbox[int] = Mailbox(limit_items=5, limit_bytes=0)
        taken: list[int] = []

        def take(item: int) -> None:
            taken.append(item)
            box.close(discard=discard)

        box.put(1)
        box.put(2)
        await box.for_each(take)
        await box.for_each(take)
        return taken

    assert asyncio.run(scenario()) == ([1] if discard else [1, 2])
