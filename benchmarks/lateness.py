"""How late timers fire: a probe in a server's event loop, and the same probe in a process that does nothing else.

A timer is due every 5 ms. When the loop stalls, all the timers that were due meanwhile count, each with its own
lateness: otherwise a long stall would be one figure among thousands.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uvloop

__all__ = ["EVERY_S", "Probe", "read", "window"]

EVERY_S = 0.005


class Probe:
    """A timer in an event loop. All it does between firings is nothing.

    Args:
        loop: where it runs, from the loop's first moment on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due_s = 0.0
        self._records = array("d")  # due time and lateness, again and again: 11 MB an hour
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._due_s = self._loop.time() + EVERY_S
        self._loop.call_at(self._due_s, self._fire)

    def _fire(self) -> None:
        now_s = self._loop.time()
        while self._due_s <= now_s:
            self._records.extend((self._due_s, now_s - self._due_s))
            self._due_s += EVERY_S
        self._loop.call_at(self._due_s, self._fire)

    def save(self, path: Path) -> None:
        """Write what was recorded."""
        path.write_bytes(self._records.tobytes())


def read(path: Path) -> npt.NDArray[np.float64]:
    """Return what a probe saved, float64 ``[n, 2]``: when each timer was due (monotonic clock), and its lateness, s."""
    return np.frombuffer(path.read_bytes(), np.float64).reshape(-1, 2)


def window(records: npt.NDArray[np.float64], start_s: float, end_s: float) -> npt.NDArray[np.float64]:
    """Return the lateness of the timers that were due between two times, float64 ``[n]``."""
    inside = (records[:, 0] >= start_s) & (records[:, 0] < end_s)
    late: npt.NDArray[np.float64] = records[inside, 1]
    return late


def _serve(path: Path, words: list[str]) -> int:
    """Run the server's command line with a probe in its event loop; saves when the server stops."""
    import duplex_server.server as server
    from duplex_server.cli import main

    probes: list[Probe] = []
    original: Callable[[], Callable[[], asyncio.AbstractEventLoop] | None] = server._loop_factory

    def probed() -> Callable[[], asyncio.AbstractEventLoop]:
        factory = original() or asyncio.new_event_loop

        def make() -> asyncio.AbstractEventLoop:
            loop = factory()
            probes.append(Probe(loop))
            return loop

        return make

    server._loop_factory = probed
    try:
        return main(words)
    finally:
        for probe in probes:
            probe.save(path)


def _rest(path: Path) -> int:
    """Do nothing but the probe until told to stop: what the machine itself does to a timer."""

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        probe = Probe(loop)
        await told.wait()
        probe.save(path)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(wait())
    return 0


if __name__ == "__main__":
    _, what, file, *rest = sys.argv
    sys.exit(_serve(Path(file), rest) if what == "serve" else _rest(Path(file)))
