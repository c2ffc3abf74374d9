"""A test server that sends what no client takes fails its test."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect

from duplex_server.session.transport import Transport
from duplex_server.wire.events import ResponseDone
from duplex_server.wire.objects import Response
from tests.helpers.wire_oracle import OrderError
from tests.transports import serving
from tests.transports.calling import calling
from tests.transports.serving import FakeManager, Served


async def _off_the_schema(transport: Transport, manager: FakeManager) -> None:
    transport.send(ResponseDone(response=Response(id="resp_x", status="listening")))  # type: ignore[arg-type]
    async for _ in transport.events():
        pass


def test_over_a_websocket() -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            serving.serving(FakeManager(conversation=_off_the_schema)) as served,
            connect(served.ws_url) as peer,
        ):
            await peer.recv()

    with pytest.raises(OrderError, match="shape"):
        serving.run(main())


def test_over_a_data_channel() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving.serving(FakeManager(conversation=_off_the_schema)) as served:
            await _call(served)

    serving.run(main())


async def _call(served: Served) -> None:
    with pytest.raises(OrderError, match="shape"):
        async with calling(served) as client:
            await client.connect()
