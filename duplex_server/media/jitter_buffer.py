"""The packets of one received stream in order, at the price of no delay while nothing is missing.

What adapts is the patience for a packet that is missing, not a delay of those that are there: smoothness is the
timeline's business, which places sound by its timestamps. A plain machine: packets go in, packets come out, time is the
caller's. Knows nothing about what packets hold, or how a request for a lost one is sent.
"""

from __future__ import annotations

from duplex_server.media.rtp import MAX_DROPOUT, MAX_MISORDER, SEQUENCES, RtpPacket, signed16, signed32

__all__ = ["MAX_PATIENCE_S", "MIN_PATIENCE_S", "SPAN", "JitterBuffer"]

MIN_PATIENCE_S = 0.02
"""Wait so long for a missing packet at least: less than one packet's length would tell loss from nothing."""

MAX_PATIENCE_S = 0.12
"""Wait so long at most. What comes later than this is too late for a conversation, and a guess does better."""

START_PATIENCE_S = 0.06
"""Patience with a stream of which nothing is known yet: three packets of 20 ms."""

SPAN = 128
"""Most numbers from the oldest that is waited for to the newest: bounds memory whatever comes. 2.5 s of 20 ms."""

_MARGIN = 1.25
"""Lateness scatters: patience is so many times the latest arrival."""

_ASSUMED_ROUND_TRIP_S = 0.05
"""To the sender and back, as long as nobody has measured it."""

_MOST_ASKED = 17
"""What one entry of a NACK can name. Where more is missing the way was broken: its sound would come back when the
conversation has gone on, and leave the microphone late."""

Released = list[tuple[int, RtpPacket]]


class _Recent:
    """What was seen within the second that runs and the one before: forgets after one to two seconds."""

    def __init__(self, latest_s: float) -> None:
        self._second: int | None = None
        self._latest_s = [latest_s, 0.0]
        self._missed_s = [0.0, 0.0]

    def roll(self, now_s: float) -> None:
        second = int(now_s)
        if second != self._second:
            if self._second is not None:
                for pair in (self._latest_s, self._missed_s):
                    pair[:] = [0.0, pair[0] if second == self._second + 1 else 0.0]
            self._second = second

    def note_lateness(self, lateness_s: float) -> None:
        self._latest_s[0] = max(self._latest_s[0], lateness_s)

    def note_gap(self, length_s: float) -> None:
        self._missed_s[0] += length_s

    @property
    def latest_s(self) -> float:
        """The greatest lateness."""
        return max(self._latest_s)

    @property
    def missed_s(self) -> float:
        """Length of all gaps together."""
        return sum(self._missed_s)


class _Missing:
    """A packet that is not there, though one after it is."""

    __slots__ = ("asked_s", "noticed_s", "until_s")

    def __init__(self, noticed_s: float) -> None:
        self.noticed_s = noticed_s
        self.asked_s: float | None = None  # when the sender was last asked for it
        self.until_s = 0.0  # not given up before, whatever patience says: it was asked for


class JitterBuffer:
    """The order of one RTP stream.

    Patience follows what happens: a packet that comes late, because it was overtaken or sent again, shows for how long
    it pays to wait, and the next one is waited for a little longer than that, between :data:`MIN_PATIENCE_S` and
    :data:`MAX_PATIENCE_S`. Two seconds after the last late packet patience is at its least again. So a stream that
    loses packets without reordering any is delayed by 20 ms per loss, and one whose packets overtake each other loses
    the first and then hardly any.

    Args:
        clock_hz: of the stream's timestamps.

    Attributes:
        n_lost: packets that were given up; the next one was released without them.
        n_late: packets dropped because they came after they were given up, or belong to no part of the stream.
        n_duplicate: packets dropped because they came before.
        n_reordered: packets that came late, but in time.
    """

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._next = 0  # extended number of the packet that would continue the stream
        self._newest = 0  # highest extended number that came
        self._ssrc: int | None = None  # None until it begins
        self._last = (0, 0)  # number and timestamp of the packet that was released last
        self._held: dict[int, RtpPacket] = {}  # at most SPAN
        self._missing: dict[int, _Missing] = {}  # ascending; all numbers from _next to _newest that are not held
        self._given_up: dict[int, float] = {}  # when each was noticed; the last MAX_MISORDER numbers
        self._stranger: RtpPacket | None = None  # the first of a stream that begins anew, if one more follows
        self._recent = _Recent(START_PATIENCE_S / _MARGIN)
        self.n_lost = 0
        self.n_late = 0
        self.n_duplicate = 0
        self.n_reordered = 0

    @property
    def patience_s(self) -> float:
        """How long a missing packet is waited for now."""
        return min(MAX_PATIENCE_S, max(MIN_PATIENCE_S, self._recent.latest_s * _MARGIN))

    @property
    def n_held(self) -> int:
        """Packets that are held back because one before them is missing."""
        return len(self._held)

    @property
    def missing(self) -> list[int]:
        """Sequence numbers that are waited for now, oldest first."""
        return [number % SEQUENCES for number in self._missing]

    @property
    def deadline_s(self) -> float | None:
        """When :meth:`expire` must be called if no packet comes before; None while nothing is missing."""
        if not self._held:
            return None
        return self._give_up_s(self._missing[self._next])

    def add(self, packet: RtpPacket, now_s: float) -> Released:
        """Take in a packet as it arrives.

        Returns:
            What can be used now, oldest first, each with its extended number: one more than the one before, unless
            packets between them are lost; more than 65536 ahead where a stream begins anew, with another SSRC or
            another sequence.
        """
        self._recent.roll(now_s)
        if self._ssrc is None:
            return self._begin([packet], packet.sequence_number)
        number = self._newest + signed16(packet.sequence_number - self._newest)
        is_strange = packet.ssrc != self._ssrc or not -MAX_MISORDER <= number - self._next < MAX_DROPOUT
        if is_strange:
            return self._meet(packet)
        if self._stranger is not None:
            self._stranger = None
            self.n_late += 1
        if number == self._next and not self._held:
            self._next = self._newest = number
            self._next += 1
            self._last = (number, packet.timestamp)
            return [(number, packet)]
        if number in self._held or (number < self._next and number not in self._given_up):
            self.n_duplicate += 1
            return []
        if number < self._next:
            self.n_late += 1
            self._learn(now_s - self._given_up.pop(number))
            return []
        return self._hold(number, packet, now_s) + self.expire(now_s)

    def expire(self, now_s: float) -> Released:
        """Give up what has been waited for long enough, and return what was held back for it."""
        self._recent.roll(now_s)
        ready: Released = []
        while self._held:
            if self._give_up_s(self._missing[self._next]) > now_s:
                break
            ready += self._advance(min(self._held))
        return ready

    def flush(self) -> Released:
        """Give up all that is missing and return what was held back for it."""
        return self._advance(self._newest + 1)

    def ask_again(self, now_s: float, round_trip_s: float | None) -> list[int]:
        """Return the sequence numbers to ask the sender for now (RFC 4585's NACK); call after :meth:`add`.

        Asking pays when the wait for the answer opens no larger hole than it fills. A wait holds back what is there,
        and the session hears silence for so long; but once in a second or two only, because the timeline keeps the
        delay as a cushion for a while. So a packet is asked for when the round trip fits into what would be waited
        anyway, or is no longer than the sound that went missing within that time, and never when it exceeds
        :data:`MAX_PATIENCE_S`. Single losses on a long way are left to the decoder, which hides them better than a
        pause would.

        Args:
            now_s: the time.
            round_trip_s: to the sender and back, if it is known.
        """
        if not 0 < len(self._missing) <= _MOST_ASKED:
            return []
        wait_s = (_ASSUMED_ROUND_TRIP_S if round_trip_s is None else round_trip_s) * _MARGIN
        longest_s = min(MAX_PATIENCE_S, max(self.patience_s, self._recent.missed_s))
        numbers = []
        for number, missing in self._missing.items():
            is_on_its_way = missing.asked_s is not None and now_s < missing.asked_s + wait_s
            if is_on_its_way or now_s + wait_s > missing.noticed_s + longest_s:
                continue
            missing.asked_s = now_s
            missing.until_s = now_s + wait_s
            numbers.append(number % SEQUENCES)
        return numbers

    # -- inside -------------------------------------------------------------------------------------------------------

    def _give_up_s(self, missing: _Missing) -> float:
        return max(missing.until_s, missing.noticed_s + self.patience_s)

    def _learn(self, lateness_s: float) -> None:
        if lateness_s <= MAX_PATIENCE_S:  # waiting would not have helped what came later
            self._recent.note_lateness(lateness_s)

    def _begin(self, packets: list[RtpPacket], number: int) -> Released:
        self._ssrc = packets[0].ssrc
        self._newest = number + len(packets) - 1
        self._next = number
        self._given_up.clear()
        self._held.update(enumerate(packets, number))
        return self._take_run()

    def _meet(self, packet: RtpPacket) -> Released:
        """Take in a packet that does not belong to the stream: its successor shows whether another one has begun."""
        former, self._stranger = self._stranger, packet
        if former is None:
            return []
        follows = packet.sequence_number == (former.sequence_number + 1) % SEQUENCES and packet.ssrc == former.ssrc
        if not follows:
            self.n_late += 1
            return []
        self._stranger = None
        ready = self.flush()
        beyond = self._next + SEQUENCES  # a new start must not look like the past, nor like a gap
        number = beyond + (former.sequence_number - beyond) % SEQUENCES
        return ready + self._begin([former, packet], number)

    def _hold(self, number: int, packet: RtpPacket, now_s: float) -> Released:
        missing = self._missing.pop(number, None)
        if missing is not None:
            self.n_reordered += 1
            self._learn(now_s - missing.noticed_s)
        ready: Released = []
        if number > self._newest:
            ready = self._advance(number - SPAN + 1)
            # What a long gap leaves beyond the span was given up when it was noticed.
            beyond = range(max(self._newest + 1, self._next - MAX_MISORDER), self._next)
            self._given_up.update(dict.fromkeys(beyond, now_s))
            first = max(self._newest + 1, self._next)
            self._missing.update({skipped: _Missing(now_s) for skipped in range(first, number)})
            self._note_gap(number, packet.timestamp, number - self._newest - 1)
            self._newest = number
        self._held[number] = packet
        return ready + self._take_run()

    def _note_gap(self, number: int, timestamp: int, n_missing: int) -> None:
        """Note how much sound lies in a gap that has just been found, by the pace of the timestamps around it."""
        last_number, last_timestamp = self._last
        elapsed_s = max(0, signed32(timestamp - last_timestamp)) / self._clock_hz
        self._recent.note_gap(elapsed_s * n_missing / (number - last_number))

    def _advance(self, to: int) -> Released:
        """Go on from number ``to``: release what is held before it, give up what is missing, and go on from there."""
        if to <= self._next:
            return []
        ready = sorted((number, packet) for number, packet in self._held.items() if number < to)
        self.n_lost += to - self._next - len(ready)
        for number, _ in ready:
            del self._held[number]
        for number in [number for number in self._missing if number < to]:
            self._given_up[number] = self._missing.pop(number).noticed_s
        if ready:
            self._last = (ready[-1][0], ready[-1][1].timestamp)
        self._next = to
        ready += self._take_run()
        for number in [number for number in self._given_up if number < self._next - MAX_MISORDER]:
            del self._given_up[number]
        return ready

    def _take_run(self) -> Released:
        run = []
        while (packet := self._held.pop(self._next, None)) is not None:
            run.append((self._next, packet))
            self._next += 1
        if run:
            self._last = (run[-1][0], run[-1][1].timestamp)
        return run
