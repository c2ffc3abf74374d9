"""Tests of the event loop's end of a conversation, against a desk that writes down what is posted."""

from __future__ import annotations

import asyncio

import pytest

from duplex_server.engine.messages import CancelTurn, CloseRow, Command, TakeUnit
from duplex_server.engine.slots import OUTPUTS_MAX, RowSlot
from duplex_server.errors import EngineLost, ModelError, ModelTimeout
from duplex_server.types import ModelOutput, SessionSetup
from tests.helpers.engines import unit
from tests.helpers.virtual_time import run
from tests.helpers.workers import settle


class WritingDesk:
    def __init__(self) -> None:
        self.posted: list[Command] = []
        self.cancels: list[CancelTurn] = []
        self.silences = 0

    def post(self, command: Command) -> None:
        self.posted.append(command)

    def cancel(self, command: CancelTurn) -> None:
        self.cancels.append(command)

    def give_up_if_silent(self) -> None:
        self.silences += 1

    @property
    def units(self) -> list[int]:
        return [command.unit.index for command in self.posted if isinstance(command, TakeUnit)]


def slot_of(desk: WritingDesk, units_ahead: int = 2) -> RowSlot:
    return RowSlot(desk, row=3, conversation=7, units_ahead=units_ahead, stall_limit_s=10.0)


def said(text: str) -> ModelOutput:
    return ModelOutput(1, text=text)


async def read(slot: RowSlot, into: list[str]) -> None:
    async for output in slot.outputs():
        into.append(output.text)


def test_push_waits_while_the_worker_has_enough() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk, units_ahead=2)
        async with asyncio.TaskGroup() as group:
            group.create_task(push_all(slot, 4))
            await settle()
            assert desk.units == [0, 1]
            assert slot.units_behind == 2
            slot.stepped()
            await settle()
            assert desk.units == [0, 1, 2]
            slot.stepped()
            slot.stepped()
        assert desk.units == [0, 1, 2, 3]
        assert slot.units_behind == 1

    run(main())


async def push_all(slot: RowSlot, n_units: int) -> None:
    for index in range(n_units):
        await slot.push(unit(index))


def test_a_cancelled_push_leaves_the_slot_unchanged() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk, units_ahead=1)
        await slot.push(unit(0))
        slot.configure(SessionSetup(instructions="later"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await slot.push(unit(1))
        slot.stepped()
        await slot.push(unit(1))
        assert desk.units == [0, 1]
        last = desk.posted[-1]
        assert isinstance(last, TakeUnit)
        assert last.setup == SessionSetup(instructions="later")

    run(main())


def test_a_unit_that_is_never_taken_is_a_timeout_and_the_worker_is_looked_at() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk, units_ahead=1)
        await slot.push(unit(0))
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ModelTimeout) as caught:
            await slot.push(unit(1))
        assert caught.value.unit_index == 1
        assert asyncio.get_running_loop().time() - began_s == 10
        assert desk.silences == 1

    run(main())


def test_the_newest_set_up_goes_with_the_next_unit_only() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk, units_ahead=4)
        await slot.push(unit(0))
        slot.configure(SessionSetup(speed=0.5))
        slot.configure(SessionSetup(speed=1.5))
        await slot.push(unit(1))
        await slot.push(unit(2))
        setups = [command.setup for command in desk.posted if isinstance(command, TakeUnit)]
        assert setups == [None, SessionSetup(speed=1.5), None]

    run(main())


def test_outputs_come_in_order_and_end_with_the_slot() -> None:
    async def main() -> None:
        slot = slot_of(WritingDesk())
        heard: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(read(slot, heard))
            slot.said(said("a"))
            slot.said(said("b"))
            await settle()
            slot.said(said("c"))
            await settle()
            slot.hang_up()
        assert heard == ["a", "b", "c"]

    run(main())


def test_a_cancelled_reader_loses_nothing() -> None:
    async def main() -> None:
        slot = slot_of(WritingDesk())
        outputs = slot.outputs()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(outputs)
        slot.said(said("kept"))
        assert (await anext(outputs)).text == "kept"

    run(main())


def test_a_closed_slot_keeps_nothing_that_is_still_said() -> None:
    async def main() -> None:
        slot = slot_of(WritingDesk())
        slot.said(said("before"))
        slot.hang_up()
        slot.said(said("after"))
        heard: list[str] = []
        await read(slot, heard)
        assert heard == []

    run(main())


def test_a_reader_that_stands_still_fails_its_slot_instead_of_hearing_a_hole() -> None:
    async def main() -> None:
        slot = slot_of(WritingDesk())
        for number in range(OUTPUTS_MAX + 5):
            slot.said(said(str(number)))
        heard: list[str] = []
        with pytest.raises(ModelError, match="waiting to be read"):
            await read(slot, heard)
        assert heard == [str(number) for number in range(OUTPUTS_MAX)]
        with pytest.raises(ModelError, match="waiting to be read"):
            await slot.push(unit(0))

    run(main())


def test_a_lost_worker_ends_waiting_pushes_and_readers() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk, units_ahead=1)
        await slot.push(unit(0))
        slot.said(said("last words"))
        heard: list[str] = []
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(expect_lost(slot.push(unit(1))))
            reading = group.create_task(expect_lost(read(slot, heard)))
            await settle()
            slot.lose(EngineLost("model-0"))
        assert pushing.result() == reading.result() == "model-0"
        assert heard == ["last words"]
        await slot.aclose()
        slot.cancel(1, 0)
        assert desk.cancels == []

    async def expect_lost(waiting: object) -> str:
        assert asyncio.iscoroutine(waiting)
        with pytest.raises(EngineLost) as caught:
            await waiting
        return caught.value.worker

    run(main())


def test_aclose_waits_until_the_row_is_free_and_may_be_called_twice() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk)
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(slot.aclose()), group.create_task(slot.aclose())
            await settle()
            assert not first.done()
            assert not second.done()
            slot.freed_now()
        await slot.aclose()
        assert desk.posted == [CloseRow(7)]

    run(main())


def test_aclose_gives_up_on_a_worker_that_does_not_answer() -> None:
    async def main() -> None:
        desk = WritingDesk()
        began_s = asyncio.get_running_loop().time()
        await slot_of(desk).aclose()
        assert asyncio.get_running_loop().time() - began_s == 10
        assert desk.silences == 1

    run(main())


def test_a_cancel_is_sent_at_once_and_not_after_the_end() -> None:
    async def main() -> None:
        desk = WritingDesk()
        slot = slot_of(desk)
        slot.cancel(2, 480)
        slot.hang_up()
        slot.cancel(3, 0)
        assert desk.cancels == [CancelTurn(7, 2, 480)]

    run(main())


def test_a_worker_that_does_not_open_the_row_is_a_timeout() -> None:
    async def main() -> None:
        desk = WritingDesk()
        with pytest.raises(ModelTimeout):
            await slot_of(desk).opened()
        assert desk.silences == 1

    run(main())
