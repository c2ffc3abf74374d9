"""Judges a session over all its connections: every event once, in order, and what is sent again as it was.

Shares no code with ``duplex_server``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.helpers.wire_oracle import OrderError, WireOracle

__all__ = ["SessionOracle", "check_connections"]

Event = Mapping[str, Any]

_ABOUT_THE_CONNECTION = {"session.resumed", "session.resync_required", "session.replaced", "session.expired"}
"""They have no number."""


class SessionOracle:
    """Feed it what came over one connection after another, in the order in which the connections were made."""

    def __init__(self, *, media_track: bool, opted_in: bool = True) -> None:
        self._oracle = WireOracle(media_track=media_track, opted_in=opted_in)
        self._numbered: dict[int, Event] = {}
        self._newest = 0
        self._lost = 0  # events that the server said it cannot send again
        self._due: int | None = None  # number of the next event, after a resumption
        self._session_id = ""
        self._token = ""
        self._generation = 1
        self._event_ids: set[str] = set()

    def connection(self, events: Iterable[Event]) -> None:
        """Take all that came over the next connection."""
        replaced = False
        for n, event in enumerate(events):
            self._require(not replaced, "nothing may follow session.replaced", event)
            kind = event["type"]
            if n == 0 and self._session_id:
                self._require(kind == "session.resumed", "a session is resumed by session.resumed", event)
            if kind in _ABOUT_THE_CONNECTION:
                self._connection_event(kind, n, event)
                replaced = kind == "session.replaced"
            elif "server_event_seq" in event:
                self._numbered_event(event["server_event_seq"], event)
            else:
                self._require(not self._numbered, "the number is missing", event)
                self._take(event)
        self._due = None

    def finish(self, *, all_ended: bool = True) -> None:
        """Check that nothing is left half said, unless something was lost."""
        if not self._lost:
            self._oracle.finish(all_ended=all_ended)

    def _connection_event(self, kind: str, n: int, event: Event) -> None:
        event_id = event["event_id"]
        self._require(event_id not in self._event_ids, "event_id was used before", event)
        self._event_ids.add(event_id)
        if kind == "session.resumed":
            self._require(n == 0, "session.resumed is a connection's first event", event)
            self._require(event["session"]["id"] == self._session_id, "another session", event)
            self._require(event["attachment_generation"] > self._generation, "an old generation", event)
            self._require(event["resume_token"] not in ("", self._token), "the old token", event)
            self._generation, self._token = event["attachment_generation"], event["resume_token"]
            self._due = event["replay_from_seq"]
        elif kind == "session.resync_required":
            self._require(self._due is not None, "nobody resumes", event)
            self._lost += event["last_missing_seq"] - self._newest
            self._newest = event["last_missing_seq"]
        elif kind == "session.replaced":
            self._require(event["attachment_generation"] > self._generation, "replaced by an old one", event)

    def _numbered_event(self, number: int, event: Event) -> None:
        if self._due is not None:
            self._require(number == self._due, f"number {self._due} was due", event)
            self._due += 1
        if number <= self._newest:
            self._require(self._numbered.get(number, event) == event, "not what it was the first time", event)
            self._require(self._due is not None, "it was there before", event)
            return
        self._require(number == self._newest + 1, f"number {self._newest + 1} is missing", event)
        self._newest = number
        self._numbered[number] = event
        self._take(event)

    def _take(self, event: Event) -> None:
        self._session_id = self._session_id or event.get("session", {}).get("id", "")
        self._token = event.get("resume_token", self._token)
        if not self._lost:  # what is left of the conversation makes no sense by itself
            self._oracle.feed(event)

    @staticmethod
    def _require(holds: bool, rule: str, event: Event) -> None:
        if not holds:
            raise OrderError(f"{rule}: {dict(event)}")


def check_connections(connections: Iterable[Iterable[Event]], *, media_track: bool, all_ended: bool = True) -> None:
    """Check a whole session, resumed or not."""
    oracle = SessionOracle(media_track=media_track)
    for events in connections:
        oracle.connection(events)
    oracle.finish(all_ended=all_ended)
