"""Tests of the engine whose worker is a thread, on the real clock and without sleeping."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from duplex_server.engine.local import ThreadEngine
from duplex_server.engine.worker import Limits
from duplex_server.errors import CapacityError, EngineLost, ModelLoadError, ModelTimeout
from duplex_server.models.base import Model
from duplex_server.types import SessionSetup
from tests.helpers.engines import EVENT_LOOPS, Said, run_really, said_in_log
from tests.helpers.models import CommandedModel, CountingModel, GatedModel

SETUP = SessionSetup()


@EVENT_LOOPS
def test_a_conversation_is_answered_in_order(event_loop: str) -> None:
    async def main() -> list[float]:
        async with ThreadEngine(CountingModel, rows=2) as engine:
            assert engine.ready
            assert engine.places == 2
            assert engine.spec.name == "counting"
            said = Said(await engine.open(SETUP))
            heard = []
            for _ in range(20):
                await said.push()
                heard.append(float((await said.next()).audio[0]))
            await said.slot.aclose()
            return heard

    assert run_really(main(), event_loop) == list(range(1, 21))


def test_the_model_lives_on_one_thread_with_a_name() -> None:
    threads: list[threading.Thread] = []

    class Witness(CountingModel):
        def __init__(self, rows: int) -> None:
            super().__init__(rows)
            threads.append(threading.current_thread())

        def open(self, row: int, setup: SessionSetup) -> None:
            super().open(row, setup)
            threads.append(threading.current_thread())

    async def main() -> None:
        async with ThreadEngine(Witness, rows=1) as engine:
            await engine.open(SETUP)

    run_really(main())
    assert threads[0] is threads[1]
    assert threads[0].name == "model-thread"
    assert not threads[0].is_alive()


def test_a_cancel_takes_effect_before_the_step_ends() -> None:
    async def main() -> None:
        async with ThreadEngine(CommandedModel, rows=1) as engine:
            said = Said(await engine.open(SETUP))
            assert await said.ask("until cancelled") == "waiting"
            said.slot.cancel(1, 480)
            assert (await said.next()).text == "cancelled turn 1 after 480 samples"

    run_really(main())


def test_nothing_of_a_conversation_reaches_the_next_one_in_its_row() -> None:
    model = GatedModel(rows=1)

    async def main() -> None:
        async with ThreadEngine(lambda rows: model, rows=1) as engine:
            first = Said(await engine.open(SETUP))
            assert await first.ask("") == "before 0"
            async with asyncio.TaskGroup() as group:
                closing = group.create_task(first.slot.aclose())
                await asyncio.sleep(0)
                # The step is still on its way through the model, so the row cannot be given to anybody.
                with pytest.raises(CapacityError):
                    await engine.open(SETUP)
                assert not closing.done()
                model.gate.set()
            second = Said(await engine.open(SETUP))
            assert await second.ask("") == "before 0"
            assert (await second.next()).text == "after 0"
            with pytest.raises(StopAsyncIteration):
                await first.next()

    run_really(main())


def test_units_that_come_together_are_stepped_together() -> None:
    model = CountingModel(rows=3)

    async def main() -> None:
        async with ThreadEngine(lambda rows: model, rows=3) as engine:
            conversations = [Said(await engine.open(SETUP)) for _ in range(3)]
            for said in conversations:
                await said.push()
            for said in conversations:
                await said.next()

    run_really(main())
    assert ("step", (0, 0), (1, 0), (2, 0)) in model.calls


def test_a_model_that_raises_loses_all_and_is_built_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with ThreadEngine(CommandedModel, rows=2, limits=Limits(backoff_first_s=0.0)) as engine:
            first, second = Said(await engine.open(SETUP)), Said(await engine.open(SETUP))
            with said_in_log("duplex_server.engine.worker", "loaded") as loaded:
                with pytest.raises(EngineLost):
                    await first.ask("raise")
                with pytest.raises(EngineLost):
                    await second.push()
                await first.slot.aclose()
                await loaded.wait()
            assert await Said(await engine.open(SETUP)).ask("hello") == "hello"
            (statistics,) = engine.statistics()
            assert (statistics.restarts, statistics.lost_conversations, statistics.rows_used) == (1, 2, 1)

    run_really(main())
    assert "told to raise" in caplog.text
    assert "Traceback" in caplog.text


def test_a_model_that_cannot_be_built_stops_the_start() -> None:
    def build(rows: int) -> Model:
        raise ModelLoadError("put the weights there")

    async def main() -> None:
        async with ThreadEngine(build, rows=1):
            raise AssertionError("entered")

    with pytest.raises(ModelLoadError, match="put the weights there"):
        run_really(main())


def test_a_step_that_never_returns_is_given_up_and_not_waited_for() -> None:
    gates: list[GatedModel] = []

    def build(rows: int) -> Model:
        gates.append(GatedModel(rows))
        return gates[-1]

    async def main() -> None:
        limits = Limits(stall_s=0.05, stop_s=0.05)
        async with ThreadEngine(build, rows=2, limits=limits) as engine:
            stuck, other = Said(await engine.open(SETUP)), Said(await engine.open(SETUP))
            with pytest.raises(ModelTimeout):
                await stuck.push_until_it_fails()
            assert not engine.ready
            with pytest.raises(EngineLost):
                await other.push()
            with pytest.raises(CapacityError) as caught:
                await engine.open(SETUP)
            assert caught.value.retry_after_s >= 1

    run_really(main())
    assert len(gates) == 1, "a second model must not be built beside one that still runs"
    gates[0].gate.set()


def test_statistics_count_what_was_done() -> None:
    async def main() -> None:
        async with ThreadEngine(CountingModel, rows=4) as engine:
            said = Said(await engine.open(SETUP))
            for _ in range(3):
                await said.push()
                await said.next()
            await said.slot.aclose()
            (statistics,) = engine.statistics()
            assert (statistics.units, statistics.steps, statistics.rows_used) == (3, 3, 0)
            assert 0 < statistics.step_max_s <= statistics.step_total_s
            assert (statistics.up, statistics.rows, statistics.units_behind) == (True, 4, 0)

    run_really(main())


@pytest.mark.parametrize("build", [CountingModel, GatedModel])
def test_the_end_of_the_engine_ends_slots_that_are_still_open(build: Callable[[int], Model]) -> None:
    async def main() -> None:
        async with ThreadEngine(build, rows=1, limits=Limits(stop_s=5)) as engine:
            said = Said(await engine.open(SETUP))
        with pytest.raises(EngineLost):
            await said.push()
        await said.slot.aclose()

    run_really(main())
