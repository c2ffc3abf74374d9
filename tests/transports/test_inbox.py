from __future__ import annotations

import asyncio

import pytest

from duplex_server.transports.inbox import Inbox


def test_items_come_out_in_the_order_they_went_in() -> None:
    async def scenario() -> list[int]:
        inbox: Inbox[int] = Inbox(limit_items=10, limit_bytes=0)
        for item in range(5):
            assert inbox.put(item)
        inbox.close()
        return [item async for item in inbox]

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_a_waiting_reader_gets_what_is_put_in_later() -> None:
    async def scenario() -> int:
        inbox: Inbox[int] = Inbox(limit_items=1, limit_bytes=0)
        asyncio.get_running_loop().call_soon(inbox.put, 7)
        return await anext(inbox)

    assert asyncio.run(scenario()) == 7


def test_a_full_inbox_refuses_by_count_and_by_bytes() -> None:
    by_count: Inbox[str] = Inbox(limit_items=2, limit_bytes=1000)
    assert [by_count.put("a"), by_count.put("b"), by_count.put("c")] == [True, True, False]
    by_bytes: Inbox[str] = Inbox(limit_items=100, limit_bytes=10)
    assert [by_bytes.put("a", 6), by_bytes.put("b", 4), by_bytes.put("c", 1)] == [True, True, False]


def test_an_item_larger_than_the_limit_is_taken_alone() -> None:
    inbox: Inbox[str] = Inbox(limit_items=2, limit_bytes=10)
    assert inbox.put("huge", 100)
    assert not inbox.put("next", 1)


def test_dropping_the_oldest_makes_room() -> None:
    inbox: Inbox[str] = Inbox(limit_items=1, limit_bytes=10)
    assert inbox.put("old", 10)
    inbox.drop_oldest()
    assert inbox.put("new", 10)
    assert len(inbox) == 1


def test_close_ends_a_waiting_reader() -> None:
    async def scenario() -> None:
        inbox: Inbox[int] = Inbox(limit_items=1, limit_bytes=0)
        asyncio.get_running_loop().call_soon(inbox.close)
        with pytest.raises(StopAsyncIteration):
            await anext(inbox)

    asyncio.run(scenario())


def test_discarding_close_forgets_what_waits() -> None:
    async def scenario() -> list[int]:
        inbox: Inbox[int] = Inbox(limit_items=5, limit_bytes=0)
        inbox.put(1)
        inbox.close(discard=True)
        assert not inbox.put(2)
        return [item async for item in inbox]

    assert asyncio.run(scenario()) == []


def test_a_cancelled_reader_loses_nothing() -> None:
    async def scenario() -> int:
        inbox: Inbox[int] = Inbox(limit_items=5, limit_bytes=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(inbox)
        inbox.put(3)
        return await anext(inbox)

    assert asyncio.run(scenario()) == 3
