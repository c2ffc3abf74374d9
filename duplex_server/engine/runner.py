"""The device loop: one thread that owns a model, steps it, and reports what it says.

Knows nothing about asyncio, processes or sessions. Commands come from an inbox, reports go to a callable; whether
those are queues or sockets is the caller's affair. This file is the border at which a model's errors are caught.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from duplex_server.engine.batcher import Batcher, Queued, units_ahead
from duplex_server.engine.messages import (
    CancelTurn,
    CloseRow,
    Command,
    Died,
    Loaded,
    LoadFailed,
    OpenRow,
    Report,
    RowClosed,
    RowFailed,
    RowOpened,
    Said,
    Stepped,
    TakeUnit,
)
from duplex_server.errors import DuplexError
from duplex_server.models.base import Model, RowFailure, RowUnit
from duplex_server.types import ModelOutput

__all__ = ["Inbox", "Runner"]

log = logging.getLogger(__name__)

QUIET_S = 0.1
"""How long news that nobody waits for may be kept back when nothing else happens."""


class Inbox(Protocol):
    """Where the runner's commands come from, in order."""

    def take(self, wait_s: float | None) -> Sequence[Command] | None:
        """Return all commands that are there, or None when no more will come.

        Args:
            wait_s: how long to wait for the first one: not at all if 0, for ever if None. Where none came in time,
                the answer is empty.
        """
        ...


class Runner:
    """Runs one model until its inbox ends or the model raises.

    Args:
        build: loads the model; called on the runner's thread.
        emit: takes reports, in order; called on the runner's thread. It may wait.
    """

    def __init__(self, build: Callable[[], Model], emit: Callable[[list[Report]], None]) -> None:
        self._build = build
        self._emit = emit
        self._model: Model | None = None
        self._rows: dict[int, int] = {}  # conversation → row; written by the runner's thread, under the lock
        self._conversations: dict[int, int] = {}  # row → conversation; only the runner's thread uses it
        self._lock = threading.Lock()  # a conversation must not be closed while a cancel uses its row
        self._cancel_error: Exception | None = None
        self._unsent: list[Report] = []
        self._unsent_steps = 0

    def run(self, inbox: Inbox) -> bool:
        """Load the model, then obey the inbox. Returns whether the end was an orderly one.

        The first report is ``Loaded`` or ``LoadFailed``. If the model raises, the last one is ``Died``: the model may
        hold half a step, so all its rows are lost.
        """
        try:
            model = self._build()
        except Exception as error:
            log.exception("the model could not be loaded")
            self._emit([LoadFailed(_message(error))])
            return False
        self._model = model
        self._emit([Loaded(model.spec)])
        try:
            self._obey_all(model, inbox)
        except Exception as error:
            log.exception("the model raised; %d conversations are lost", len(self._rows))
            self._unsent.append(Died(_message(error)))
            self._flush()
            return False
        return True

    def cancel(self, command: CancelTurn) -> None:
        """Tell the model at once that a turn is given up. Called from any thread, also during a step.

        Nothing happens where the conversation is not open (any more). If the model raises, the runner ends before its
        next step, as it does for every other error of the model.
        """
        with self._lock:
            row = self._rows.get(command.conversation)
            if row is None:
                return
            assert self._model is not None, "a row is open, so the model is loaded"
            try:
                self._model.cancel(row, command.turn, command.played_samples)
            except Exception as error:
                log.exception("the model raised when a turn was cancelled")
                self._cancel_error = error

    def _obey_all(self, model: Model, inbox: Inbox) -> None:
        ahead = units_ahead(model.spec.unit_ms)
        batcher = Batcher(ahead)
        # A sender with `ahead` units on their way waits. Two fewer may be taken in without its being told, so there is
        # always one more to take in, after which it is told.
        quiet_steps = ahead - 2
        while (commands := inbox.take(self._patience_s(batcher))) is not None:
            for command in commands:
                self._obey(command, model, batcher)
            if self._cancel_error is not None:
                raise self._cancel_error
            if not commands and not batcher.ready:
                self._flush()
            if batcher.ready:
                self._step(batcher.take(), model)
                if self._unsent_steps > quiet_steps:
                    self._flush()
        for conversation in list(self._rows):
            self._close(conversation, model, batcher)
        self._flush()

    def _patience_s(self, batcher: Batcher) -> float | None:
        if batcher.ready:
            return 0.0
        return QUIET_S if self._unsent else None

    def _obey(self, command: Command, model: Model, batcher: Batcher) -> None:
        if isinstance(command, TakeUnit):
            row = self._rows[command.conversation]
            batcher.put(Queued(row, command.unit, command.setup, time.perf_counter()))
        elif isinstance(command, OpenRow):
            self._open(command, model)
        else:
            assert isinstance(command, CloseRow), command
            self._close(command.conversation, model, batcher)
            self._unsent.append(RowClosed(command.conversation))
            self._flush()

    def _open(self, command: OpenRow, model: Model) -> None:
        try:
            model.open(command.row, command.setup)
        except DuplexError as error:
            self._unsent.append(RowFailed.of(command.conversation, error))
        else:
            self._conversations[command.row] = command.conversation
            with self._lock:
                self._rows[command.conversation] = command.row
            self._unsent.append(RowOpened(command.conversation))
        self._flush()

    def _close(self, conversation: int, model: Model, batcher: Batcher) -> None:
        with self._lock:
            row = self._rows.pop(conversation, None)
        if row is None:
            return  # it was refused
        del self._conversations[row]
        batcher.drop(row)
        model.close(row)

    def _step(self, batch: list[Queued], model: Model) -> None:
        for queued in batch:
            if queued.setup is not None:
                model.configure(queued.row, queued.setup)
        stepped = tuple(self._conversations[queued.row] for queued in batch)
        started_s = time.perf_counter()
        for said in model.step([RowUnit(queued.row, queued.unit) for queued in batch]):
            conversation = self._conversations.get(said.row)
            if conversation is None:
                log.warning("the model yielded output for row %d, which is not open; dropped", said.row)
                continue
            if isinstance(said, RowFailure):
                self._unsent.append(RowFailed.of(conversation, said.error))
                self._flush()
                continue
            self._unsent.append(Said(conversation, said.output))
            if _is_urgent(said.output):
                self._flush()
        waited_s = tuple(started_s - queued.came_s for queued in batch)
        self._unsent.append(Stepped(stepped, time.perf_counter() - started_s, waited_s))
        self._unsent_steps += 1

    def _flush(self) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            self._unsent_steps = 0
            self._emit(unsent)


def _is_urgent(output: ModelOutput) -> bool:
    """Tell whether somebody may be waiting for ``output``; what only says "I listen" goes out with later news.

    An idle conversation's outputs are all of that kind, and waking the receiver is most of what each of them costs.
    """
    return bool(
        not output.listening
        or output.audio.size
        or output.text
        or output.end_of_turn
        or output.yields
        or output.heard is not None
        or output.end_of_session
    )


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, DuplexError) else f"{type(error).__name__}: {error}"
