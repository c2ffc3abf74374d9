"""The decisions of one conversation within a unit: listen, speak, stop. Plain and synchronous.

Computes with no tensors; the loop over rows (:mod:`duplex_server.models.minicpmo.duplex`) feeds what is decided.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from torch import Tensor

from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.types import Floor

__all__ = ["DuplexRow", "Fed", "SPOKEN_TOKENS_MAX", "Start"]

SPOKEN_TOKENS_MAX = 20
"""Most tokens that are said in a unit. Source: the official ``max_new_speak_tokens_per_chunk``."""
_HISTORY = 512
"""Tokens that the repetition penalty looks back. Source: the official code."""
_TERMINATORS = frozenset({SPECIAL.listen, SPECIAL.chunk_eos, SPECIAL.chunk_tts_eos})
_SAYS_NOTHING = frozenset({*_TERMINATORS, SPECIAL.turn_eos, SPECIAL.speak, SPECIAL.tts_bos, SPECIAL.tts_eos})
_NONE: frozenset[int] = frozenset()


class Fed(enum.Enum):
    """What becomes of a token that was decided."""

    NOT = enum.auto()
    """The unit is over; it ends with the row's tail."""
    SILENTLY = enum.auto()
    """Fed, but neither text nor a condition of speech."""
    SPOKEN = enum.auto()
    """Fed, and what is spoken."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a row was when its unit's input had been taken, to go back to."""

    length: int
    """Positions in the cache."""
    history: tuple[int, ...]
    turn_open: bool
    generator_state: Tensor
    """Of the row's random numbers, uint8."""


class DuplexRow:
    """One conversation. :meth:`cancel` is called from any thread, everything else from one.

    Args:
        official: decide as the official code does, bug for bug (specification §9.2 a–e).
    """

    def __init__(self, *, official: bool = False) -> None:
        self.turn = 0
        """Newest turn that has begun."""
        self.turn_open = False
        self.history: list[int] = []
        """Chosen tokens, the newest :data:`_HISTORY` of them."""
        self.tail: list[int] = []
        """What ends the last unit and is not in the cache yet; it is fed together with the next unit's input."""
        self.spoken: list[int] = []
        """Ids spoken in this unit."""
        self.listening = False
        """Whether this unit was decided to be listened to."""
        self.end_of_turn = False
        """Whether a turn was ended within this unit."""
        self.samples = 0
        """Sound handed out in this turn."""
        self.samples_before = 0
        """The same when this unit began."""
        self.start: Start | None = None
        self._official = official
        self._cancelled = (0, 0)  # turn and samples heard: the only attribute that another thread writes
        self._floor = Floor.FREE
        self._j = 0

    def cancel(self, turn: int, played_samples: int) -> None:
        """Give ``turn`` and all before it up, of which ``played_samples`` were heard. One assignment."""
        if turn >= self._cancelled[0]:
            self._cancelled = (turn, played_samples)

    @property
    def cancelled_turn(self) -> int:
        """Newest turn that is given up."""
        return self._cancelled[0]

    @property
    def decided(self) -> int:
        """Tokens of this unit that have been fed."""
        return self._j

    @property
    def interrupted(self) -> bool:
        """Whether a turn was given up that is still open, or ended in this unit, of which nothing was heard."""
        if self.turn > self._cancelled[0]:
            return False
        return self.turn_open or (self.end_of_turn and self.start is not None and self.unit_unheard)

    @property
    def unit_unheard(self) -> bool:
        """Whether nothing of what this unit says was heard before its turn was given up."""
        turn, played_samples = self._cancelled
        return turn > self.turn or played_samples <= self.samples_before

    def begin(self, length: int, generator_state: Tensor, floor: Floor) -> None:
        """Begin to decide about a unit whose input has been taken.

        Args:
            length: positions in the cache.
            generator_state: of the row's random numbers.
            floor: who may speak.
        """
        self.start = Start(length, tuple(self.history), self.turn_open, generator_state)
        self.tail = []
        self.spoken = []
        self.listening = self.end_of_turn = False
        self.samples_before = self.samples
        self._floor = floor
        self._j = 0

    @property
    def barred(self) -> frozenset[int]:
        """Ids that must not be chosen now: when asked to speak, whatever says nothing, until something is said."""
        asked = self._floor is Floor.SPEAK and self._j > 0
        return _SAYS_NOTHING if asked and not self.spoken else _NONE

    def forced(self) -> int | None:
        """Return the token that need not be chosen, because something else decides."""
        if self._j == SPOKEN_TOKENS_MAX - self._official:  # officially the last of them is this
            return SPECIAL.chunk_eos
        if self._j == 0 and self._floor is Floor.LISTEN:
            return SPECIAL.listen
        if self._j == 0 and self._floor is Floor.SPEAK:
            return SPECIAL.speak
        return None

    def take(self, token: int, *, chosen: bool) -> tuple[Fed, int]:
        """Decide what becomes of a token; returns it or what stands in its place.

        Args:
            token: the next one.
            chosen: by the model, so that it counts as said; not forced.
        """
        if chosen and token != SPECIAL.chunk_eos:
            self.history.append(token)
            del self.history[:-_HISTORY]
        if chosen and token == SPECIAL.listen and self.turn_open:
            token = SPECIAL.tts_bos
        if token == SPECIAL.turn_eos and not self.turn_open and not self._official:
            token = SPECIAL.listen  # there is nothing to be ended
        if token in _TERMINATORS:
            self.listening = token == SPECIAL.listen
            self.tail = [token, SPECIAL.unit_end]
            return Fed.NOT, token
        first = self._j == 0
        self._j += 1
        if not self.turn_open:
            self.turn = max(self.turn, self.cancelled_turn) + 1
            self.turn_open = True
            self.samples = self.samples_before = 0
        self.end_of_turn = token == SPECIAL.turn_eos
        if self.end_of_turn:
            self.turn_open = False
        # Officially the first token is never said, whatever it is.
        if first and (self._official or token == SPECIAL.speak):
            return Fed.SILENTLY, token
        self.spoken.append(token)
        return Fed.SPOKEN, token

    def finished_by(self, token: int) -> bool:
        """Whether the unit is over once ``token`` has been fed; if so, its tail is set."""
        if token != SPECIAL.turn_eos or self._official:
            return False
        self.tail = [SPECIAL.chunk_eos, SPECIAL.unit_end]
        return True

    def close_turn(self) -> None:
        """End the open turn in the unit that has been decided, as if it had ended there by itself."""
        assert self.turn_open
        self.turn_open = False
        self.end_of_turn = True
        self.tail = [SPECIAL.turn_eos, SPECIAL.chunk_eos, SPECIAL.unit_end]

    def unsay(self) -> None:
        """Make this unit one that listened: what was decided in it has never been. Ends the turn that was open."""
        assert self.start is not None
        self.history = list(self.start.history)
        self.turn_open = self.end_of_turn = False
        self.spoken = []
        self.listening = True
        ending = [SPECIAL.turn_eos] if self.start.turn_open else []
        self.tail = [*ending, SPECIAL.listen, SPECIAL.unit_end]

    def shift(self, by: int) -> None:
        """Take note that the newest unit was moved in the cache."""
        if self.start is not None:
            self.start = replace(self.start, length=self.start.length + by)

    def sounded(self, n_samples: int) -> None:
        """Take note of sound of the open turn that was handed out."""
        self.samples += n_samples
