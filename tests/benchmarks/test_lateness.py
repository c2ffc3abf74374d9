"""The probe of the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lateness import EVERY_S, Probe, read, window
from tests.helpers.virtual_time import run


def test_every_timer_within_a_stall_counts_with_its_own_lateness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        probe = Probe(loop)
        await asyncio.sleep(1.0)
        stalled_s = loop.time()
        real_time = loop.time
        monkeypatch.setattr(loop, "time", lambda: real_time() + 0.1)
        await asyncio.sleep(0.5)
        probe.save(tmp_path / "probe")
        return stalled_s

    stalled_s = run(main())
    records = read(tmp_path / "probe")
    assert np.diff(records[:, 0]) == pytest.approx(EVERY_S)
    before = window(records, 0, stalled_s - 0.001)
    assert len(before) == pytest.approx(1.0 / EVERY_S, abs=2)
    assert before == pytest.approx(0, abs=1e-9)
    stall = window(records, stalled_s + 0.0001, stalled_s + 0.0999)
    assert stall.max() == pytest.approx(0.1, abs=2 * EVERY_S)
    assert np.sort(stall)[::-1].tolist() == pytest.approx(stall.tolist())
    assert len(stall) == pytest.approx(0.1 / EVERY_S, abs=2)


def test_a_resting_process_saves_what_it_recorded_when_it_is_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.lateness", "rest", str(tmp_path / "probe")]
    before_s = time.monotonic()
    with subprocess.Popen(command) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.terminate()
        assert process.wait(10) == 0
    records = read(tmp_path / "probe")
    assert len(records) > 50
    assert before_s < records[0, 0] < time.monotonic()
    assert (records[:, 1] >= 0).all()
