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
