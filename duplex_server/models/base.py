"""The border to model authors: one class to write, synchronous, batched, called from one thread.

Knows nothing about asyncio, sessions or sockets. ``docs/models.md`` shows how to write one in an afternoon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from duplex_server.errors import DuplexError
from duplex_server.types import ModelOutput, ModelSpec, SessionSetup, Unit

__all__ = ["Model", "RowFailure", "RowOutput", "RowUnit"]


@dataclass(frozen=True, slots=True)
class RowUnit:
    """The next unit of one conversation."""

    row: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class RowOutput:
    """Something that one conversation's row has to say, or decided."""

    row: int
    output: ModelOutput


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One conversation cannot go on, and no other is touched. The row is closed soon; nothing more may come of it."""

    row: int
    error: DuplexError
    """What its peer is told."""


class Model(Protocol):
    """A duplex model that holds several conversations, each in a row of its own.

    Every method but :meth:`cancel` is called from one thread, never two at a time. Rows are small integers chosen by
    the engine, below the ``rows`` that the model was built with; a row is opened before its first unit and closed once.
    A model that raises loses all its rows: what fails in a single conversation ends its turn, or is a
    :class:`RowFailure`.
    """

    spec: ModelSpec

    def open(self, row: int, setup: SessionSetup) -> None:
        """Start a conversation in a free row; nothing of the row's former conversation may be left.

        Raises:
            DuplexError: this conversation cannot be had, say for lack of memory; the row stays closed.
        """
        ...

    def configure(self, row: int, setup: SessionSetup) -> None:
        """Change a running conversation's set-up, from its next unit on.

        What cannot be had is a :class:`~duplex_server.types.Refusal` among the outputs of that unit, with the set-up's
        revision; the conversation then goes on as it was.
        """
        ...

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput | RowFailure]:
        """Take one unit for each of some rows and yield what they say, as it is made.

        Args:
            batch: at most one unit per row, in no particular order.

        Yields:
            Outputs as soon as they exist, so that first audio need not wait for the unit's end. Audio of a turn comes
            at real-time pace: no more than about a second ahead of the units given since the turn began.
        """
        ...

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        """Give up ``turn`` and everything before it. Thread-safe; seen between decode steps.

        Args:
            row: the conversation.
            turn: newest turn that must not be heard any further; later turns get higher numbers.
            played_samples: samples of ``turn`` (at ``spec.output_rate_hz``) that the user really heard.
        """
        ...

    def close(self, row: int) -> None:
        """End a conversation and free its row. No output for the row may be yielded afterwards."""
        ...
