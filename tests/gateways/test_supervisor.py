"""Gateways are started, started again, and stopped. Here they are puppets, so that none loads a model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from duplex_server.config import Settings
from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.gateways import child
from duplex_server.gateways.division import divide
from duplex_server.gateways.messages import GatewayState
from duplex_server.gateways.supervisor import Limits, Supervisor
from tests.gateways.puppet import PROGRAM

LIMITS = Limits(backoff_first_s=0.05, look_s=0.5, drain_s=0.2, exit_s=0.3)


@pytest.fixture(autouse=True)
def _puppets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_PROGRAM", PROGRAM)


class Stage:
    """A supervisor whose gateways a test can kill."""

    def __init__(self, nature: str, limits: Limits) -> None:
        settings = Settings(model=nature, workers=2, shutdown_grace_s=0.1)
        division = divide(2, 2, 16, 0)
        self.supervisor = Supervisor(settings, 1, "", division, clock_s=lambda: 0.0, limits=limits)
        self.ready = asyncio.Event()

    def states(self) -> tuple[GatewayState, ...]:
        return self.supervisor._ledger.state().gateways

    def pid(self, number: int) -> int:
        process = self.supervisor._children[number]._process
        assert process is not None
        return process.pid

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - of many kinds
                await asyncio.sleep(0.01)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def perform(play: Callable[[Stage], Awaitable[None]], nature: str = "good", limits: Limits = LIMITS) -> None:
    async def main() -> None:
        stage = Stage(nature, limits)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stage.supervisor.run(stage.ready.set))
            ready = tasks.create_task(stage.ready.wait())
            await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if not running.done():
                await play(stage)
            await running
        assert not stage.supervisor._children

    asyncio.run(main())


def test_it_is_ready_when_all_are_and_stops_when_all_have_drained() -> None:
    async def play(stage: Stage) -> None:
        await stage.until(lambda: [state.sessions for state in stage.states()] == [1, 1])
        assert all(state.up and state.ready for state in stage.states())
        stop()

    perform(play, limits=replace(LIMITS, drain_s=60, exit_s=60))


def test_a_gateway_that_is_killed_is_started_again_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def play(stage: Stage) -> None:
        await stage.until(lambda: [state.sessions for state in stage.states()] == [1, 1])
        others = stage.pid(0)
        os.kill(stage.pid(1), signal.SIGKILL)
        await stage.until(lambda: not stage.states()[1].up)
        assert [state.sessions for state in stage.states()] == [1, 0], "its place is free"
        await stage.until(lambda: stage.states()[1].sessions == 1)
        assert stage.states()[1].restarts == 1
        assert stage.pid(0) == others
        stop()

    perform(play)
    assert "gateway 1: it was ended by SIGKILL; it is started again in 0.1 s" in caplog.text


def test_a_gateway_that_says_nothing_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    async def play(stage: Stage) -> None:
        await stage.until(lambda: stage.states()[1].restarts == 1)
        stop()

    perform(play, "stuck", replace(LIMITS, silent_looks=2))
    assert "has said nothing for long" in caplog.text


@pytest.mark.parametrize("nature", ["slow", "deaf"])
def test_who_does_not_stop_in_time_is_made_to(nature: str) -> None:
    async def play(stage: Stage) -> None:
        stop()

    perform(play, nature)


def test_a_second_signal_cuts_the_grace_short() -> None:
    async def play(stage: Stage) -> None:
        stop()
        await stage.until(lambda: stage.supervisor._stopping.is_set())
        await asyncio.sleep(0.1)
        stop()

    perform(play, "slow", replace(LIMITS, drain_s=3600, exit_s=60))


@pytest.mark.parametrize(
    ("nature", "kind", "words"),
    [
        ("unloadable", ModelLoadError, "no such model"),
        ("misconfigured", ConfigError, "no such port"),
        ("crashing", ModelLoadError, "gateway 1: it was ended by SIGABRT"),
    ],
)
def test_a_server_whose_gateway_cannot_start_does_not(nature: str, kind: type[Exception], words: str) -> None:
    async def play(stage: Stage) -> None:
        raise AssertionError("not ready")

    with pytest.raises(ExceptionGroup) as group:
        perform(play, nature)
    assert isinstance(group.value.exceptions[0], kind)
    assert words in str(group.value.exceptions[0])
