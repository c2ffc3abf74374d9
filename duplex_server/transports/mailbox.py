"""A bounded queue between synchronous writers and one reader: what came in for a session, what goes out to a peer.

Knows nothing about sockets or about what it carries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """What arrived and was not taken yet. One reader, any number of synchronous writers on the same loop.

    Args:
        limit_items: how many items may wait.
        limit_bytes: how many bytes the waiting items may hold together, by the writers' own count.
    """

    def __init__(self, *, limit_items: int, limit_bytes: int) -> None:
        self._limit_items = limit_items
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[T, int]] = deque()  # bounded by put(), which refuses when full
        self._n_bytes = 0
        self._closed = False
        self._arrival: asyncio.Future[None] | None = None  # what the reader waits for
        self._take: Callable[[T], None] | None = None  # of a reader that is called
        self._taking = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether nothing more will be taken in."""
        return self._closed

    def put(self, item: T, n_bytes: int = 0) -> bool:
        """Add an item; return whether there was room for it. A closed mailbox has none.

        An item larger than the whole limit is taken while nothing else waits.
        """
        full = len(self._waiting) >= self._limit_items or self._n_bytes + n_bytes > self._limit_bytes
        if self._closed or (full and self._waiting):
            return False
        self._waiting.append((item, n_bytes))
        self._n_bytes += n_bytes
        if self._arrival is not None:
            self._wake()
        return True

    def drop_oldest(self) -> None:
        """Forget the item that has waited longest, if any waits."""
        if self._waiting:
            self._n_bytes -= self._waiting.popleft()[1]

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more in; the reader still gets what waits, unless it is discarded, and then the end."""
        self._closed = True
        if discard:
            self._waiting.clear()
            self._n_bytes = 0
        self._wake()

    async def for_each(self, take: Callable[[T], None]) -> None:
        """Call a function with each item, oldest first: with what waits, and with what comes as soon as it is put.

        Returns when the mailbox is closed and empty. What ``take`` raises is raised here, not where items are put; like
        a cancellation, it leaves in the mailbox what was not taken.
        """
        assert self._arrival is None, "a mailbox has one reader"
        self._take, self._arrival = take, asyncio.get_running_loop().create_future()
        try:
            self._wake()
            await self._arrival
        finally:
            self._take = self._arrival = None

    def _wake(self) -> None:
        arrival = self._arrival
        if arrival is None or arrival.done():
            return
        if self._take is None:
            arrival.set_result(None)
        elif not self._taking:  # otherwise the loop below comes to what was put
            self._hand_over(self._take, arrival)

    def _hand_over(self, take: Callable[[T], None], arrival: asyncio.Future[None]) -> None:
        self._taking = True
        try:
            while self._waiting:
                item, n_bytes = self._waiting.popleft()
                self._n_bytes -= n_bytes
                take(item)
        except Exception as error:  # noqa: BLE001 - is the reader's
            arrival.set_exception(error)
        finally:
            self._taking = False
        if self._closed and not arrival.done():
            arrival.set_result(None)

    def __aiter__(self) -> Mailbox[T]:
        return self

    async def __anext__(self) -> T:
        """Take the oldest item, waiting for one.

        Cancelled, it leaves the mailbox as it was.

        Raises:
            StopAsyncIteration: the mailbox is closed and empty.
        """
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            assert self._arrival is None, "a mailbox has one reader"
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        item, n_bytes = self._waiting.popleft()
        self._n_bytes -= n_bytes
        return item
