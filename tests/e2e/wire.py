"""What a page hears from the server, noted beside it in the browser and judged when the test is over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from playwright.sync_api import Error, Page

from tests.helpers.wire_resume import SessionOracle
from tests.helpers.wire_witness import check_shape

__all__ = ["LISTEN_IN", "judge"]

LISTEN_IN = """
window.heardOnTheWire = [];
const noteAll = (source, mediaTrack) => {
  const messages = [];
  window.heardOnTheWire.push([mediaTrack, messages]);
  source.addEventListener("message", ({ data }) => messages.push(data));
  return source;
};
const createDataChannel = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...details) {
  return noteAll(createDataChannel.apply(this, details), true);
};
window.WebSocket = class extends WebSocket {
  constructor(...details) {
    super(...details);
    noteAll(this, false);
  }
};
"""
"""A script for a page to begin with."""


def judge(page: Page) -> int:
    """Hold all that a page has heard since it was loaded against shape and order; return how many events there were.

    Raises:
        OrderError: at the first that was wrong.
    """
    try:
        connections: list[tuple[bool, list[str]]] = page.evaluate("window.heardOnTheWire ?? []")
    except Error:  # it is closed, or its renderer has gone
        return 0
    n_events = 0
    sessions: dict[str, SessionOracle] = {}
    for media_track, messages in connections:
        events = [check_shape(message) for message in messages]
        n_events += len(events)
        session_id = _session_of(events)
        if session_id is not None:
            sessions.setdefault(session_id, SessionOracle(media_track=media_track)).connection(events)
    return n_events


def _session_of(events: Iterable[dict[str, Any]]) -> str | None:
    """Return the id of a connection's session; None if it never got one."""
    for event in events:
        if event["type"] in ("session.created", "session.resumed"):
            return str(event["session"]["id"])
    return None
