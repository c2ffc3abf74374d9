"""Tests of what a worker process does about signals, and about a server that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from duplex_server.engine.processes import ProcessEngine
from duplex_server.types import SessionSetup
from tests.helpers.engines import Said, needs_pidfd, run_really, wait_until_dead

ROOT = Path(__file__).resolve().parents[2]


@needs_pidfd
def test_a_worker_ignores_the_signals_that_the_server_answers() -> None:
    async def main() -> None:
        async with ProcessEngine("tests.helpers.models:commanded", rows=1, workers=1) as engine:
            said = Said(await engine.open(SessionSetup()))
            pid = int(await said.ask("pid"))
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            assert await said.ask("hello") == "hello"

    run_really(main())


@needs_pidfd
def test_a_program_that_the_model_starts_does_not_ignore_them() -> None:
    async def main() -> None:
        async with ProcessEngine("tests.helpers.models:commanded", rows=1, workers=1) as engine:
            said = Said(await engine.open(SessionSetup()))
            pid = int(await said.ask("child"))
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            wait_until_dead([pidfd])

    run_really(main())


SERVER = """
import asyncio
import signal
from duplex_server.engine.processes import ProcessEngine
from duplex_server.engine.worker import Limits
from duplex_server.types import SessionSetup

# A shell that starts a run in the background lets it ignore SIGINT, and so all of its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.helpers.engines import Said

async def main():
    limits = Limits(stop_s=0.2)
    async with ProcessEngine("tests.helpers.models:commanded", rows=1, workers=2, limits=limits) as engine:
        idle, busy = Said(await engine.open(SessionSetup())), Said(await engine.open(SessionSetup()))
        pids = [await said.ask("pid") for said in (idle, busy)]
        await busy.ask("hang")
        print(*pids, flush=True)
        await idle.next()

asyncio.run(main())
"""


@needs_pidfd
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_server(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in server.stdout.readline().split()]
        assert len(pidfds) == 2
        server.send_signal(how)
        wait_until_dead(pidfds)
        server.wait(20)
