"""How often somebody may try: wrong keys by address, sessions by key.

Pure and synchronous; time is passed in. Knows nothing about keys themselves.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from duplex_server.security.refusals import Throttled

__all__ = ["Attempts", "Quota"]

FREE_FAILURES = 10
"""Wrong keys that one address may show at once; a person mistypes a key two or three times."""
FAILURE_EVERY_S = 6.0
"""After that, one more each so many seconds: ten a minute."""
MAX_ADDRESSES = 10_000
"""Addresses that are remembered; beyond it the one that failed longest ago is forgotten."""

_IPV6_NETWORK_BITS = 64
"""One subscriber has at least so much of IPv6 to himself (RFC 6177 §2)."""


@dataclass(slots=True)
class _Bucket:
    """A token bucket: ``level`` tokens at ``at_s``, refilled evenly."""

    level: float
    at_s: float

    def refill(self, now_s: float, *, every_s: float, most: float) -> None:
        """Add what has come since; a clock that was set back adds nothing."""
        self.level = min(most, self.level + max(0.0, now_s - self.at_s) / every_s)
        self.at_s = now_s


class Attempts:
    """Slow down who guesses keys.

    An address that has shown too many wrong keys is turned away unheard, whatever key it shows, so that its guesses
    tell it nothing.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # newest failure last; bounded by MAX_ADDRESSES
        self.n_failed = 0
        """Wrong keys so far, turned-away visits included."""

    def check(self, address: str, now_s: float) -> None:
        """Raise if the address has used up its attempts.

        Raises:
            Throttled: it has.
        """
        bucket = self._buckets.get(_network(address))
        if bucket is None:
            return
        bucket.refill(now_s, every_s=FAILURE_EVERY_S, most=FREE_FAILURES)
        if bucket.level < 1:
            self.n_failed += 1
            raise Throttled("Too many wrong keys came from this address.", (1 - bucket.level) * FAILURE_EVERY_S)

    def note_failure(self, address: str, now_s: float, *, here: bool = True) -> None:
        """Count a wrong key.

        Args:
            address: where it came from.
            now_s: Unix time.
            here: whether it counts for :attr:`n_failed`, and was not counted by another process.
        """
        self.n_failed += here
        network = _network(address)
        bucket = self._buckets.pop(network, None) or _Bucket(FREE_FAILURES, now_s)
        bucket.refill(now_s, every_s=FAILURE_EVERY_S, most=FREE_FAILURES)
        bucket.level = max(0.0, bucket.level - 1)
        self._buckets[network] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)


class Quota:
    """Bound the sessions of each key.

    Args:
        max_sessions: at a time; 0 for no bound.
        per_minute: begun within a minute; 0 for no bound.
    """

    def __init__(self, *, max_sessions: int, per_minute: int) -> None:
        self._max_sessions = max_sessions
        self._per_minute = per_minute
        self._running: dict[str, int] = {}  # by key; bounded by the keys that are configured
        self._starts: dict[str, _Bucket] = {}

    def begin(self, key_id: str, now_s: float) -> Callable[[], None]:
        """Count a session in, and return what counts it out again; calling that twice does no harm.

        Raises:
            Throttled: the key has its share.
        """
        running = self._running.get(key_id, 0)
        if self._max_sessions and running >= self._max_sessions:
            raise Throttled(f"This key may have {self._max_sessions} sessions at a time.", 10.0)
        if self._per_minute:
            every_s = 60 / self._per_minute
            bucket = self._starts.setdefault(key_id, _Bucket(self._per_minute, now_s))
            bucket.refill(now_s, every_s=every_s, most=self._per_minute)
            if bucket.level < 1:
                raise Throttled(
                    f"This key may begin {self._per_minute} sessions a minute.", (1 - bucket.level) * every_s
                )
            bucket.level -= 1
        self._running[key_id] = running + 1
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._running[key_id] -= 1

        return end


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], _IPV6_NETWORK_BITS), strict=False))
