"""Places for conversations, and the line of those who wait for one.

Whoever asks to wait is told its position and how long it may take; everybody else is turned away while the server is
full or others wait. Knows nothing about what a session does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Protocol

from duplex_server.errors import CapacityError
from duplex_server.session.transport import Transport
from duplex_server.wire.events import SessionQueued, SessionQueueDone, SessionQueueUpdate

__all__ = ["Admission", "Doorkeeper", "Line", "Place", "stand_in_line", "wait_s"]

_USUAL_SESSION_S = 120.0
"""How long a conversation lasts before any has ended, for the estimate given to those who find the server full."""
_SESSION_STEP = 0.2
"""Weight of the newest session's length in that estimate."""
_LOOK_S = 1.0
"""How often somebody in the line is looked at: whether it is still there, and what it should be told."""
_TELL_S = 10.0
"""Nobody waits longer without a word, so that a client can tell a line from a connection that broke."""


class Place:
    """The right to one session, or to the one after those ahead in the line; given back once, by whoever holds it."""

    def __init__(
        self, give_back: Callable[[], None], position: int = 0, on_move: Callable[[int], None] | None = None
    ) -> None:
        """
        Args:
            give_back: called when it is given back.
            position: how many places have to fall free.
            on_move: called with each new position.
        """
        self.on_move = on_move
        self._ends: list[Callable[[], None]] = [give_back]
        self.position = position
        """How many places have to fall free; 0 when it is there."""
        self.change = asyncio.Event()
        """Set when :attr:`position` changes."""

    def release(self) -> None:
        """Give the place back, or leave the line. Safe to call twice."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    def also(self, end: Callable[[], None]) -> None:
        """Have something called when the place is given back."""
        self._ends.append(end)

    def hand_on(self) -> Place:
        """Give the right to another holder; releasing this one then does nothing."""
        assert not self.position, "one's position in the line is one's own"
        held = Place(lambda: None)
        held._ends, self._ends = self._ends, []
        return held

    def move(self, position: int) -> None:
        """Take note of a new position."""
        if position != self.position:
            self.position = position
            self.change.set()
            if self.on_move is not None:
                self.on_move(position)


class Line(Protocol):
    """What those who wait are told of."""

    @property
    def closed(self) -> bool:
        """Whether the server stops: nobody is let in any more."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...

    def estimate_s(self, position: int) -> float:
        """How long it may be until ``position`` places have fallen free."""
        ...

    def look(self) -> None:
        """Give places that can be had now to those who wait."""
        ...


class Doorkeeper(Protocol):
    """Decides who may have a session: :class:`Admission`, or what speaks for one that several processes share."""

    closed: bool
    """Whether the server stops: nobody is let in any more. Set by the manager."""

    @property
    def ready(self) -> bool:
        """Whether a session could begin."""
        ...

    @property
    def places(self) -> int:
        """Sessions that may run at once."""
        ...

    @property
    def sessions(self) -> int:
        """Places in use."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...

    async def enter(self, *, queue: bool) -> Place:
        """Take a place, or the end of the line; see :meth:`Admission.admit`. A cancelled call takes none."""
        ...

    async def wait(self, place: Place, transport: Transport) -> bool:
        """See :func:`stand_in_line`."""
        ...

    async def empty(self) -> None:
        """Wait until none of the places that were taken here is in use."""
        ...

    def note_length(self, duration_s: float) -> None:
        """Learn how long sessions last."""
        ...


async def stand_in_line(line: Line, place: Place, transport: Transport) -> bool:
    """Let a peer wait for its place, and tell it how that goes.

    Returns:
        Whether it came to the place; False if the peer left before.

    Raises:
        CapacityError: the server stops.

    Cancelled, it leaves the place to be released.
    """
    loop = asyncio.get_running_loop()
    ticket, n_told, told_s = secrets.token_hex(8), 0, loop.time()
    told: tuple[int, float] | None = None
    while place.position and not transport.ended:
        if line.closed:
            raise CapacityError(line.estimate_s(place.position))
        news = (place.position, round(line.estimate_s(place.position), 1))
        if news != told or loop.time() >= told_s + _TELL_S:
            kind = SessionQueueUpdate if told else SessionQueued
            n_told, told, told_s = n_told + 1, news, loop.time()
            transport.send(
                kind(
                    event_id=f"event_{ticket}{n_told:06x}",
                    ticket_id=ticket,
                    position=news[0],
                    estimated_wait_s=news[1],
                    queue_length=max(line.waiting, news[0]),
                )
            )
        place.change.clear()
        try:
            async with asyncio.timeout(_LOOK_S):
                await place.change.wait()
        except TimeoutError:
            line.look()  # a worker may have come back
    if place.position:
        return False
    transport.send(SessionQueueDone(event_id=f"event_{ticket}{n_told + 1:06x}", ticket_id=ticket))
    return True


def wait_s(position: int, usual_s: float, places: int) -> float:
    """How long it may be until ``position`` places have fallen free, where sessions last ``usual_s``."""
    # With n places taken for a usual length each, one falls free after every n-th part of it.
    return max(1.0, position * usual_s / max(1, places))


class Admission:
    """Counts places, and keeps the line.

    Args:
        places: how many sessions fit now.
        ready: whether sessions could begin at all.
        line_max: how many may wait.
    """

    def __init__(self, *, places: Callable[[], int], ready: Callable[[], bool], line_max: int) -> None:
        self._places = places
        self._ready = ready
        self._line_max = line_max
        self._line: deque[Place] = deque()  # bounded by line_max
        self.usual_s = _USUAL_SESSION_S
        """How long sessions last."""
        self._idle = asyncio.Event()
        self.taken = 0
        """Places in use."""
        self.closed = False
        """Whether the server stops: nobody is let in any more."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def ready(self) -> bool:
        """Whether a session could begin."""
        return self._ready() and not self.closed

    @property
    def places(self) -> int:
        """Sessions that may run at once."""
        return self._places()

    @property
    def sessions(self) -> int:
        """Places in use."""
        return self.taken

    async def enter(self, *, queue: bool) -> Place:
        """Do as :meth:`admit`, which needs no waiting here."""
        return self.admit(queue=queue)

    def admit(self, *, queue: bool) -> Place:
        """Take a place, or the end of the line.

        Args:
            queue: whether to wait where there is no place.

        Raises:
            CapacityError: there is none, and none to wait for.
        """
        if not self.closed and self._ready() and not self._line and self.taken < self._places():
            self.taken += 1
            return Place(self._free)
        if not queue or self.closed or len(self._line) >= self._line_max:
            raise CapacityError(self.estimate_s(len(self._line) + 1))
        place = Place(lambda: self._leave(place), len(self._line) + 1)
        self._line.append(place)
        return place

    async def wait(self, place: Place, transport: Transport) -> bool:
        """See :func:`stand_in_line`."""
        return await stand_in_line(self, place, transport)

    async def empty(self) -> None:
        """Wait until no place is taken."""
        while self.taken:
            self._idle.clear()
            await self._idle.wait()

    def note_length(self, duration_s: float) -> None:
        """Learn how long sessions last."""
        self.usual_s += _SESSION_STEP * (duration_s - self.usual_s)

    def estimate_s(self, position: int) -> float:
        """How long it may be until ``position`` places have fallen free."""
        return wait_s(position, self.usual_s, self._places())

    def _free(self) -> None:
        self.taken -= 1
        self.look()
        if not self.taken:
            self._idle.set()

    def _leave(self, place: Place) -> None:
        """Take a place out of the line, or give it back if it was reached."""
        if place.position:
            self._line.remove(place)
            self._renumber()
        else:
            self._free()

    def look(self) -> None:
        """Give places that can be had now to those who wait."""
        while self._line and not self.closed and self._ready() and self.taken < self._places():
            self.taken += 1
            self._line.popleft().move(0)
        self._renumber()

    def _renumber(self) -> None:
        for number, place in enumerate(self._line):
            place.move(number + 1)
