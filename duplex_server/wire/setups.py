"""What a model was asked to be, one set-up after the other, and which of them is left when it refuses one.

A model says so up to a unit after the client was told ``session.updated``; the client then hears what holds instead.
Knows nothing about why a model refuses anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from duplex_server.errors import ClientError
from duplex_server.types import Refusal
from duplex_server.wire.error_objects import error_object
from duplex_server.wire.events import ErrorEvent, SessionUpdated
from duplex_server.wire.ids import Ids
from duplex_server.wire.reply import Reply
from duplex_server.wire.requests import Configure
from duplex_server.wire.session_state import SessionState, Settings

__all__ = ["Setups"]

_MOST = 16
"""Set-ups that are kept beside the first; beyond it the oldest go, and are not come back to."""


@dataclass(frozen=True, slots=True)
class _Asked:
    revision: int
    settings: Settings
    event_id: str | None
    """The client's, of the update that asked for it."""


class Setups:
    """The set-ups of one session.

    Args:
        ids: makes event ids.
        state: the session's settings, as the model was opened with.
    """

    def __init__(self, ids: Ids, state: SessionState) -> None:
        self._ids = ids
        self._state = state
        self._revision = 0
        self._asked = [_Asked(0, state.settings, None)]  # the first is what the model was opened with: it holds

    def ask(self, event_id: str | None) -> Configure:
        """Return the request for the session's settings as they are now."""
        self._revision += 1
        self._asked.append(_Asked(self._revision, self._state.settings, event_id))
        if len(self._asked) > 1 + _MOST:
            del self._asked[1]
        setup = replace(self._state.setup, revision=self._revision)
        return Configure(setup, self._state.turn_taking, self._state.reference)

    def refused(self, refusal: Refusal) -> Reply:
        """Tell the client that something it asked for cannot be had, and go back to what held before it.

        Only the newest set-up is gone back from: those after a refused one are still to be judged, each as a whole.
        """
        error = ClientError(refusal.message, param=refusal.param, code="invalid_value")
        place = next((i for i, asked in enumerate(self._asked) if asked.revision == refusal.revision), None)
        if not place:  # not about a set-up, or about one of long ago
            return Reply([self._told(error)])
        refused = self._asked.pop(place)
        error.event_id = refused.event_id
        if refused.revision != self._revision:
            return Reply([self._told(error)])
        held = self._asked[-1] if len(self._asked) == 1 else self._asked.pop()
        self._state.set_back(held.settings)
        updated = SessionUpdated(event_id=self._ids.event(), session=self._state.session)
        # Asked for again, for a model need not have been asked for each: several between two units are one to it.
        return Reply([self._told(error), updated], [self.ask(held.event_id)])

    def _told(self, error: ClientError) -> ErrorEvent:
        return ErrorEvent(event_id=self._ids.event(), error=error_object(error))
