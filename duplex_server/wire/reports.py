"""Extension events that only tell: what the server decides, how far it has come, what is near its end.

Each belongs to a group, and is made only for a client that asked for the group. Knows nothing about answers or order.
"""

from __future__ import annotations

from collections.abc import Callable

from duplex_server.wire.events import OverlapDecision, PlaybackPosition, ServerEvent, SessionGoAway
from duplex_server.wire.ids import Ids
from duplex_server.wire.responses import Responses

__all__ = ["Reports"]


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
