"""What the duplex loop is given and what it reports, and how a unit's input is laid out as positions.

Knows nothing about decisions or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.types import Floor, Tokens

__all__ = [
    "Compacted",
    "Event",
    "Head",
    "Layout",
    "RowFull",
    "SaidToken",
    "TurnCut",
    "UnitEnd",
    "UnitInput",
    "embedded",
]


@dataclass(frozen=True, slots=True)
class Head:
    """What a conversation begins with, before its first unit."""

    prefix: Sequence[int]
    suffix: Sequence[int]
    reference: Tensor | None = None
    """Embeddings of the reference voice between the two, ``[n, hidden]``."""

    def layout(self) -> Layout:
        """Return its positions."""
        layout = Layout()
        layout.add(self.prefix)
        if self.reference is not None:
            layout.add(self.reference)
        layout.add(self.suffix)
        return layout


@dataclass(frozen=True, slots=True)
class UnitInput:
    """What one row is given in a unit."""

    row: int
    audio: Tensor | None = None
    """Embeddings of what is heard, ``[10, hidden]``."""
    pictures: Sequence[Tensor] = ()
    """Of each picture the embeddings of the whole and of its slices, ``[1 + slices, queries, hidden]``."""
    text: Sequence[int] = ()
    """Ids of what was typed."""
    floor: Floor = Floor.FREE
    script: Sequence[int] | None = None
    """Tokens that stand in place of the first chosen ones, to replay a recorded conversation; None: choose."""

    @property
    def tokens(self) -> Tokens:
        """What the model reads with it, by kind."""
        seen = sum(picture.shape[0] * picture.shape[1] for picture in self.pictures)
        heard = 0 if self.audio is None else len(self.audio)
        return Tokens(text_in=len(self.text), audio_in=heard, image_in=seen)

    def layout(self, tail: Sequence[int]) -> Layout:
        """Return its positions, behind what ends the unit before (specification §2.4, §4.2)."""
        layout = Layout()
        layout.add([*tail, SPECIAL.unit])
        for picture in self.pictures:
            for number, part in enumerate(picture):
                opening, closing = _PICTURE if number == 0 else _SLICE
                layout.add([opening])
                layout.add(part)
                layout.add([closing])
        if self.audio is not None:
            layout.add(self.audio)
        layout.heard = layout.length - 1
        layout.add(self.text)
        return layout


_PICTURE = (SPECIAL.image, SPECIAL.image_end)
_SLICE = (SPECIAL.slice, SPECIAL.slice_end)


class Layout:
    """Positions of one row: ids and embeddings, one after the other."""

    def __init__(self) -> None:
        self.parts: list[list[int] | Tensor] = []  # ids, or [n, hidden]
        self.length = 0
        self.heard = 0
        """The last position that is no typed text."""

    def add(self, part: Sequence[int] | Tensor) -> None:
        """Append ids, or embeddings ``[n, hidden]``."""
        if len(part):
            self.parts.append(part if isinstance(part, Tensor) else list(part))
            self.length += len(part)


def embedded(layouts: Sequence[Layout], embed: Callable[[Sequence[int]], Tensor]) -> list[Tensor]:
    """Return the embeddings of each layout, ``[length, hidden]``; all ids are looked up in one call."""
    ids = [part for layout in layouts for part in layout.parts if not isinstance(part, Tensor)]
    flat = embed([index for part in ids for index in part])
    found = iter(flat.split([len(part) for part in ids]))
    embeds = []
    for layout in layouts:
        parts = [part.to(flat) if isinstance(part, Tensor) else next(found) for part in layout.parts]
        embeds.append(torch.cat(parts))
    return embeds


@dataclass(frozen=True, slots=True)
class SaidToken:
    """A token was decided that will be spoken."""

    row: int
    turn: int
    token: int


@dataclass(frozen=True, slots=True)
class TurnCut:
    """A turn ended because it was given up or the row lost the floor; nothing more is said in it."""

    row: int
    turn: int


@dataclass(frozen=True, slots=True)
class UnitEnd:
    """A row has decided about its unit."""

    row: int
    turn: int
    """The turn of what is said; the newest one where nothing is."""
    listening: bool
    end_of_turn: bool
    spoken: Sequence[int]
    """Ids that are said; empty where it listens."""
    hidden: Tensor
    """Hidden state of each of them, ``[n, hidden]``."""


@dataclass(frozen=True, slots=True)
class RowFull:
    """A row's context has no room for its unit, which was not taken; it can only be closed."""

    row: int
    of_memory: bool = False
    """There was room, but not the memory to compute it."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """A row's oldest units were dropped."""

    row: int
    length_before: int
    """Positions."""
    length_after: int


Event = SaidToken | TurnCut | UnitEnd | RowFull | Compacted
