"""What the server counts and measures, for Prometheus. Handed to the other rooms as callables.

Knows nothing about sessions or transports beyond what they call it with.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Gauges", "Metrics", "merged", "watch_loop"]

WATCH_LOOP_EVERY_S = 0.05

_DELAYS_S = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Buckets of response times and of decisions, around the goals of 250, 500 and 800 ms."""
_STALLS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_WAYS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Buckets of what a network does to packets."""
_PACKETS = {
    "received": "received",
    "lost": "lost on the way here, or came too late",
    "requested": "asked for again",
    "sent": "sent",
    "resent": "sent again because the peer asked",
}
_PICTURES = {
    "seen": "Pictures of camera tracks that were decoded to be shown to the model.",
    "requested": "Key pictures that were asked for.",
    "corrupt": "Packets and pictures of camera tracks that were not what they claimed to be.",
}
_MEDIA = {
    "rtt": "Round trip",
    "jitter": "How unevenly packets arrive here",
    "remote_jitter": "How unevenly packets arrive at the peer",
    "patience": "How long a missing packet is waited for",
}
_LENGTHS_S = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)


class _Summary(Protocol):
    """What is read of a session's summary."""

    @property
    def transport(self) -> str: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def ended_by(self) -> str: ...
    @property
    def n_turns(self) -> int: ...
    @property
    def n_interruptions(self) -> int: ...
    @property
    def n_underruns(self) -> int: ...
    @property
    def n_frames_dropped(self) -> int: ...


class Gauges:
    """Values that others keep, in a registry of their own."""

    def __init__(self) -> None:
        self.content_type = CONTENT_TYPE_LATEST
        """Of what :meth:`render` returns."""
        self._registry = CollectorRegistry()

    def add_gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Show a value that ``read`` returns when it is asked for, as ``duplex_<name>``."""
        Gauge(f"duplex_{name}", meaning, registry=self._registry).set_function(read)

    def add_counter(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Show a count kept elsewhere, which never falls, as ``duplex_<name>_total``."""
        self._registry.register(_ForeignCount(f"duplex_{name}", meaning, read))

    def render(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self._registry)


class Metrics(Gauges):
    """All instruments of one server. An observer of sessions, transports and the loop."""

    def __init__(self) -> None:
        super().__init__()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._response_s = self._histogram(
            "response_time_seconds", "From the end of the user's speech to the first audio of the answer.", _DELAYS_S
        )
        self._overlaps = self._counter(
            "overlaps", "Judgements of speech over the model's speech.", ("outcome", "reason")
        )
        self._overlap_s = self._histogram(
            "overlap_decision_seconds", "From the onset of such speech to the judgement.", _DELAYS_S, ("outcome",)
        )
        self._late_units = self._counter("late_units", "Units that had to wait because the engine was behind.")
        self._refused_input_s = self._counter("input_refused_seconds", "Audio dropped because it came too fast.")
        self._ended = self._counter("sessions_ended", "Sessions that are over.", ("transport", "ended_by"))
        self._length_s = self._histogram("session_duration_seconds", "Length of sessions.", _LENGTHS_S, ("transport",))
        self._turns = self._counter("turns", "Turns that models began to speak.")
        self._interruptions = self._counter("interruptions", "Turns that users cut short.")
        self._underruns = self._counter("output_underruns", "Times that playout found nothing within a turn.")
        self._frames_dropped = self._counter("frames_dropped", "Camera pictures replaced by newer ones.")
        self._connections = Gauge(
            "duplex_connections", "Connections that stand.", ("transport",), registry=self._registry
        )
        self._refused = self._counter("connections_refused", "Connections not let in.", ("transport", "reason"))
        self._closed = self._counter("connections_closed", "Connections that ended.", ("transport", "reason"))
        self._moved = _BytesMoved()
        self._registry.register(self._moved)
        self._media_counts = {
            f"{outcome}_packets": self._counter(f"media_packets_{outcome}", f"Packets of sound that were {meaning}.")
            for outcome, meaning in _PACKETS.items()
        } | {
            f"{outcome}_pictures": self._counter(f"media_pictures_{outcome}", meaning)
            for outcome, meaning in _PICTURES.items()
        }
        self._concealed_s = self._counter("media_concealed_seconds", "Sound guessed in place of lost packets.")
        self._media_s = {
            f"{name}_ms": self._histogram(f"media_{name}_seconds", f"{meaning}, each second of each call.", _WAYS_S)
            for name, meaning in _MEDIA.items()
        }
        self._stall_s = self._histogram("loop_stall_seconds", "How late the event loop came to a timer.", _STALLS_S)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def response_began(self, delay_s: float | None) -> None:
        """First audio of a turn leaves, ``delay_s`` after the user's speech ended; None if nobody had spoken."""
        if delay_s is not None:
            self._response_s.observe(delay_s)

    def overlap_judged(self, outcome: str, reason: str, delay_s: float) -> None:
        """Speech over the model's was judged, ``delay_s`` after its onset."""
        self._overlaps.labels(outcome, reason).inc()
        self._overlap_s.labels(outcome).observe(delay_s)

    def units_waiting(self, count: int) -> None:
        """A unit was queued, and ``count`` before it wait for the engine."""
        if count:
            self._late_units.inc()

    def input_refused(self, seconds: float) -> None:
        """So much of a peer's audio was dropped because it came too fast."""
        self._refused_input_s.inc(seconds)

    def session_ended(self, summary: _Summary) -> None:
        """A session is over."""
        self._ended.labels(summary.transport, summary.ended_by).inc()
        self._length_s.labels(summary.transport).observe(summary.duration_s)
        self._turns.inc(summary.n_turns)
        self._interruptions.inc(summary.n_interruptions)
        self._underruns.inc(summary.n_underruns)
        self._frames_dropped.inc(summary.n_frames_dropped)

    # -- transports ---------------------------------------------------------------------------------------------------

    def connection_refused(self, transport: str, reason: str) -> None:
        """A connection was not let in."""
        self._refused.labels(transport, reason).inc()

    def connection_opened(self, transport: str) -> None:
        """A connection came to stand."""
        self._connections.labels(transport).inc()

    def connection_closed(self, transport: str, reason: str) -> None:
        """A connection that stood has ended."""
        self._connections.labels(transport).dec()
        self._closed.labels(transport, reason).inc()

    def bytes_moved(self, transport: str, received: int, sent: int) -> None:
        """So many bytes moved since the last call."""
        moved = self._moved.of[transport]
        moved[0] += received
        moved[1] += sent

    def media_measured(self, stats: Mapping[str, float], grown: Mapping[str, float]) -> None:
        """How media gets through on one connection, and how much each figure has grown since the last call."""
        for name, counter in self._media_counts.items():
            if (n := grown.get(name, 0.0)) > 0:
                counter.inc(n)
        if (concealed_ms := grown.get("concealed_ms", 0.0)) > 0:
            self._concealed_s.inc(concealed_ms / 1000)
        for name, histogram in self._media_s.items():
            if name in stats:
                histogram.observe(stats[name] / 1000)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def loop_stalled(self, seconds: float) -> None:
        """The event loop came ``seconds`` late to a timer."""
        self._stall_s.observe(seconds)

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"duplex_{name}", meaning, labels, registry=self._registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"duplex_{name}", meaning, labels, buckets=buckets, registry=self._registry)


class _BytesMoved(Collector):
    """Bytes received and sent, by transport. Counted for every message, so plain numbers: the library's have locks."""

    def __init__(self) -> None:
        self.of: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("duplex_network_bytes", "Bytes moved.", labels=("transport", "direction"))
        for transport, (received, sent) in self.of.items():
            family.add_metric((transport, "received"), received)
            family.add_metric((transport, "sent"), sent)
        yield family


class _ForeignCount(Collector):
    """A count that somebody else keeps."""

    def __init__(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        self._name = name
        self._meaning = meaning
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._meaning, value=self._read())


def merged(pages: Mapping[int, bytes]) -> bytes:
    """Make one page of those of several gateways; each sample gets a label that says whose it is.

    Args:
        pages: what their :meth:`Metrics.render` returned, by number.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}  # by name: what is said of it, and its samples
    for number, page in pages.items():
        label = f'gateway="{number}"'
        samples: list[str] = []
        for line in page.decode().splitlines():
            if not line.startswith("#"):
                samples.append(_labelled(line, label))
                continue
            name = line.split(" ", 3)[2]  # "# HELP name …", then "# TYPE name kind", then its samples
            said, samples = families.setdefault(name, ([], []))
            if line not in said:
                said.append(line)
    return "".join(f"{line}\n" for family in families.values() for lines in family for line in lines).encode()


def _labelled(sample: str, label: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{label},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


async def watch_loop(stalled: Callable[[float], None]) -> None:
    """Measure how late the event loop comes to its timers, until cancelled."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        due_s = max(due_s + WATCH_LOOP_EVERY_S, loop.time())
        await asyncio.sleep(due_s - loop.time())
        stalled(max(0.0, loop.time() - due_s))
