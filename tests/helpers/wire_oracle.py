"""An automaton that accepts exactly the legal orders of server events, for logs of any session, made or real.

Written from the protocol's rules, not from the server: it shares no code with ``duplex_server.wire``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]

EXTENSIONS = {
    "connection.stats",
    "context.compacted",
    "duplex.unit",
    "input_image.consumed",
    "response.listen",
    "response.speak",
    "session.continued",
    "session.limits",
    "session.paused",
    "turn.event",
    "overlap.decision",
    "playback.position",
    "playback.acknowledged",
    "session.go_away",
    "session.closed",
    "session.expired",
    "session.queue_done",
    "session.queue_update",
    "session.queued",
    "session.replaced",
    "session.resumed",
    "session.resync_required",
    "session.heartbeat_ack",
}
ERROR_TYPES = {"invalid_request_error", "server_error", "rate_limit_error"}
ERROR_KEYS = {"type", "code", "message", "param", "event_id"}
LONGEST_DELTA_MS = 250
REASONS = {"cancelled": {"turn_detected", "client_cancelled"}, "incomplete": {"max_output_tokens", "content_filter"}}


class OrderError(AssertionError):
    """Events came in an order, or in a shape, that clients do not take."""


@dataclass
class _Response:
    id: str
    metadata: Any
    pcm: bool
    """Whether its sound is PCM16: that stays as it was when the response began, whatever the session changes to."""
    stage: str = "created"
    item_id: str = ""
    kind: str = ""
    deltas: list[str] = field(default_factory=list)
    final: str | None = None
    buffer: str = "none"
    audio_ms: float = 0.0
    interrupted: bool = False


_STAGES = {
    # event type: (stage before, stage after), for the parts of a response that come once and in this order
    "response.output_item.added": ("item", "output_item"),
    "response.content_part.added": ("output_item", "open"),
    "response.output_audio.done": ("open", "audio_done"),
    "response.output_audio_transcript.done": ("audio_done", "content_done"),
    "response.output_text.done": ("open", "content_done"),
    "response.content_part.done": ("content_done", "part_done"),
    "response.output_item.done": ("part_done", "item_done"),
}


class WireOracle:
    """Feed it a session's server events one by one; it raises OrderError at the first that is wrong.

    Args:
        media_track: whether the audio goes over a media track.
        opted_in: whether the client asked for extensions.
        timely: whether times must agree, and an interruption must silence; false where a dialogue is driven by chance,
            since both are the session's doing.
    """

    def __init__(self, *, media_track: bool, opted_in: bool = False, timely: bool = True) -> None:
        self._timely = timely
        self._media_track = media_track
        self._opted_in = opted_in
        self._event_ids: set[str] = set()
        self._n_fed = 0
        self._closed = False
        self._session_id: str | None = None
        self._announced: str | None = None
        self._announced_ms = 0
        self._stopped: str | None = None
        self._items: dict[str, str] = {}  # id → added, done
        self._roles: dict[str, str] = {}  # of every item that ever was
        self._committed: set[str] = set()
        self._transcribed: set[str] = set()
        self._active: _Response | None = None
        self._over: dict[str, _Response] = {}
        self._limits_due = False

    def feed(self, event: Event) -> None:
        """Take the next event."""
        kind = event.get("type")
        self._require(isinstance(kind, str), "type is missing", event)
        self._require(not self._closed, "nothing may follow session.closed", event)
        event_id = event.get("event_id")
        self._require(isinstance(event_id, str) and event_id != "", "event_id is missing", event)
        self._require(str(event_id).startswith("event_"), "event_id is not one", event)
        self._require(event_id not in self._event_ids, "event_id was used before", event)
        self._event_ids.add(str(event_id))
        in_line = kind in ("session.queued", "session.queue_update", "session.queue_done")
        self._require(not in_line or self._n_fed == 0, "the line ends before the session begins", event)
        if not in_line:
            self._require((self._n_fed == 0) == (kind == "session.created"), "session.created is first, once", event)
            self._n_fed += 1
        self._require(
            not self._limits_due or kind == "rate_limits.updated", "rate_limits.updated follows response.done", event
        )
        room = str(kind).split(".")[0]
        rooms = {
            "session": self._session,
            "error": self._error,
            "input_audio_buffer": self._user,
            "conversation": self._item,
            "response": self._in_response,
            "output_audio_buffer": self._buffer,
            "rate_limits": self._limits,
            "overlap": self._extension,
            "playback": self._extension,
            "connection": self._extension,
            "context": self._extension,
            "duplex": self._extension,
            "input_image": self._extension,
            "turn": self._extension,
        }
        self._require(room in rooms, "unknown event", event)
        try:
            rooms[room](str(kind), event)
        except (KeyError, TypeError) as missing:
            raise OrderError(f"a field is missing, {missing!r}: {dict(event)}") from missing

    def finish(self, *, all_ended: bool = True) -> None:
        """Check that nothing is left half said.

        Args:
            all_ended: also that no response and no speech is open; false for a log that was cut off.
        """
        if self._limits_due:
            raise OrderError("rate_limits.updated is missing at the end")
        open_items = [item_id for item_id, stage in self._items.items() if stage == "added" and self._is_users(item_id)]
        unmade = self._committed - set(self._roles)
        if open_items or unmade or self._stopped:
            raise OrderError(f"user items were not done: {open_items or unmade or self._stopped}")
        if all_ended and (self._active is not None or self._announced is not None):
            raise OrderError("a response or the user's speech was not ended")

    def _session(self, kind: str, event: Event) -> None:
        if kind in ("session.created", "session.updated"):
            session = event.get("session") or {}
            self._require(
                session.get("type") == "realtime" and bool(session.get("id")), "session lacks type or id", event
            )
            self._require(self._session_id in (None, session["id"]), "another session", event)
            self._session_id = session["id"]
            self._require("turn_detection" in session["audio"]["input"], "session is not complete", event)
        else:
            self._extension(kind, event)
            self._closed = kind == "session.closed"

    def _error(self, kind: str, event: Event) -> None:
        error = event.get("error") or {}
        self._require(set(error) >= ERROR_KEYS, "an error has five keys", event)
        self._require(error["type"] in ERROR_TYPES and bool(error["message"]), "error type or message", event)

    def _extension(self, kind: str, event: Event) -> None:
        self._require(kind in EXTENSIONS and self._opted_in, "unknown event, or one that nobody asked for", event)
        if kind == "playback.position":
            known = self._active is not None and self._active.id == event["response_id"]
            self._require(known or event["response_id"] in self._over, "of a response that never was", event)
            in_order = 0 <= event["played_ms"] <= event["sent_ms"] <= event["generated_ms"]
            self._require(in_order or not self._timely, "played before it was sent, or sent before it was made", event)

    def _user(self, kind: str, event: Event) -> None:
        item_id = event.get("item_id")
        self._require(self._stopped is None or kind.endswith(".committed"), "committed follows speech_stopped", event)
        if kind == "input_audio_buffer.speech_started":
            self._require(self._announced is None, "speech_started twice", event)
            self._require(isinstance(item_id, str) and item_id not in self._items, "it announces a new item", event)
            self._require(event["audio_start_ms"] >= 0, "audio_start_ms is negative", event)
            self._announced, self._announced_ms = item_id, event["audio_start_ms"]
            if self._timely and self._active is not None and self._active.audio_ms > 0:
                self._active.interrupted = True  # clients have thrown away what they had not played
        elif kind == "input_audio_buffer.speech_stopped":
            self._require(item_id is not None and item_id == self._announced, "stopped is not what started", event)
            from_ms = self._announced_ms if self._timely else 0
            self._require(event["audio_end_ms"] >= from_ms, "it stopped before it started", event)
            self._announced, self._stopped = None, item_id
        elif kind == "input_audio_buffer.timeout_triggered":
            self._require(self._announced is None and item_id not in self._items, "silence becomes a new item", event)
            self._require(0 <= event["audio_start_ms"] <= event["audio_end_ms"], "from when to when", event)
            self._stopped = item_id
        elif kind == "input_audio_buffer.committed":
            self._require(self._announced is None, "speech that was announced must stop before the commit", event)
            self._require(self._stopped in (None, item_id), "committed is not what stopped", event)
            fresh = isinstance(item_id, str) and item_id not in self._items and item_id not in self._committed
            self._require(fresh, "it commits a new item", event)
            self._knows(event, "previous_item_id")
            self._stopped = None
            self._committed.add(str(item_id))
        else:
            self._require(kind == "input_audio_buffer.cleared", "unknown event", event)

    def _item(self, kind: str, event: Event) -> None:
        step = kind.removeprefix("conversation.item.")
        if step in ("added", "done"):
            item = event.get("item") or {}
            self._require(
                item.get("object") == "realtime.item" and bool(item.get("id")), "item lacks object or id", event
            )
            self._knows(event, "previous_item_id")
            self._added(item, event) if step == "added" else self._done(item, event)
        elif step == "retrieved":
            self._require((event.get("item") or {}).get("id") in self._items, "an item that is not there", event)
        elif step in ("deleted", "truncated"):
            self._require(event.get("item_id") in self._roles, "an item that never was", event)
            if step == "deleted":
                if self._items.get(event["item_id"]) == "done":
                    del self._items[event["item_id"]]
            else:
                self._require(event["audio_end_ms"] >= 0 and event["content_index"] == 0, "truncated where?", event)
                self._require(self._roles[event["item_id"]] == "assistant", "only the assistant is cut", event)
        elif step.startswith("input_audio_transcription."):
            item_id = event.get("item_id")
            self._require(item_id in self._items, "the transcript's item is not there yet", event)
            self._require(item_id not in self._transcribed, "the transcript was complete", event)
            self._require(self._is_users(str(item_id)), "only the user is transcribed", event)
            if step.endswith(".completed"):
                self._require(isinstance(event.get("transcript"), str) and "usage" in event, "incomplete", event)
                self._transcribed.add(str(item_id))
        else:
            self._require(False, "unknown event", event)

    def _added(self, item: Event, event: Event) -> None:
        item_id = str(item["id"])
        self._require(item_id not in self._items, "item added twice", event)
        self._require(item_id != self._announced and item_id != self._stopped, "its speech is not committed", event)
        for part in item.get("content") or []:
            self._require("audio" not in part and "image_url" not in part, "media are not sent back", event)
            if part["type"] == "input_audio":
                self._require("transcript" in part, "input_audio lacks its transcript key", event)
        self._items[item_id] = "added"
        self._roles[item_id] = str(item.get("role", "tool"))
        response = self._active
        if item.get("role") == "assistant" and item.get("status") == "in_progress":
            self._require(response is not None and response.stage == "created", "an item of no response", event)
            assert response is not None
            response.stage, response.item_id = "item", item_id

    def _done(self, item: Event, event: Event) -> None:
        item_id = str(item["id"])
        self._require(self._items.get(item_id) == "added", "done without added, or twice", event)
        self._items[item_id] = "done"
        if self._active is not None and self._active.item_id == item_id:
            self._require(self._active.stage == "item_done", "the item's output is not done", event)
            self._says_the_same(self._active, item, event)
            self._active.stage = "closed"
            self._require(item["status"] in ("completed", "incomplete"), "status of a finished item", event)

    def _in_response(self, kind: str, event: Event) -> None:
        if kind == "response.created":
            self._created(event)
            return
        if kind in EXTENSIONS:
            self._extension(kind, event)
            return
        response = self._active
        named = event["response"]["id"] if kind == "response.done" else event.get("response_id")
        self._require(response is not None and named == response.id, "not of the active response", event)
        assert response is not None
        if kind == "response.done":
            self._response_done(response, event)
            return
        item_id = event["item"]["id"] if "item" in event else event.get("item_id")
        self._require(response.item_id != "" and item_id == response.item_id, "not of the response's item", event)
        self._require(event.get("output_index") == 0, "output_index", event)
        if "item" not in event:
            self._require(event.get("content_index") == 0, "content_index", event)
        if kind in _STAGES:
            before, after = _STAGES[kind]
            self._require(response.stage == before, f"came at stage {response.stage!r}, not {before!r}", event)
            response.stage = after
        if kind.endswith(".delta"):
            self._require(not response.interrupted, "it speaks on after speech_started", event)
        if kind == "response.output_item.done":
            self._says_the_same(response, event["item"], event)
        self._content(kind, response, event)

    def _content(self, kind: str, response: _Response, event: Event) -> None:
        spoken = response.kind == "audio"
        if kind == "response.content_part.added":
            response.kind = event["part"]["type"]
            self._require(response.kind in ("audio", "text"), "part type is audio or text", event)
        elif kind in ("response.output_audio_transcript.delta", "response.output_text.delta"):
            self._require(response.stage == "open", "a delta outside of its part", event)
            self._require(spoken == kind.startswith("response.output_audio"), "a delta of the other kind", event)
            response.deltas.append(event["delta"])
        elif kind == "response.output_audio.delta":
            self._require(response.stage == "open" and spoken, "audio outside of its part", event)
            self._require(not self._media_track, "audio goes over the media track", event)
            self._require(len(event["delta"]) > 0, "empty audio", event)
            n_bytes = len(event["delta"]) * 3 // 4 - event["delta"].count("=")
            self._require(not response.pcm or n_bytes % 2 == 0, "half a sample", event)
            self._follows(response, n_bytes / (48 if response.pcm else 8), event)
        elif kind in ("response.output_audio_transcript.done", "response.output_text.done"):
            response.final = event["transcript"] if spoken else event["text"]
            self._require(response.final == "".join(response.deltas), "not what the deltas said", event)
        elif kind == "response.content_part.done":
            text = event["part"].get("transcript" if spoken else "text")
            self._require(event["part"]["type"] == response.kind and text == response.final, "another part", event)
        elif kind not in _STAGES:
            self._require(False, "unknown event", event)

    def _follows(self, response: _Response, lasts_ms: float, event: Event) -> None:
        self._require(lasts_ms <= LONGEST_DELTA_MS, "a lump of audio", event)
        if "audio_start_ms" in event:
            gap_ms = event["audio_start_ms"] - response.audio_ms
            self._require(abs(gap_ms) <= 1, f"{gap_ms} ms are missing before it", event)
        response.audio_ms += lasts_ms

    def _says_the_same(self, response: _Response, item: Event, event: Event) -> None:
        """An item repeats what its deltas said."""
        words = [part.get("transcript", part.get("text")) for part in item["content"]]
        self._require(words == [response.final], "the item says something else", event)

    def _created(self, event: Event) -> None:
        response = event["response"]
        self._require(self._active is None, "a response is active", event)
        self._require(bool(response.get("id")) and response["id"] not in self._over, "a new id", event)
        self._require(response.get("object") == "realtime.response", "object", event)
        self._require(response.get("status") == "in_progress" and response["output"] == [], "it has just begun", event)
        metadata = response.get("metadata") or {}
        self._require(all(isinstance(value, str) for value in metadata.values()), "metadata holds strings", event)
        pcm = response["audio"]["output"]["format"]["type"] == "audio/pcm"
        self._active = _Response(response["id"], response.get("metadata"), pcm)

    def _response_done(self, response: _Response, event: Event) -> None:
        done = event["response"]
        self._require(response.stage in ("created", "closed"), f"done at stage {response.stage!r}", event)
        n_items = 0 if response.stage == "created" else 1
        self._require([item["id"] for item in done["output"]] == [response.item_id][:n_items], "output", event)
        self._require(done.get("metadata") == response.metadata, "metadata changed", event)
        status = done.get("status")
        self._require(status in ("completed", "cancelled", "incomplete", "failed"), "status", event)
        self._require("usage" in done, "usage is missing", event)
        details = done.get("status_details") or {}
        if status in REASONS:
            self._require(details.get("reason") in REASONS[status], "reason", event)
        for item in done["output"]:
            self._require((item["status"] == "completed") == (status == "completed"), "the item's status", event)
            self._says_the_same(response, item, event)
        self._over[response.id] = response
        self._active = None
        self._limits_due = True

    def _buffer(self, kind: str, event: Event) -> None:
        self._require(self._media_track, "there is no media track", event)
        named = event.get("response_id")
        active = self._active if self._active is not None and self._active.id == named else None
        response = active or self._over.get(str(named))
        self._require(response is not None, "of a response that never was", event)
        assert response is not None
        state = kind.removeprefix("output_audio_buffer.")
        if state == "started":
            self._require(active is not None and response.buffer == "none", "started late, or twice", event)
            self._require(response.stage == "open", "started before its part", event)
        else:
            self._require(state in ("stopped", "cleared"), "unknown event", event)
            self._require(response.buffer == "started", f"{state} without started", event)
            self._require(state == "cleared" or active is None, "stopped before response.done", event)
        response.buffer = state

    def _limits(self, kind: str, event: Event) -> None:
        self._require(kind == "rate_limits.updated" and self._limits_due, "follows response.done", event)
        self._require(isinstance(event.get("rate_limits"), list), "a list", event)
        self._limits_due = False

    def _is_users(self, item_id: str) -> bool:
        return self._roles.get(item_id) == "user"

    def _knows(self, event: Event, key: str) -> None:
        self._require(key in event, f"{key} is missing", event)
        self._require(event[key] is None or event[key] in self._roles, f"{key} is unknown", event)

    @staticmethod
    def _require(holds: bool, rule: str, event: Event) -> None:
        if not holds:
            raise OrderError(f"{rule}: {dict(event)}")


def check(events: Iterable[Event], *, media_track: bool, opted_in: bool = False, all_ended: bool = True) -> None:
    """Check a whole log."""
    oracle = WireOracle(media_track=media_track, opted_in=opted_in)
    for event in events:
        oracle.feed(event)
    oracle.finish(all_ended=all_ended)
