from __future__ import annotations

import asyncio

import pytest

from duplex_server.transports.rtc_pacer import EARLY_S, QUANTUM_S, Alarm, Pacer
from tests.helpers.virtual_time import run


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_things_fall_due_in_their_order_and_on_time() -> None:
    async def scenario() -> None:
        pacer, began_s = Pacer(), now_s()
        seen: list[tuple[str, float]] = []
        for name, after_s in (("c", 0.5), ("a", 0.1), ("b", 0.3)):
            pacer.at(began_s + after_s, lambda at_s, name=name: seen.append((name, at_s - began_s)))  # type: ignore[misc]
        await asyncio.sleep(1)
        assert [name for name, _ in seen] == ["a", "b", "c"]
        for (_, at_s), due_s in zip(seen, (0.1, 0.3, 0.5), strict=True):
            assert due_s <= at_s <= due_s + QUANTUM_S + EARLY_S

    run(scenario())


def test_deadlines_that_lie_together_share_a_wake_up() -> None:
    async def scenario() -> None:
        pacer = Pacer()
        times: list[float] = []
        base_s = (now_s() // QUANTUM_S + 10) * QUANTUM_S
        for n in range(100):
            pacer.at(base_s + (n + 0.5) * QUANTUM_S / 101, lambda _: times.append(now_s()))
        await asyncio.sleep(1)
        assert len(times) == 100
        assert len(set(times)) == 1

    run(scenario())


def test_a_failure_does_not_silence_the_others() -> None:
    async def scenario() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        pacer = Pacer()
        seen: list[float] = []

        def fail(_: float) -> None:
            raise ZeroDivisionError

        pacer.at(now_s() + 0.1, fail)
        pacer.at(now_s() + 0.1, seen.append)
        await asyncio.sleep(1)
        assert len(seen) == len(failures) == 1

    run(scenario())


def test_nothing_happens_after_the_end() -> None:
    async def scenario() -> None:
        pacer = Pacer()
        seen: list[float] = []
        pacer.at(now_s() + 0.1, seen.append)
        pacer.close()
        await asyncio.sleep(1)
        assert not seen

    run(scenario())


def test_an_alarm_follows_what_is_due_and_rings_once_for_it() -> None:
    async def scenario() -> None:
        pacer, began_s = Pacer(), now_s()
        due: list[float] = [began_s + 0.4]
        rung: list[float] = []

        def act(at_s: float) -> None:
            rung.append(at_s - began_s)
            due.pop(0)

        alarm = Alarm(pacer, lambda: due[0] if due else None, act)
        alarm.set()
        due[:] = [began_s + 0.1, began_s + 0.4, began_s + 0.7]  # it has become earlier
        alarm.set()
        alarm.set()
        await asyncio.sleep(2)
        assert rung == [pytest.approx(after_s, abs=QUANTUM_S + EARLY_S) for after_s in (0.1, 0.4, 0.7)]
        due[:] = [now_s() + 0.1]
        alarm.set()
        alarm.silence()
        await asyncio.sleep(1)
        assert len(rung) == 3

    run(scenario())
