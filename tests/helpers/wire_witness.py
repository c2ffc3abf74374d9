"""Hears everything that a server sends over one connection, as text, and finds what is not in shape or out of order.

The shape is openai-python's own models, where they know the event; the order is the oracle's. It shares no code with
``duplex_server.wire``.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from tests.helpers.openai_schema import validate
from tests.helpers.wire_oracle import EXTENSIONS, OrderError, WireOracle

__all__ = ["LONGEST_BYTES", "Witness", "check_shape"]

LONGEST_BYTES = 1 << 20
"""Longest message that every client takes: pipecat leaves ``websockets`` at its default ``max_size``."""


def check_shape(message: str | bytes) -> dict[str, Any]:
    """Read one message and hold it against openai-python's model of its event.

    Raises:
        OrderError: it is not one JSON object of a known type in a shape that clients take.
    """
    if isinstance(message, bytes):
        raise OrderError(f"a binary message of {len(message)} bytes")
    if len(message.encode()) >= LONGEST_BYTES:
        raise OrderError(f"a message of {len(message)} characters")
    event = json.loads(message, parse_constant=_refuse, object_pairs_hook=_without_twins)
    if not isinstance(event, dict):
        raise OrderError(f"not an object: {message}")
    try:
        known = validate(event)
    except ValidationError as wrong:
        raise OrderError(f"not in OpenAI's shape: {wrong}") from wrong
    if not known and event.get("type") not in EXTENSIONS:
        raise OrderError(f"unknown event: {message}")
    return event


def _refuse(word: str) -> float:
    raise OrderError(f"{word} is not JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise OrderError(f"a key came twice: {[key for key, _ in pairs]}")
    return found


class Witness:
    """One connection's witness; ``fault`` is the first thing that was wrong.

    Args:
        media_track: whether the audio goes over a media track.
        opted_in: whether the client asked for extensions.
        ordered: whether the server holds a whole conversation, whose order can be judged; false for tests that
            replace it.
    """

    def __init__(self, *, media_track: bool = False, opted_in: bool = False, ordered: bool = True) -> None:
        self._oracle = WireOracle(media_track=media_track, opted_in=opted_in) if ordered else None
        self.events: list[dict[str, Any]] = []
        self.fault: OrderError | None = None

    def hear(self, message: str | bytes) -> None:
        """Take the next message; never raises, since it stands between two others."""
        try:
            event = check_shape(message)
            self.events.append(event)
            if self._oracle is not None and self.fault is None:
                self._oracle.feed(event)
        except OrderError as fault:
            self.fault = self.fault or fault
        except ValueError as fault:
            self.fault = self.fault or OrderError(f"{fault}: {message!r}")

    def verdict(self, *, all_ended: bool = False) -> None:
        """Raise what was wrong, if anything was."""
        if self.fault is not None:
            raise self.fault
        if self._oracle is not None:
            self._oracle.finish(all_ended=all_ended)
