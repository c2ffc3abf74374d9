"""A full server turns away, or lets wait in line, in order, whoever knows how to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from duplex_server.errors import CapacityError
from duplex_server.session.admission import Admission, Place
from duplex_server.transports.loopback import LoopbackTransport
from duplex_server.wire.codec import encode
from tests.helpers.virtual_time import run


class Hall:
    """A server of which only the door is real."""

    def __init__(self, places: int = 1, line_max: int = 3) -> None:
        self.ready = True
        self.places = places
        self.admission = Admission(places=lambda: self.places, ready=lambda: self.ready, line_max=line_max)


class Guest:
    """Somebody in line."""

    def __init__(self, hall: Hall) -> None:
        self.place = hall.admission.admit(queue=True)
        self.transport = LoopbackTransport()
        self._hall = hall
        self.entered: bool | None = None

    async def wait(self) -> None:
        self.entered = await self._hall.admission.wait(self.place, self.transport)
        if not self.entered:
            self.place.release()

    def told(self) -> list[tuple[str, int]]:
        events = [msgspec.json.decode(encode(event)) for _, event in self.transport.peer.received]
        return [(event["type"].removeprefix("session."), event.get("position", 0)) for event in events]


@asynccontextmanager
async def lined_up(hall: Hall, n_guests: int) -> AsyncIterator[list[Guest]]:
    async with asyncio.TaskGroup() as tasks:
        guests = [Guest(hall) for _ in range(n_guests)]
        for guest in guests:
            tasks.create_task(guest.wait())
        await asyncio.sleep(0)
        yield guests


def test_the_line_moves_in_order_and_everybody_is_told() -> None:
    async def main() -> None:
        hall = Hall()
        first = hall.admission.admit(queue=True)
        assert not first.position
        async with lined_up(hall, 3) as (a, b, c):
            assert [guest.place.position for guest in (a, b, c)] == [1, 2, 3]
            await asyncio.sleep(2)
            first.release()
            await asyncio.sleep(0.1)
            assert a.entered and [guest.place.position for guest in (b, c)] == [1, 2]
            a.place.release()
            await asyncio.sleep(0.1)
            b.place.release()
        c.place.release()
        assert hall.admission.taken == hall.admission.waiting == 0
        assert a.told() == [("queued", 1), ("queue_done", 0)]
        assert b.told() == [("queued", 2), ("queue_update", 1), ("queue_done", 0)]
        assert c.told() == [("queued", 3), ("queue_update", 2), ("queue_update", 1), ("queue_done", 0)]

    run(main())


def test_nobody_is_overtaken() -> None:
    async def main() -> None:
        hall = Hall(places=2)
        held = [hall.admission.admit(queue=False) for _ in range(2)]
        async with lined_up(hall, 1) as (guest,):
            hall.ready = False
            held.pop().release()  # a place, but no model behind it
            await asyncio.sleep(0.1)
            with pytest.raises(CapacityError):
                hall.admission.admit(queue=False)
            assert guest.entered is None
            hall.ready = True
        assert [guest.entered, hall.admission.taken] == [True, 2]

    run(main())


def test_nobody_waits_long_without_a_word() -> None:
    async def main() -> None:
        hall = Hall()
        first = hall.admission.admit(queue=True)
        async with lined_up(hall, 1) as (guest,):
            await asyncio.sleep(35)
            first.release()
        assert guest.told() == [("queued", 1), *[("queue_update", 1)] * 3, ("queue_done", 0)]
        arrivals = [at_s for at_s, _ in guest.transport.peer.received]
        assert max(later - earlier for earlier, later in itertools.pairwise(arrivals)) <= 11
        guest.place.release()

    run(main())


def test_who_leaves_the_line_moves_those_behind() -> None:
    async def main() -> None:
        hall = Hall()
        first = hall.admission.admit(queue=True)
        async with lined_up(hall, 2) as (a, b):
            a.transport.peer.leave()
            await asyncio.sleep(1.5)
            assert a.entered is False and b.place.position == 1
            first.release()
        assert b.entered
        b.place.release()
        assert hall.admission.taken == 0

    run(main())


def test_a_full_line_turns_away() -> None:
    async def main() -> None:
        hall = Hall(line_max=1)
        places: list[Place] = [hall.admission.admit(queue=True) for _ in range(2)]
        with pytest.raises(CapacityError) as full:
            hall.admission.admit(queue=True)
        assert full.value.retry_after_s == pytest.approx(240), "two usual sessions"
        hall.admission.note_length(20.0)
        assert hall.admission.estimate_s(1) == pytest.approx(100)
        for place in reversed(places):
            place.release()
            place.release()
        assert hall.admission.taken == hall.admission.waiting == 0

    run(main())


def test_a_server_that_stops_sends_the_line_away() -> None:
    async def main() -> None:
        hall = Hall()
        hall.admission.admit(queue=True)
        guest = Guest(hall)
        hall.admission.closed = True
        with pytest.raises(CapacityError):
            await guest.wait()

    run(main())
