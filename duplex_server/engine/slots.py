"""The event loop's end of one conversation: flow control towards the worker, a queue of what the model says.

Knows nothing about models or how a worker runs; it posts commands and is told reports.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Protocol, Self

from duplex_server.engine.base import UnitDone
from duplex_server.engine.messages import CancelTurn, CloseRow, Command, TakeUnit
from duplex_server.errors import DuplexError, ModelError, ModelTimeout
from duplex_server.types import ModelOutput, SessionSetup, Unit, UnitCost

__all__ = ["Desk", "RowSlot"]

OUTPUTS_MAX = 256
"""Outputs that may wait for a session. One that reads takes them at once, so so many mean that it does not.

Models speak at most about a second ahead, in pieces of 20 ms or more: 50 outputs.
"""


class Desk(Protocol):
    """What a slot needs of its worker."""

    def post(self, command: Command) -> None:
        """Send a command after those posted before. Never waits."""
        ...

    def cancel(self, command: CancelTurn) -> None:
        """Send a cancel ahead of everything posted. Never waits."""
        ...

    def give_up_if_silent(self) -> None:
        """End the worker if it has reported nothing for longer than it may; all its slots are then lost."""
        ...


class RowSlot:
    """A :class:`~duplex_server.engine.base.Slot`.

    Args:
        desk: the worker that has the row.
        row: the row's number, for the worker.
        conversation: number of the conversation, never used twice by the worker.
        units_ahead: units that may be with the worker; one more waits in :meth:`push`.
        stall_limit_s: how long a call waits for a worker before the conversation is given up.
    """

    def __init__(self, desk: Desk, row: int, conversation: int, *, units_ahead: int, stall_limit_s: float) -> None:
        self.row = row
        self.conversation = conversation
        self._desk = desk
        self._units_ahead = units_ahead
        self._stall_limit_s = stall_limit_s
        self._behind = 0
        self._setup: SessionSetup | None = None  # goes with the next unit
        self._outputs: deque[ModelOutput] = deque()  # full: the slot fails, see `said`
        self._on_unit: Callable[[UnitDone], None] | None = None
        self._n_stepped = 0
        self._spoke = False  # since the last unit was taken in
        self._cost: UnitCost | None = None
        self._failure: DuplexError | None = None
        self._closing = False
        self._opened = asyncio.Event()
        self._freed = asyncio.Event()
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def units_behind(self) -> int:
        """Units handed over that have not been taken in."""
        return self._behind

    async def opened(self) -> None:
        """Wait until the model has taken the conversation in.

        Raises:
            EngineLost: the worker died, or was given up because it did not answer.
            DuplexError: the model refused the conversation.

        A cancelled call leaves the slot to be closed.
        """
        try:
            async with asyncio.timeout(self._stall_limit_s):
                await self._opened.wait()
        except TimeoutError:
            self._desk.give_up_if_silent()
            raise self._failure or ModelTimeout(0) from None
        self._raise_failure()

    async def push(self, unit: Unit) -> None:
        """Hand over the next unit; waits while the worker has :attr:`units_ahead` of this conversation.

        Raises:
            EngineLost: the worker died; the slot is of no further use.
            ModelTimeout: the worker did not take a unit in for as long as it may.
            ModelError: the queue of outputs was full.
            DuplexError: the model cannot go on with this conversation.

        A cancelled call has left the slot unchanged: nothing is awaited after the unit is handed over.
        """
        assert not self._closing, "push after aclose"
        if self._behind >= self._units_ahead and self._failure is None:
            await self._wait_for_room(unit.index)
        self._raise_failure()
        self._behind += 1
        setup, self._setup = self._setup, None
        self._desk.post(TakeUnit(self.conversation, unit, setup))

    def outputs(self) -> AsyncIterator[ModelOutput]:
        """Iterate over the model's outputs; one iterator at a time.

        Raises:
            EngineLost: the worker died; raised after the outputs that came before.
            ModelError: the queue was full, likewise.
            DuplexError: the model cannot go on with this conversation, likewise.

        A cancelled wait leaves all outputs in the queue.
        """
        return _Outputs(self)

    async def next_output(self) -> ModelOutput:
        """Return the next output; see :meth:`outputs`."""
        while not self._outputs:
            if self._closing:
                raise StopAsyncIteration
            self._raise_failure()
            self._news.clear()
            await self._news.wait()
        return self._outputs.popleft()

    def watch(self, on_unit: Callable[[UnitDone], None] | None) -> None:
        """Have every unit reported as it is taken in, which is before its outputs are read."""
        self._on_unit = on_unit

    def cancel(self, turn: int, played_samples: int) -> None:
        """See :meth:`duplex_server.engine.base.Slot.cancel`. Ignored once the slot is closed or lost."""
        if not self._closing and self._failure is None:
            self._desk.cancel(CancelTurn(self.conversation, turn, played_samples))

    def configure(self, setup: SessionSetup) -> None:
        """Change the conversation's set-up from the next pushed unit on; of several since the last one, the newest."""
        self._setup = setup

    async def aclose(self) -> None:
        """End the conversation, and wait until its row is free for another one.

        A cancelled call has told the worker already; the row becomes free when the worker has confirmed.
        """
        self.hang_up()
        try:
            async with asyncio.timeout(self._stall_limit_s):
                await self._freed.wait()
        except TimeoutError:
            self._desk.give_up_if_silent()

    def hang_up(self) -> None:
        """Ask the worker to close the row; nothing that it still says is kept. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._outputs.clear()
        self._news.set()
        if not self._freed.is_set():
            self._desk.post(CloseRow(self.conversation))

    def opened_now(self) -> None:
        """Take note: the model has the conversation."""
        self._opened.set()

    def said(self, output: ModelOutput) -> None:
        """Queue an output. A full queue fails the slot: leaving one out would leave a hole in what is heard."""
        if self._closing or self._failure is not None:
            return
        if len(self._outputs) == OUTPUTS_MAX:
            self._fail(ModelError(f"{OUTPUTS_MAX} outputs of the model were waiting to be read"))
            return
        self._spoke = self._spoke or bool(output.turn and (len(output.audio) or output.text))
        self._cost = output.cost or self._cost
        self._outputs.append(replace(output, unit=self._n_stepped))
        self._news.set()

    def stepped(self, waited_s: float = 0.0, step_s: float = 0.0, n_rows: int = 1) -> None:
        """Take note: a unit has been taken in.

        Args:
            waited_s: how long it had waited in the worker.
            step_s: how long the step took.
            n_rows: how many conversations it was for.
        """
        self._behind -= 1
        if self._on_unit is not None:
            self._on_unit(UnitDone(self._n_stepped, self._spoke, waited_s * 1000, step_s * 1000, n_rows, self._cost))
        self._n_stepped += 1
        self._spoke, self._cost = False, None
        self._room.set()

    def freed_now(self) -> None:
        """Take note: the worker has forgotten the conversation."""
        self._behind = 0
        self._freed.set()

    def failed(self, error: DuplexError) -> None:
        """Take note: the model has refused the conversation, or cannot go on with it."""
        self._fail(error)
        self._opened.set()

    def lose(self, error: ModelError) -> None:
        """Take note: the worker is gone."""
        self._behind = 0
        self._fail(error)
        self._opened.set()
        self._freed.set()

    def _fail(self, error: DuplexError) -> None:
        self._failure = self._failure or error
        self._news.set()
        self._room.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait_for_room(self, unit_index: int) -> None:
        try:
            async with asyncio.timeout(self._stall_limit_s):
                while self._behind >= self._units_ahead and self._failure is None:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self._desk.give_up_if_silent()
            raise ModelTimeout(unit_index) from None


class _Outputs:
    """An iterator without a frame of its own, so nothing is left to be finalised when its user is cancelled."""

    def __init__(self, slot: RowSlot) -> None:
        self._slot = slot

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelOutput:
        return await self._slot.next_output()
