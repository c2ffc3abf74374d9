"""What a session tells of itself to a client that asked for it: units, pictures, what it may use.

Knows nothing about why anything happens.
"""

from __future__ import annotations

from collections.abc import Sequence

from duplex_server.engine.base import Slot
from duplex_server.session.attachment import Attachment
from duplex_server.session.ending import Ending
from duplex_server.session.limits import SessionLimits
from duplex_server.session.unit_log import UnitLog
from duplex_server.types import TICK_MS, ModelOutput, ModelSpec, Unit
from duplex_server.wire.events import ServerEvent
from duplex_server.wire.reports import Reports

__all__ = ["Reporting"]

_CONNECTION_EVERY_TICKS = 5000 // TICK_MS
"""Every 5 s: often enough to see trouble come, and seldom enough to cost nothing."""


class Reporting:
    """One session's reports. Times are the event loop's.

    Args:
        reports: makes the events, or none where nobody asked.
        spec: the model's.
        limits: the session's.
        ending: knows how long it may go on.
        slot: asked for its units while somebody wants to know.
        transport: takes the events, and says how media gets through.
        began_s: when the session began.
    """

    def __init__(
        self,
        reports: Reports,
        spec: ModelSpec,
        limits: SessionLimits,
        ending: Ending,
        slot: Slot,
        transport: Attachment,
        began_s: float,
    ) -> None:
        self._reports = reports
        self._context_tokens_max = spec.context_tokens_max
        self._session_max_ms = int(limits.session_max_s * 1000)
        self._ending = ending
        self._slot = slot
        self._transport = transport
        self._n_ticks = 0
        self._units = UnitLog(spec.unit_ms, began_s)
        self._watching = False
        self._context_tokens = 0
        self._n_dropped_told = 0

    def follow_wishes(self) -> None:
        """Watch units if the client wants them now."""
        if self._watching != self._reports.of_units:
            self._watching = not self._watching
            self._slot.watch(self._units.done if self._watching else None)

    def unit_gathered(self, unit: Unit, now_s: float, n_dropped: int) -> None:
        """A unit is complete.

        Args:
            unit: the unit.
            now_s: the time.
            n_dropped: pictures that newer ones replaced, since the session began.
        """
        if self._watching:
            self._units.gathered(unit.index, now_s)
        for frame in unit.frames:
            fresh, self._n_dropped_told = n_dropped - self._n_dropped_told, n_dropped
            self._send(self._reports.image_consumed(unit.index, int(frame.captured_s * 1000), fresh))

    def unit_handed(self, unit: Unit, now_s: float) -> None:
        """The engine has a unit."""
        self._units.handed(unit.index, now_s)

    def model_said(self, output: ModelOutput, now_s: float) -> None:
        """Take note of what the model tells of its context."""
        if output.cost is not None:
            self._context_tokens = output.cost.context_tokens
        if output.compaction is not None:
            self._context_tokens = output.compaction.tokens_after
            self._send(self._reports.compacted(output.compaction.tokens_before, output.compaction.tokens_after))
            self.tell_limits(now_s)

    def tell_limits(self, now_s: float) -> None:
        """Tell what the session may use."""
        left_ms = self._ending.remaining_ms(now_s)
        limits = self._reports.limits(self._session_max_ms, left_ms, self._context_tokens, self._context_tokens_max)
        self._send(limits)

    def tick(self) -> None:
        """Tell how the newest units went and, now and then, how media gets through; called once per tick."""
        self._n_ticks += 1
        if self._n_ticks % _CONNECTION_EVERY_TICKS == 0 and self._reports.of_connection:
            stats = self._transport.stats()
            self._send(self._reports.connection(stats) if stats else [])
        for figures in self._units.take():
            self._send(self._reports.decision(figures.index, figures.input_ms, spoke=figures.spoke))
            self._send(
                self._reports.unit(
                    figures.index,
                    spoke=figures.spoke,
                    input_ms=figures.input_ms,
                    received_ms=figures.received_ms,
                    parts_ms=(figures.queue_ms, figures.wait_ms, figures.step_ms),
                    n_rows=figures.n_rows,
                    late_by=figures.longest if figures.late else None,
                    cost=figures.cost,
                )
            )

    def _send(self, events: Sequence[ServerEvent]) -> None:
        for event in events:
            self._transport.send(event)
