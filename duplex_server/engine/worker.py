"""One worker as the event loop sees it: its rows, its slots, its restarts.

Knows nothing about how the worker runs: a launcher starts it, a link carries messages, here their meaning is known.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from duplex_server.engine.batcher import units_ahead
from duplex_server.engine.messages import (
    CancelTurn,
    Command,
    Died,
    Loaded,
    LoadFailed,
    Logged,
    OpenRow,
    Report,
    RowClosed,
    RowFailed,
    RowOpened,
    Said,
    Stepped,
)
from duplex_server.engine.slots import RowSlot
from duplex_server.engine.usage import UNKNOWN, Usage
from duplex_server.errors import EngineLost, ModelLoadError
from duplex_server.types import ModelSpec, SessionSetup

__all__ = ["Hear", "Launch", "Limits", "Link", "Worker", "WorkerStatistics"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an engine waits, seconds."""

    load_s: float = 600.0
    """For a model to be loaded; large weights from a slow disk take minutes."""
    stall_s: float = 10.0
    """For a worker to take a unit, open or close a row. Nobody waits that long for an answer in a conversation."""
    stop_s: float = 5.0
    """For a worker to end when it is told to, before it is killed."""
    backoff_first_s: float = 0.5
    """Before the first restart; doubled with each further one …"""
    backoff_max_s: float = 30.0
    """… up to this."""
    stable_s: float = 60.0
    """A worker that ran longer than this starts again with the first back-off."""


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What is known of a worker at one moment; counts go on over restarts."""

    name: str
    up: bool
    """Whether its model is loaded and can take conversations."""
    rows: int
    rows_used: int
    """Conversations, those included whose end the worker has not confirmed."""
    units_behind: int
    """Units handed over and not yet taken in, over all conversations."""
    steps: int
    units: int
    """Units taken in; ``units / steps`` is the mean size of a batch."""
    step_total_s: float
    step_max_s: float
    restarts: int
    lost_conversations: int
    """Conversations that ended because the worker did."""
    load_s: float
    """How long the model took to load, the last time."""
    cpu_s: float | None
    """Processor time since its last start; None where the operating system does not tell."""
    rss_bytes: int | None
    """Resident memory; of the whole server where the worker is a thread."""


class Link(Protocol):
    """One run of a worker, from its launch to its death."""

    def send(self, commands: list[Command]) -> None:
        """Send commands, in order. Never waits. What a dead worker is sent is dropped."""
        ...

    def cancel(self, command: CancelTurn) -> None:
        """Send a cancel that overtakes all commands. Never waits."""
        ...

    def kill(self) -> None:
        """End the worker without waiting for its step, as far as that is possible."""
        ...

    async def ended(self) -> str:
        """Wait until the worker has died and all it reported has been heard; returns how it died, for the log."""
        ...

    def usage(self) -> Usage:
        """Return what it uses of the machine."""
        ...


Hear = Callable[[Sequence[Report]], None]
Launch = Callable[[Hear], AbstractAsyncContextManager[Link]]
"""Starts a worker, whose reports are handed to the callable on the event loop. Leaving the context ends the worker:
orderly if it obeys in time, otherwise by force."""


class Worker:
    """Keeps one worker running and deals its rows out. A :class:`~duplex_server.engine.slots.Desk` for its slots.

    Args:
        name: for logs and metrics.
        rows: how many conversations it holds.
        launch: starts one run of it.
        limits: how long to wait for what.
    """

    def __init__(self, name: str, rows: int, launch: Launch, limits: Limits) -> None:
        self.name = name
        self.rows = rows
        self.spec: ModelSpec | None = None
        self._launch = launch
        self._limits = limits
        self._link: Link | None = None  # while it runs
        self._up = False
        # A heap: models that record steps for their first rows take fewer of them so.
        self._free = list(range(rows))
        self._slots: dict[int, RowSlot] = {}  # by conversation
        self._conversations = 0
        self._unsent: list[Command] = []  # until the loop's next turn; bounded by what slots may have on its way
        self._first_load: asyncio.Future[ModelSpec] | None = None
        self._loading: asyncio.Timeout | None = None
        self._last_words = ""
        self._launched_s = 0.0
        self._heard_s = 0.0
        self._back_s = 0.0
        self._steps = self._units = self._restarts = self._lost_conversations = 0
        self._step_total_s = self._step_max_s = self._load_s = 0.0

    @property
    def up(self) -> bool:
        """Whether it can take conversations, if it has a free row."""
        return self._up

    @property
    def free_rows(self) -> int:
        """Rows that can be opened now."""
        return len(self._free) if self._up else 0

    @property
    def back_in_s(self) -> float:
        """When a worker that is down is likely to be up again, seconds from now."""
        return max(0.0, self._back_s - asyncio.get_running_loop().time())

    def loaded_once(self) -> asyncio.Future[ModelSpec]:
        """Return the future of the first load's outcome; call it before :meth:`supervise` starts."""
        self._first_load = asyncio.get_running_loop().create_future()
        return self._first_load

    async def supervise(self) -> None:
        """Keep the worker running until cancelled; returns only if its very first load fails.

        Cancelling it ends the worker within ``limits.stop_s``, and loses its slots.
        """
        loop = asyncio.get_running_loop()
        backoff_s = self._limits.backoff_first_s
        while True:
            started_s = loop.time()
            died = await self._run_once()
            if self._first_load is not None and not self._first_load.done():
                self._first_load.set_exception(ModelLoadError(died))
                return
            if loop.time() - started_s > self._limits.stable_s:
                backoff_s = self._limits.backoff_first_s
            self._back_s = loop.time() + backoff_s + self._load_s
            log.error("%s: %s; it is started again in %.1f s", self.name, died, backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, self._limits.backoff_max_s)
            self._restarts += 1

    async def open(self, setup: SessionSetup) -> RowSlot:
        """Take a free row; there must be one (:attr:`free_rows`).

        Raises:
            EngineLost: the worker died meanwhile.
            DuplexError: the model refused the conversation.

        A cancelled call closes the row again.
        """
        assert self._up and self._free and self.spec is not None, "open needs a free row"
        self._conversations += 1
        slot = RowSlot(
            self,
            heapq.heappop(self._free),
            self._conversations,
            units_ahead=units_ahead(self.spec.unit_ms),
            stall_limit_s=self._limits.stall_s,
        )
        self._slots[slot.conversation] = slot
        self.post(OpenRow(slot.row, slot.conversation, setup))
        taken = False
        try:
            await slot.opened()
            taken = True
        finally:
            if not taken:
                slot.hang_up()
        return slot

    def post(self, command: Command) -> None:
        """Queue a command. What is posted in one turn of the loop is sent, and mostly stepped, together."""
        if not self._up:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(command)

    def cancel(self, command: CancelTurn) -> None:
        """Send a cancel at once, ahead of everything posted."""
        if self._link is not None:
            self._link.cancel(command)

    def give_up_if_silent(self) -> None:
        """End the worker if it has reported nothing for ``limits.stall_s``."""
        silent_s = asyncio.get_running_loop().time() - self._heard_s
        # Half the limit: a worker that only serves its other rows was heard well within it, while one that is stuck
        # may have sent its last report shortly after the caller began to wait.
        if self._link is None or not self._up or silent_s < self._limits.stall_s / 2:
            return
        log.error("%s has reported nothing for %.1f s; it is ended", self.name, silent_s)
        self._link.kill()
        self._lose_all()

    def statistics(self) -> WorkerStatistics:
        """Return a snapshot; takes some tens of microseconds."""
        usage = UNKNOWN if self._link is None else self._link.usage()
        return WorkerStatistics(
            name=self.name,
            up=self._up,
            rows=self.rows,
            rows_used=len(self._slots),
            units_behind=sum(slot.units_behind for slot in self._slots.values()),
            steps=self._steps,
            units=self._units,
            step_total_s=self._step_total_s,
            step_max_s=self._step_max_s,
            restarts=self._restarts,
            lost_conversations=self._lost_conversations,
            load_s=self._load_s,
            cpu_s=usage.cpu_s,
            rss_bytes=usage.rss_bytes,
        )

    async def _run_once(self) -> str:
        """Run the worker from launch to death; returns how it died."""
        self._last_words = ""
        self._launched_s = asyncio.get_running_loop().time()
        try:
            async with self._launch(self._hear) as link:
                self._link = link
                try:
                    async with asyncio.timeout(self._limits.load_s) as self._loading:
                        died = await link.ended()
                except TimeoutError:
                    died = f"the model was not loaded within {self._limits.load_s:.0f} s"
                finally:
                    self._lose_all()
        except ModelLoadError as error:
            died = str(error)
        finally:
            self._link = None
            self._loading = None
        return self._last_words or died

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._link is not None and unsent:
            self._link.send(unsent)

    def _hear(self, reports: Sequence[Report]) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        for report in reports:
            if isinstance(report, Said):
                if (slot := self._slots.get(report.conversation)) is not None:
                    slot.said(report.output)
            elif isinstance(report, Stepped):
                self._note_step(report)
            else:
                self._hear_rare(report)

    def _note_step(self, report: Stepped) -> None:
        self._steps += 1
        self._units += len(report.conversations)
        self._step_total_s += report.duration_s
        self._step_max_s = max(self._step_max_s, report.duration_s)
        n_rows, waited_s = len(report.conversations), report.waited_s or itertools.repeat(0.0)
        for conversation, wait_s in zip(report.conversations, waited_s, strict=False):
            if (slot := self._slots.get(conversation)) is not None:
                slot.stepped(wait_s, report.duration_s, n_rows)

    def _hear_rare(self, report: Report) -> None:
        match report:
            case RowOpened(conversation):
                if (slot := self._slots.get(conversation)) is not None:
                    slot.opened_now()
            case RowFailed():
                if (slot := self._slots.get(report.conversation)) is not None:
                    slot.failed(report.error)
            case RowClosed(conversation):
                if (slot := self._slots.pop(conversation, None)) is not None:
                    heapq.heappush(self._free, slot.row)
                    slot.freed_now()
            case Loaded(spec):
                self._come_up(spec)
            case LoadFailed(message):
                self._last_words = message
            case Died(message):
                self._last_words = f"the model raised {message}"
            case Logged(logger, level, message):
                logging.getLogger(logger).log(level, "%s: %s", self.name, message)

    def _come_up(self, spec: ModelSpec) -> None:
        assert self._loading is not None, "a worker reports nothing before its launch"
        self._loading.reschedule(None)
        self.spec = spec
        self._load_s = asyncio.get_running_loop().time() - self._launched_s
        self._up = True
        log.info("%s: model %s loaded in %.1f s, %d rows", self.name, spec.name, self._load_s, self.rows)
        if self._first_load is not None and not self._first_load.done():
            self._first_load.set_result(spec)

    def _lose_all(self) -> None:
        self._up = False
        self._unsent = []
        lost, self._slots = self._slots, {}
        self._free = list(range(self.rows))
        self._lost_conversations += len(lost)
        for slot in lost.values():
            slot.lose(EngineLost(self.name))
