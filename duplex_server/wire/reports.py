"""Extension events that only tell: what the server decides, how far it has come, what is near its end.

Each belongs to a group, and is made only for a client that asked for the group. Knows nothing about answers or order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from duplex_server.types import UnitCost
from duplex_server.wire.events import (
    ConnectionStats,
    ContextCompacted,
    DuplexUnit,
    InputImageConsumed,
    OverlapDecision,
    PlaybackPosition,
    ResponseListen,
    ResponseSpeak,
    ServerEvent,
    SessionClosed,
    SessionContinued,
    SessionGoAway,
    SessionLimits,
    SessionPaused,
)
from duplex_server.wire.ids import Ids
from duplex_server.wire.responses import Responses

__all__ = ["Reports"]

_FIGURES = frozenset({"rtt_ms", "jitter_ms", "patience_ms", "concealed_ms", "remote_jitter_ms", "remote_loss"})
_COUNTS = frozenset(ConnectionStats.__struct_fields__) - _FIGURES - {"event_id"}


class Reports:
    """Makes them for one session.

    Args:
        ids: gives their ids.
        responses: what is open.
        wants: whether the client asked for a group, and is still there.
    """

    def __init__(self, ids: Ids, responses: Responses, wants: Callable[[str], bool]) -> None:
        self._ids = ids
        self._responses = responses
        self._wants = wants

    @property
    def of_units(self) -> bool:
        """Whether anything is told of single units."""
        return self._wants("unit") or self._wants("listen")

    def decision(self, unit: int, input_ms: int, *, spoke: bool) -> list[ServerEvent]:
        """Tell what the model decided to do with a unit (group ``listen``)."""
        if not self._wants("listen"):
            return []
        if not spoke:
            return [ResponseListen(event_id=self._ids.event(), unit=unit, input_ms=input_ms)]
        response = self._responses.open if self._responses.speaks else None
        response_id, item_id = (response.response_id, response.item_id) if response else ("", "")
        return [ResponseSpeak(event_id=self._ids.event(), unit=unit, response_id=response_id, item_id=item_id)]

    def unit(
        self,
        unit: int,
        *,
        spoke: bool,
        input_ms: int,
        received_ms: float,
        parts_ms: tuple[float, float, float],
        n_rows: int,
        late_by: str | None,
        cost: UnitCost | None,
    ) -> list[ServerEvent]:
        """Tell how a unit went (group ``unit``).

        Args:
            unit: its index.
            spoke: whether the model said anything to it.
            input_ms: where it ends on the input clock.
            received_ms: when it was complete, since the session began.
            parts_ms: it waited in the server; it waited in the worker; the step.
            n_rows: conversations in the step.
            late_by: which part made it late; None if it was not.
            cost: what the model says of it.
        """
        if not self._wants("unit"):
            return []
        queue_ms, wait_ms, step_ms = (round(part, 2) for part in parts_ms)
        return [
            DuplexUnit(
                event_id=self._ids.event(),
                unit=unit,
                decision="speak" if spoke else "listen",
                input_ms=input_ms,
                t_recv=round(received_ms, 1),
                queue_ms=queue_ms,
                wait_ms=wait_ms,
                step_ms=step_ms,
                batch=n_rows,
                t_prefill_ms=round(cost.prefill_ms, 2) if cost else None,
                t_llm_ms=round(cost.decode_ms, 2) if cost else None,
                t_tts_ms=round(cost.voice_ms, 2) if cost else None,
                t_total_ms=round(queue_ms + wait_ms + step_ms, 2),
                n_tokens=cost.n_tokens if cost else None,
                kv_tokens=cost.context_tokens if cost else None,
                late=late_by is not None,
                late_by=late_by,
            )
        ]

    def image_consumed(self, unit: int, capture_ms: int, dropped: int) -> list[ServerEvent]:
        """Tell that the model was given a picture (group ``unit``)."""
        if not self._wants("unit"):
            return []
        return [InputImageConsumed(event_id=self._ids.event(), unit=unit, capture_ms=capture_ms, dropped=dropped)]

    @property
    def of_connection(self) -> bool:
        """Whether anything is told of the connection."""
        return self._wants("connection")

    def connection(self, stats: Mapping[str, float]) -> list[ServerEvent]:
        """Tell how media gets through (group ``connection``).

        Args:
            stats: some of the event's figures by their names; others are left out, counts are whole numbers.
        """
        if not self._wants("connection"):
            return []
        known: dict[str, Any] = {name: int(value) for name, value in stats.items() if name in _COUNTS}
        known |= {name: round(value, 3) for name, value in stats.items() if name in _FIGURES}
        return [ConnectionStats(event_id=self._ids.event(), **known)]

    def limits(self, max_ms: int, remaining_ms: int, context_tokens: int, context_tokens_max: int) -> list[ServerEvent]:
        """Tell what the session may use (group ``limits``); a maximum of 0 tokens means that there is none."""
        if not self._wants("limits"):
            return []
        bounded = context_tokens_max > 0
        return [
            SessionLimits(
                event_id=self._ids.event(),
                max_session_ms=max_ms,
                remaining_ms=remaining_ms,
                context_tokens=context_tokens if bounded else None,
                context_tokens_max=context_tokens_max if bounded else None,
            )
        ]

    def compacted(self, tokens_before: int, tokens_after: int) -> list[ServerEvent]:
        """Tell that the model made room in its context (group ``limits``)."""
        if not self._wants("limits"):
            return []
        event_id = self._ids.event()
        return [ContextCompacted(event_id=event_id, tokens_before=tokens_before, tokens_after=tokens_after)]

    def paused(self, expires_at: int) -> list[ServerEvent]:
        """Tell that the session stands still, and until when it may."""
        return [SessionPaused(event_id=self._ids.event(), expires_at=expires_at)]

    def continued(self) -> list[ServerEvent]:
        """Tell that the session goes on."""
        return [SessionContinued(event_id=self._ids.event())]

    def closed(self, reason: str) -> list[ServerEvent]:
        """Tell that the session is over (group ``limits``); nothing may follow."""
        return [SessionClosed(event_id=self._ids.event(), reason=reason)] if self._wants("limits") else []

    def overlap(self, policy: str, action: str, reason: str, at_ms: int) -> list[ServerEvent]:
        """Tell what was made of speech over the model's voice (group ``overlap``)."""
        if not self._wants("overlap"):
            return []
        event_id = self._ids.event()
        return [OverlapDecision(event_id=event_id, policy=policy, action=action, reason=reason, audio_start_ms=at_ms)]

    def playback_position(self, turn: int, played_ms: int, sent_ms: int, generated_ms: int) -> list[ServerEvent]:
        """Tell how far the open response has come (group ``playback``)."""
        response = self._responses.current(turn)
        if response is None or not self._wants("playback"):
            return []
        return [
            PlaybackPosition(
                event_id=self._ids.event(),
                response_id=response.response_id,
                item_id=response.item_id,
                played_ms=played_ms,
                sent_ms=sent_ms,
                generated_ms=generated_ms,
            )
        ]

    def closing(self, reason: str, time_left_ms: int) -> list[ServerEvent]:
        """Announce that the session will end (group ``limits``)."""
        if not self._wants("limits"):
            return []
        return [SessionGoAway(event_id=self._ids.event(), reason=reason, time_left_ms=time_left_ms)]
