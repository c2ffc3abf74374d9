"""Gateways without processes: their links and the ledger, joined by socket pairs on one event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from duplex_server.gateways.channel import Channel
from duplex_server.gateways.ledger import Ledger
from duplex_server.gateways.link import SupervisorLink, linked
from duplex_server.gateways.messages import Loaded, decode_from_gateway

__all__ = ["NOW_S", "Hall", "hall"]

NOW_S = 1_700_000_000.0


class Hall:
    """A ledger, and the gateways that were opened."""

    def __init__(self, ledger: Ledger, stack: AsyncExitStack) -> None:
        self.ledger = ledger
        self._stack = stack
        self._channels: dict[int, Channel] = {}

    async def open(self, number: int) -> SupervisorLink:
        """Start a gateway, and let it join."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        channel = Channel(lambda payload: self._hear(number, payload), lambda: self.ledger.part(number))
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        self._channels[number] = channel
        self.ledger.expect(number)
        link = await self._stack.enter_async_context(linked(number, theirs, lambda: NOW_S))
        await link.join()
        return link

    async def lose(self, number: int) -> None:
        """Let a gateway die."""
        self._channels.pop(number).close()
        await self.until(lambda: number not in {state.number for state in self.ledger.state().gateways if state.up})

    def _hear(self, number: int, payload: bytes) -> None:
        message = decode_from_gateway(payload)
        if isinstance(message, Loaded):
            self.ledger.join(number, self._channels[number].send)
        elif number in self._channels:
            self.ledger.hear(number, message)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true."""
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - of many kinds
                await asyncio.sleep(0.001)


@asynccontextmanager
async def hall(
    places: int = 2, line_max: int = 5, key_max_sessions: int = 0, key_sessions_per_minute: int = 0
) -> AsyncIterator[Hall]:
    """Have a ledger until the block is left."""
    ledger = Ledger(
        places=places,
        line_max=line_max,
        key_max_sessions=key_max_sessions,
        key_sessions_per_minute=key_sessions_per_minute,
        clock_s=lambda: NOW_S,
    )
    async with AsyncExitStack() as stack:
        yield Hall(ledger, stack)
