"""What a bad network does to a voice on its way to a server, heard in the server's echo: one part of benchmarks.media.

Every condition is one call through a relay of its own, all at once. The network is good for a quarter of the call, bad
for half of it, and good again. Only the way to the server is bad, so that nothing depends on how a listener fills gaps.
Knows nothing about which server it calls.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aioice.ice
import numpy as np

from benchmarks.analysis import percentile
from benchmarks.embedded_accuracy import Conversation
from benchmarks.media_analysis import (
    BUFFER_S,
    Match,
    active_s,
    arrivals_of,
    listened,
    played_s,
)
from benchmarks.media_call import Call, Door, called
from benchmarks.media_load import listen, talk
from benchmarks.media_speech import Track, decoded
from benchmarks.udp_relay import Impairment, UdpRelay, relayed
from duplex_server.models.embedded.model import build
from duplex_server.transports.rtc_internals import offer_loopback
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["CONDITIONS", "SENTENCES", "Condition", "Endured", "Speech", "endure"]

SENTENCES = (
    "what time is it",
    "tell me a story",
    "please speak english",
    "my name is robert",
    "slow down",
    "help me",
    "thanks a lot",
    "see you later",
)
"""What the embedded model's recogniser knows, so that a sentence that it misses was damaged on the way."""
PAUSE_S = 1.2
_SETTLED_S = 2.0
"""After the network is good again, the delay must be what it was within this time."""
_BEFORE_WORDS_S, _AFTER_WORDS_S = 0.3, 0.4
_ROOM_DB = -60.0
_LAST_ECHO_S = 1.0
"""How long a caller stays after the last word."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A bad network."""

    impairment: Impairment
    lasts_s: float | None = None
    """How long it is bad, in the middle of the call; None: for half of it."""


CONDITIONS: dict[str, Condition] = {
    "clean": Condition(Impairment()),
    "1 % loss": Condition(Impairment(lost=0.01)),
    "5 % loss": Condition(Impairment(lost=0.05)),
    "10 % loss": Condition(Impairment(lost=0.10)),
    "20 % loss": Condition(Impairment(lost=0.20)),
    "bursts of 3 to 10": Condition(Impairment(bursts=0.01)),
    "one burst of 10": Condition(Impairment(lost=1.0), lasts_s=0.2),
    "30 ms jitter": Condition(Impairment(jitter_s=0.03, keeps_order=False)),
    "5 % reordered": Condition(Impairment(reordered=0.05)),
    "5 % duplicated": Condition(Impairment(duplicated=0.05)),
    "2 s outage": Condition(Impairment(lost=1.0), lasts_s=2.0),
}


@dataclass(frozen=True, slots=True)
class Speech:
    """What is said in every call."""

    track: Track
    sentences: tuple[str, ...]
    spans_s: tuple[tuple[float, float], ...]
    """When each sentence begins and ends in the track."""

    @property
    def length_s(self) -> float:
        return len(self.track.packets) / 50

    @property
    def middle_s(self) -> float:
        """The middle of the sentence that is nearest to the track's, so that what is short does not hit a pause."""
        middles_s = [(start_s + end_s) / 2 for start_s, end_s in self.spans_s]
        return min(middles_s, key=lambda middle_s: abs(middle_s - self.length_s / 2))


@dataclass(frozen=True, slots=True)
class Endured:
    """What became of a voice under one condition. Delays are from wire to wire."""

    condition: str
    lost_share: float
    """Of the packets sent while the network was bad."""
    gap_free_share: float
    """Of the speech sent while the network was bad: how much of it was heard as sound, concealed or not."""
    delay_before_s: float | None
    delay_during_p95_s: float | None
    delay_after_s: float | None
    """From two seconds after the network was good again."""
    words_share: float
    """Of the words sent, over the whole call, that were recognised."""

    @property
    def recovered(self) -> bool:
        """Whether the delay was back within 20 ms of what it had been."""
        before_s, after_s = self.delay_before_s, self.delay_after_s
        return before_s is not None and after_s is not None and after_s <= before_s + 0.02


@dataclass(frozen=True, slots=True)
class _Span:
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Raw:
    """A call that is over."""

    condition: str
    call: Call
    bad: _Span
    lost_share: float


async def endure(url: str, door: Door, conditions: Mapping[str, Condition], speech: Speech, seed: int) -> list[Endured]:
    """Say the same over every network at once, and say what came back.

    Raises:
        ExceptionGroup: of :class:`~benchmarks.media_call.NoCall`.
    """
    offer_loopback()
    host = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False)[0]
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_over(url, door, name, condition, speech, host, seed + number))
            for number, (name, condition) in enumerate(conditions.items())
        ]
    return [_judge(speech, task.result()) for task in running]  # takes time, which no call may miss


async def _over(url: str, door: Door, name: str, condition: Condition, speech: Speech, host: str, seed: int) -> _Raw:
    async with (
        relayed(host, seed) as relay,
        called(url, door, listens=True, relay=relay) as call,
        asyncio.TaskGroup() as tasks,
    ):
        talking = tasks.create_task(talk([call], speech.track, []))
        began_s = time.monotonic()
        bad, lost_share = await _spoil(relay, condition, speech, began_s)
        await asyncio.sleep(max(0.0, began_s + speech.length_s + _LAST_ECHO_S - time.monotonic()))
        talking.cancel()
    return _Raw(name, call, bad, lost_share)


async def _spoil(relay: UdpRelay, condition: Condition, speech: Speech, began_s: float) -> tuple[_Span, float]:
    """Make the network bad in the middle of a call; return when it was, and the share of packets lost."""
    if condition.lasts_s is None:
        lasts_s, middle_s = speech.length_s / 2, speech.length_s / 2
    else:
        lasts_s, middle_s = condition.lasts_s, speech.middle_s
    await asyncio.sleep(max(0.0, began_s + middle_s - lasts_s / 2 - time.monotonic()))
    taken, lost = relay.up.n_taken, relay.up.n_lost
    start_s = time.monotonic()
    relay.up.impairment = condition.impairment
    await asyncio.sleep(lasts_s)
    relay.up.impairment = Impairment()
    share = (relay.up.n_lost - lost) / max(1, relay.up.n_taken - taken)
    return _Span(start_s, time.monotonic()), share


def _judge(speech: Speech, raw: _Raw) -> Endured:
    call, bad = raw.call, raw.bad
    payloads = call.payloads()
    found = listen(call, speech.track, payloads).found
    before = [match.delay_s for match in found if match.sent_s < bad.start_s]
    during = [match.delay_s for match in found if bad.start_s <= match.sent_s < bad.end_s]
    after = [match.delay_s for match in found if match.sent_s >= bad.end_s + _SETTLED_S]
    arrivals, order = arrivals_of([(at_s, header) for at_s, header, _ in payloads])
    frames = decoded([payloads[number][2] for number in order], OUTPUT_RATE_HZ)
    times_s = played_s(arrivals, pauses=True)

    def heard(start_s: float, end_s: float) -> Pcm:
        """Return what was played of what was sent in a time, by the delay at its two ends."""
        shift_s = _delay_at(found, start_s) + BUFFER_S, _delay_at(found, end_s) + BUFFER_S
        return listened(frames, times_s, start_s + shift_s[0], end_s + shift_s[1], OUTPUT_RATE_HZ)

    sent = np.concatenate(decoded(speech.track.packets, OUTPUT_RATE_HZ))
    began_s = call.departures_s[0]
    first, last = (round((time_s - began_s) * OUTPUT_RATE_HZ) for time_s in (bad.start_s, bad.end_s))
    spoken_s = active_s(sent[first:last], OUTPUT_RATE_HZ)
    heard_s = active_s(heard(bad.start_s, bad.end_s), OUTPUT_RATE_HZ)
    clips = [
        heard(began_s + start_s - _BEFORE_WORDS_S, began_s + end_s + _AFTER_WORDS_S)
        for start_s, end_s in speech.spans_s
    ]
    return Endured(
        condition=raw.condition,
        lost_share=raw.lost_share,
        gap_free_share=min(1.0, heard_s / spoken_s) if spoken_s else 1.0,
        delay_before_s=percentile(before, 50) if before else None,
        delay_during_p95_s=percentile(during, 95) if during else None,
        delay_after_s=percentile(after, 50) if after else None,
        words_share=words_share(speech.sentences, clips),
    )


def _delay_at(found: Sequence[Match], time_s: float) -> float:
    """Return the delay of what was sent nearest to a time; 0 if nothing was found again."""
    return min(found, key=lambda match: abs(match.sent_s - time_s)).delay_s if found else 0.0


def words_share(sentences: Sequence[str], clips: Sequence[Pcm]) -> float:
    """Return the share of the sentences' words that the embedded model's recogniser hears in clips at 24 kHz."""
    n_words = n_right = 0
    model = build(1, count_faces=False)
    try:
        conversation = Conversation(model)
        for number, (sentence, clip) in enumerate(zip(sentences, clips, strict=True)):
            meant, got = sentence.split(), conversation.hear(clip, _ROOM_DB, number).text.split()
            blocks = difflib.SequenceMatcher(None, meant, got, autojunk=False).get_matching_blocks()
            n_words += len(meant)
            n_right += sum(block.size for block in blocks)
            conversation.silence()
    finally:
        model.shut_down()
    return n_right / max(1, n_words)
