"""Answers to what clients do with the conversation's items: create, retrieve, truncate, delete.

Knows nothing about responses and speech; it works on the history that they fill.
"""

from __future__ import annotations

from duplex_server.errors import InvalidEvent
from duplex_server.wire.audio_format import AudioFormat
from duplex_server.wire.client_events import (
    ConversationItemCreate,
    ConversationItemDelete,
    ConversationItemRetrieve,
    ConversationItemTruncate,
)
from duplex_server.wire.client_items import check_item_id, read_item
from duplex_server.wire.history import Given, History, Spoken
from duplex_server.wire.ids import Ids
from duplex_server.wire.objects import MessageItem
from duplex_server.wire.reply import Reply
from duplex_server.wire.server_events import (
    ConversationItemAdded,
    ConversationItemDeleted,
    ConversationItemDone,
    ConversationItemRetrieved,
    ConversationItemTruncated,
)

__all__ = ["ItemAnswers"]


class ItemAnswers:
    """The conversation as a client edits it. Every method raises ClientError for what cannot be done."""

    def __init__(self, ids: Ids, history: History, *, image_max_bytes: int) -> None:
        self._ids = ids
        self._history = history
        self._image_max_bytes = image_max_bytes

    def create(self, event: ConversationItemCreate, *, reserved: str | None, audio_format: AudioFormat) -> Reply:
        """Put a client's item in, under the client's id if it brought one.

        Args:
            event: the client event.
            reserved: an id that is given out and not in the history yet.
            audio_format: of ``input_audio`` parts.
        """
        item_id = event.item.id
        if item_id is None:
            item_id = self._history.new_id(self._ids)
        check_item_id(item_id)
        if item_id in self._history or item_id == reserved:
            raise InvalidEvent(
                "There is an item with this id already.", param="item.id", code="item_create_duplicate_item_id"
            )
        after = event.previous_item_id
        known = after in (None, "root", reserved) or after in self._history
        if after is not None and not known and not self._history.was_forgotten(after):
            raise InvalidEvent("There is no item with this id to follow.", param="previous_item_id")
        read = read_item(
            event.item,
            item_id=item_id,
            event_id=event.event_id,
            audio_format=audio_format,
            image_max_bytes=self._image_max_bytes,
        )
        entry = Given(read.item, is_picture=read.is_picture)
        previous = self._history.add(item_id, entry, after=after, first=after == "root")
        return Reply(
            [
                ConversationItemAdded(event_id=self._ids.event(), item=read.item, previous_item_id=previous),
                ConversationItemDone(event_id=self._ids.event(), item=read.item, previous_item_id=previous),
            ],
            read.requests,
        )

    def retrieve(self, event: ConversationItemRetrieve) -> Reply:
        """Show an item."""
        entry = self._history.get(event.item_id)
        if entry is None:
            raise InvalidEvent("There is no item with this id.", param="item_id", code="item_retrieve_invalid_item_id")
        return Reply([ConversationItemRetrieved(event_id=self._ids.event(), item=entry.item)])

    def truncate(self, event: ConversationItemTruncate) -> Reply:
        """Cut an assistant's item to what was heard. Too far, too often or too early is no error: it is clamped."""
        entry = self._history.get(event.item_id)
        end_ms = 0
        if isinstance(entry, Spoken):
            if event.content_index != 0:
                raise InvalidEvent("The item has one part, with index 0.", param="content_index")
            end_ms = entry.truncate(event.audio_end_ms)
        elif isinstance(entry, Given) and not _is_assistant(entry):
            raise InvalidEvent(
                "Only what the assistant said can be truncated.", param="item_id", code="unsupported_content_type"
            )
        elif entry is None and not self._history.was_forgotten(event.item_id):
            raise InvalidEvent("There is no item with this id.", param="item_id", code="item_truncate_invalid_item_id")
        return Reply(
            [ConversationItemTruncated(event_id=self._ids.event(), item_id=event.item_id, audio_end_ms=end_ms)]
        )

    def delete(self, event: ConversationItemDelete) -> Reply:
        """Take an item out."""
        if not self._history.remove(event.item_id):
            raise InvalidEvent("There is no item with this id.", param="item_id", code="item_delete_invalid_item_id")
        return Reply([ConversationItemDeleted(event_id=self._ids.event(), item_id=event.item_id)])


def _is_assistant(entry: Given) -> bool:
    return isinstance(entry.item, MessageItem) and entry.item.role == "assistant"
