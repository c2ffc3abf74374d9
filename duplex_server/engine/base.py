"""The border to sessions: asynchronous, one conversation at a time.

Two protocols stand around a model because two people meet there: its author thinks in rows and tensors
(:mod:`duplex_server.models.base`), the session in seconds. Knows nothing about wire formats or transports.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit, UnitCost

__all__ = ["Engine", "Slot", "UnitDone"]


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A unit was taken in; all that the model says to it came before."""

    index: int
    """:attr:`Unit.index`."""
    spoke: bool
    """Whether the model said anything to it."""
    waited_ms: float
    """In the worker, for the step before."""
    step_ms: float
    """Of the whole batch."""
    n_rows: int
    """Conversations in the batch."""
    cost: UnitCost | None
    """What the model says of it."""


class Slot(Protocol):
    """A session's hold on one row of a model. Used by one session, on the event loop."""

    async def push(self, unit: Unit) -> None:
        """Hand over the next unit; waits while the engine is behind.

        Raises:
            EngineLost: the worker died; the slot is of no further use.
            DuplexError: the model cannot go on with this conversation.

        A cancelled call has either handed the unit over or left the slot unchanged.
        """
        ...

    def outputs(self) -> AsyncIterator[ModelOutput]:
        """Iterate over the model's outputs, in the order it made them; ends after :meth:`aclose`.

        Raises:
            EngineLost: the worker died.
            DuplexError: the model cannot go on with this conversation.
            ModelError: outputs came so far ahead of real time that the bounded queue was full.
        """
        ...

    def watch(self, on_unit: Callable[[UnitDone], None] | None) -> None:
        """Have every unit reported that is taken in from now on; None to end it. Never waits."""
        ...

    def cancel(self, turn: int, played_samples: int) -> None:
        """Tell the model that ``turn`` and all before it are given up; see :meth:`Model.cancel`. Never waits."""
        ...

    def configure(self, setup: SessionSetup) -> None:
        """Change the conversation's set-up from its next unit on. Never waits."""
        ...

    async def aclose(self) -> None:
        """Free the row. Safe to call twice, and after the worker died."""
        ...


class Engine(Protocol):
    """Places for conversations, on however many workers. An async context manager that owns its workers."""

    @property
    def spec(self) -> ModelSpec:
        """The model's spec; known once the context is entered."""
        ...

    @property
    def places(self) -> int:
        """Conversations that fit when all workers are up."""
        ...

    @property
    def ready(self) -> bool:
        """Whether at least one worker can take a conversation."""
        ...

    async def open(self, setup: SessionSetup) -> Slot:
        """Take a free row.

        Raises:
            CapacityError: no row is free, no worker is up, or the worker has no memory for it.
            DuplexError: the model refused the conversation.
        """
        ...

    async def __aenter__(self) -> Self:
        """Load the model; returns when it can take conversations. Raises ModelLoadError."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workers, within a limit."""
        ...
