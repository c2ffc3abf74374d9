"""The conversation's items, as far back as a client may still ask for them. Bounded; the oldest go silently.

Knows nothing about events. What a model remembers is the model's own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from duplex_server.types import OUTPUT_RATE_HZ
from duplex_server.wire.ids import Ids
from duplex_server.wire.objects import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputAudioPart,
    Item,
    ItemStatus,
    MessageItem,
    OutputAudioPart,
    OutputTextPart,
)

__all__ = ["Given", "History", "Spoken"]

MAX_ITEMS = 512
"""Ours: some hours of conversation; a client that wants more keeps it itself."""
MAX_PICTURES = 4
"""Ours. Clients send a camera as one item per second, and never ask for one again."""
MAX_CHARS = 1_000_000
"""Ours: text that one session's history may hold."""
MAX_FORGOTTEN = 4096
"""Ids of items that were let go, so that a late reference to one is no error; beyond it the oldest are errors."""


@dataclass(slots=True)
class Given:
    """An item that is complete as it is: the user's, or one that the client brought."""

    item: Item
    is_picture: bool = False

    @property
    def n_chars(self) -> int:
        """Characters of text in it."""
        if isinstance(self.item, FunctionCallItem):
            return len(self.item.arguments)
        if isinstance(self.item, FunctionCallOutputItem):
            return len(self.item.output)
        texts = (getattr(part, "text", None) or getattr(part, "transcript", None) for part in self.item.content)
        return sum(len(text) for text in texts if text)

    def transcribe(self, transcript: str) -> None:
        """Set what the user was understood to say."""
        assert isinstance(self.item, MessageItem), "only messages are spoken"
        self.item = MessageItem(
            id=self.item.id,
            role=self.item.role,
            status=self.item.status,
            content=[InputAudioPart(transcript=transcript)],
        )


@dataclass(slots=True)
class Spoken:
    """An assistant's item while, and after, it is spoken."""

    item_id: str
    text_only: bool = False
    status: ItemStatus = "in_progress"
    pieces: list[tuple[int, str]] = field(default_factory=list)
    """Text, and where in the item's audio it starts, ms."""
    generated_samples: int = 0
    end_ms: int | None = None
    """Where it was truncated."""
    n_chars: int = 0

    @property
    def generated_ms(self) -> int:
        """Audio made for it, ms."""
        return self.generated_samples * 1000 // OUTPUT_RATE_HZ

    @property
    def full_text(self) -> str:
        """All its text, heard or not."""
        return "".join(text for _, text in self.pieces)

    @property
    def item(self) -> MessageItem:
        """The item with the text that was heard, as far as that is known."""
        heard = self.end_ms
        text = self.full_text if heard is None else "".join(text for start_ms, text in self.pieces if start_ms < heard)
        return self.item_with(text)

    def item_with(self, text: str) -> MessageItem:
        """Return the item with ``text`` for its content; empty if nothing has begun."""
        part = OutputTextPart(text=text) if self.text_only else OutputAudioPart(transcript=text)
        return MessageItem(id=self.item_id, role="assistant", status=self.status, content=[part])

    def add_text(self, text: str, audio_ms: int) -> None:
        """Append text that starts to be heard at ``audio_ms``."""
        self.pieces.append((audio_ms, text))
        self.n_chars += len(text)

    def marks(self, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
        """Return where words end within a stretch of its audio: characters spoken by then, and the place, ms.

        A piece of text ends where the next one starts; of the newest that is not known.
        """
        marks, n_chars = [], 0
        for (_, text), (next_ms, _) in itertools.pairwise(self.pieces):
            n_chars += len(text)
            if start_ms < next_ms <= end_ms:
                marks.append((n_chars, next_ms))
        return marks

    def clamp_ms(self, position_ms: float) -> int:
        """Return a position within its audio, whatever a peer believes."""
        return int(max(0.0, min(position_ms, self.generated_ms)))

    def truncate(self, audio_end_ms: float) -> int:
        """Cut it at what was heard, and return where it ends now; never later than before."""
        end_ms = self.clamp_ms(audio_end_ms)
        if self.end_ms is not None:
            end_ms = min(end_ms, self.end_ms)
        if not self.text_only:
            self.end_ms = end_ms
        return end_ms


Entry = Given | Spoken


class History:
    """Items in conversation order."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._forgotten: dict[str, None] = {}

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._entries

    def get(self, item_id: str) -> Entry | None:
        """Return an item, or None if it never was, or is no longer, here."""
        return self._entries.get(item_id)

    def was_forgotten(self, item_id: str) -> bool:
        """Whether an item was here and had to make room."""
        return item_id in self._forgotten

    def new_id(self, ids: Ids) -> str:
        """Return an item id that no item here has; a client may have made up one of ours."""
        while (item_id := ids.item()) in self._entries:
            pass
        return item_id

    def add(self, item_id: str, entry: Entry, *, after: str | None = None, first: bool = False) -> str | None:
        """Put an item in, and let old ones go if there are too many.

        Args:
            item_id: not in the history yet.
            entry: the item.
            after: id of the item to follow; absent or unknown: at the end.
            first: before all others.

        Returns:
            Id of the item before it; None at the front.
        """
        if first:
            place = 0
        elif after is not None and after in self._entries:
            place = self._order.index(after) + 1
        else:
            place = len(self._order)
        self._order.insert(place, item_id)
        self._entries[item_id] = entry
        previous = self._order[place - 1] if place else None
        self._make_room(item_id)
        return previous

    def remove(self, item_id: str) -> bool:
        """Take an item out; returns whether it was there, or had been."""
        if item_id in self._entries:
            del self._entries[item_id]
            self._order.remove(item_id)
            return True
        if item_id in self._forgotten:
            del self._forgotten[item_id]
            return True
        return False

    def _make_room(self, newest: str) -> None:
        pictures = [key for key in self._order if isinstance(entry := self._entries[key], Given) and entry.is_picture]
        for key in pictures[:-MAX_PICTURES]:
            self._forget(key)
        n_chars = sum(entry.n_chars for entry in self._entries.values())
        for key in list(self._order):
            if len(self._order) <= MAX_ITEMS and n_chars <= MAX_CHARS:
                return
            if key != newest:
                n_chars -= self._entries[key].n_chars
                self._forget(key)

    def _forget(self, item_id: str) -> None:
        self.remove(item_id)
        self._forgotten[item_id] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
