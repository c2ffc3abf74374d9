"""The process that starts gateways, starts again those that die, and stops them all; it holds what they share.

It loads no model and no media library, and takes no connection: while it lives, nothing of what peers send reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from duplex_server.config import Settings
from duplex_server.errors import DuplexError, ModelLoadError, first_error
from duplex_server.gateways.child import Child
from duplex_server.gateways.console import log_to_terminal, say, told_to_stop
from duplex_server.gateways.division import USUAL_ROWS, Division, divide
from duplex_server.gateways.ledger import Ledger
from duplex_server.gateways.messages import Boot, Leave, Stop
from duplex_server.transports.port import invitation, reserving_socket

__all__ = ["Limits", "Supervisor", "supervise"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the supervisor waits, seconds."""

    backoff_first_s: float = 0.5
    """Before a gateway that died is started again; doubled with each further time …"""
    backoff_max_s: float = 30.0
    """… up to this."""
    stable_s: float = 60.0
    """A gateway that ran longer than this starts again with the first back-off."""
    look_s: float = 5.0
    """How often it is seen whether a gateway has said anything."""
    silent_looks: int = 6
    """Looks in a row that find nothing, after which a gateway is taken for stuck and killed. Counted and not timed, so
    that a machine that slept kills nobody."""
    drain_s: float = 10.0
    """What sessions may take to end beyond their grace."""
    exit_s: float = 20.0
    """What a gateway may take to close its connections and its model, before it is killed."""


class Supervisor:
    """Keeps gateways running.

    Args:
        settings: checked settings.
        port: that is held for the gateways.
        folder: for their sockets.
        division: what each gateway gets.
        clock_s: Unix time.
        limits: how long to wait for what.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        folder: str,
        division: Division,
        *,
        clock_s: Callable[[], float],
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._port = port
        self._folder = folder
        self._division = division
        self._limits = limits or Limits()
        self._children: dict[int, Child] = {}
        self._all_served = asyncio.Event()
        self._served: set[int] = set()
        self._stopping = asyncio.Event()
        self._ledger = Ledger(
            places=division.places,
            line_max=settings.queue_max,
            key_max_sessions=settings.key_max_sessions,
            key_sessions_per_minute=settings.key_sessions_per_minute,
            clock_s=clock_s,
        )

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keep gateways running until the process is told to stop; sessions then get a grace to finish.

        Args:
            on_ready: called once, when all gateways take connections.

        Raises:
            ConfigError, ModelLoadError: a gateway could not start, the first time.

        Cancelled, it kills all gateways.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._keep(number)) for number in range(self._settings.workers)]
                watching = tasks.create_task(self._watch())
                ready = tasks.create_task(self._all_served.wait())
                stop = tasks.create_task(told_to_stop())
                await asyncio.wait([ready, stop], return_when=asyncio.FIRST_COMPLETED)
                if not stop.done():
                    on_ready()
                await stop
                ready.cancel()
                await self._drain()
                _, left = await asyncio.wait(keepers, timeout=self._limits.exit_s)
                for keeper in left:
                    _log.error("a gateway has not ended in time; it is killed")
                    keeper.cancel()
                watching.cancel()
        except* DuplexError as group:
            raise first_error(group) from None

    async def _keep(self, number: int) -> None:
        """Start a gateway again whenever it ends, until the server stops. Cancelled, it kills it."""
        loop, limits = asyncio.get_running_loop(), self._limits
        backoff_s = limits.backoff_first_s
        while not self._stopping.is_set():
            self._ledger.expect(number)
            began_s = loop.time()
            child = Child(
                self._boot(number),
                joined=self._join,
                serving=self._note_serving,
                hear=functools.partial(self._ledger.hear, number),
            )
            self._children[number] = child
            try:
                ended = await child.run()
            finally:
                del self._children[number]
                self._ledger.part(number)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise child.refusal or ModelLoadError(f"gateway {number}: {ended}")
            if loop.time() - began_s > limits.stable_s:
                backoff_s = limits.backoff_first_s
            _log.error("gateway %d: %s; it is started again in %.1f s", number, child.refusal or ended, backoff_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()
            backoff_s = min(backoff_s * 2, limits.backoff_max_s)

    def _boot(self, number: int) -> Boot:
        return Boot(
            number,
            self._settings,
            self._port,
            self._folder,
            self._division.model_workers[number],
            self._division.rows[number],
        )

    def _join(self, child: Child) -> None:
        self._ledger.join(child.number, child.tell)

    def _note_serving(self, child: Child) -> None:
        self._served.add(child.number)
        _log.info("gateway %d takes connections", child.number)
        if len(self._served) == self._settings.workers:
            self._all_served.set()

    async def _watch(self) -> None:
        """Kill gateways that say nothing any more, until cancelled."""
        heard: dict[Child, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(self._limits.look_s)
            before, heard = heard, {}
            for child in self._children.values():
                n_heard, silent_looks = before.get(child, (-1, 0))
                silent_looks = silent_looks + 1 if child.n_heard == n_heard else 0
                heard[child] = child.n_heard, silent_looks
                if child.serving and silent_looks >= self._limits.silent_looks:
                    _log.error("gateway %d has said nothing for long; it is killed", child.number)
                    child.kill()

    async def _drain(self) -> None:
        """Let sessions end at all gateways, and gateways leave when there are none; a second signal cuts that short."""
        self._stopping.set()
        self._ledger.close()
        for child in self._children.values():
            if child.serving:
                child.tell(Stop(at_once=False))
            else:
                child.kill()
        if self._children:
            say("Stopping; conversations may finish. Stop again to end them at once.")
        async with asyncio.TaskGroup() as tasks:
            drained = tasks.create_task(self._all_drained())
            again = tasks.create_task(told_to_stop())
            limit_s = self._settings.shutdown_grace_s + self._limits.drain_s
            await asyncio.wait([drained, again], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            again.cancel()
        for child in self._children.values():
            child.tell(Stop(at_once=True))
            child.tell(Leave())

    async def _all_drained(self) -> None:
        for child in tuple(self._children.values()):
            await child.drained.wait()


def supervise(settings: Settings) -> None:
    """Run the server in several processes until it is told to stop by SIGINT or SIGTERM.

    Raises:
        ConfigError: a setting cannot be used.
        ModelLoadError: the model cannot be loaded.
    """
    log_to_terminal(settings)
    division = divide(
        settings.workers,
        settings.model_workers or os.cpu_count() or 1,
        settings.rows_per_worker or USUAL_ROWS,
        settings.max_sessions,
    )
    with (
        reserving_socket(settings.host, settings.port) as reserving,
        # Short: the name of a socket has 108 bytes at most (unix(7)). The folder is its owner's alone.
        tempfile.TemporaryDirectory(prefix="duplex-") as folder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        began_s = time.monotonic()

        def ready() -> None:
            loaded_s = time.monotonic() - began_s
            say(f"Loaded in {loaded_s:.1f} s: {division.places} places at {settings.workers} gateways.")
            say(invitation(settings, reserving))

        n_workers = sum(division.model_workers)
        say(f"Loading the model {settings.model!r} in {n_workers} processes for {settings.workers} gateways …")
        supervisor = Supervisor(settings, reserving.getsockname()[1], folder, division, clock_s=time.time)
        asyncio.run(supervisor.run(ready))
