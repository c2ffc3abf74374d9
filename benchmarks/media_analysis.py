"""What a listener heard of an echo, worked out from the packets that arrived: gaps, and the delay from wire to wire.

All of it runs after the measurement. Gaps need only RTP headers, which SRTP leaves readable; the delay needs the sound
of some calls, which is held against what was sent. Knows nothing about sockets or servers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_server.types import Pcm

__all__ = [
    "BUFFER_S",
    "MATCH_RATE_HZ",
    "PACKET_S",
    "Arrivals",
    "Match",
    "Times",
    "active_s",
    "arrivals_of",
    "gap_s",
    "holes_s",
    "listened",
    "matches",
    "place",
    "played_s",
    "returned_s",
]

PACKET_S = 0.02
BUFFER_S = 0.06
"""What the imagined listener keeps before it plays."""
MATCH_RATE_HZ = 8_000
"""Sound is compared at this rate: enough for a voice, and quickly decoded."""
_PACKET_SAMPLES = round(PACKET_S * MATCH_RATE_HZ)
_RTP_HZ = 48_000
_PACKET_STAMP = round(PACKET_S * _RTP_HZ)
_PAUSE_STAMP = _RTP_HZ // 5
"""A sender that leaves out this much (200 ms) without losing a packet pauses; less is a hole in the sound."""
_WINDOW_S = 0.4
"""Length of what is looked for: two syllables, which no other part of a clip resembles."""
_EVERY_S = 0.25
_ALIKE = 0.6
"""Correlation from which on a window is the same sound, after two codecs."""
_FAINT_DB = -45.0
_LOUD_DB, _SILENT_DB = -40.0, -60.0
"""What was louder than the one is heard, after two codecs, as nothing less than the other: codecs do not silence."""
_DITHER_SAMPLES = 37
"""Windows start at all offsets within a packet, one after the other: the delay of a packet's average sample."""

Times = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """RTP packets in the order of their numbers, each once.

    All arrays are ``[n]``.
    """

    at_s: Times
    number: Positions
    """Sequence numbers without wraps."""
    stamp: Positions
    """Timestamps without wraps, 48 kHz."""
    marked: npt.NDArray[np.bool_]
    """Whether the sender says that speech begins with this packet, after a pause (RFC 3551 §4.1)."""

    def of(self, chosen: npt.NDArray[Any]) -> Arrivals:
        """Return some of them, by places or by a mask."""
        return Arrivals(self.at_s[chosen], self.number[chosen], self.stamp[chosen], self.marked[chosen])

    def between(self, start_s: float, end_s: float) -> Arrivals:
        """Return those that arrived within a time."""
        return self.of((self.at_s >= start_s) & (self.at_s < end_s))


@dataclass(frozen=True, slots=True)
class Match:
    """A piece of the sent sound, found again in what came back."""

    sent_s: float
    """When the packet left that holds its first sample."""
    delay_s: float
    """How much later the packet arrived that holds the same sample."""
    shift_samples: int
    """How much later it lies in the heard sound than in the sent, 8 kHz."""
    origin_samples: int
    """Where it lies in the sent sound, 8 kHz."""


def arrivals_of(packets: Sequence[tuple[float, bytes]]) -> tuple[Arrivals, Positions]:
    """Read the headers of RTP or SRTP packets of one stream.

    Args:
        packets: time of arrival and datagram (its first 12 bytes are enough), in order of arrival.

    Returns:
        The arrivals, and for each its place in ``packets``.
    """
    if not packets:
        nothing = np.zeros(0, np.int64)
        return Arrivals(np.zeros(0), nothing, nothing, np.zeros(0, np.bool_)), nothing
    kinds, numbers, stamps = np.array([struct.unpack_from("!BHI", packet, 1) for _, packet in packets], np.int64).T
    at_s = np.array([time_s for time_s, _ in packets], np.float64)
    everything = Arrivals(at_s, _unwrapped(numbers, 16), _unwrapped(stamps, 32), kinds >= 0x80)
    _, first = np.unique(everything.number, return_index=True)
    return everything.of(first), first


def _unwrapped(values: Positions, bits: int) -> Positions:
    span = 1 << bits
    steps = (np.diff(values) + span // 2) % span - span // 2
    return np.concatenate([values[:1], values[0] + np.cumsum(steps)])


def gap_s(packets: Arrivals, *, pauses: bool) -> float:
    """Return how long a listener heard nothing, although the talker had not paused.

    The listener starts :data:`BUFFER_S` after the first packet. For a packet that is not there when it is due it waits,
    and is later from then on; one that is missing it skips.

    Args:
        packets: of one call.
        pauses: whether the talker pauses, so that a jump in time without a missing packet may be meant, although the
            sender does not say that speech begins anew.
    """
    return _listen(packets, pauses=pauses)[1]


def played_s(packets: Arrivals, *, pauses: bool) -> Times:
    """Return when the listener of :func:`gap_s` plays each packet, float64 ``[n]``."""
    return np.array(_listen(packets, pauses=pauses)[0])


def _listen(packets: Arrivals, *, pauses: bool) -> tuple[list[float], float]:
    """Return when each packet is played, and how long nothing was that should have been."""
    if not len(packets.number):
        return [], 0.0
    silent_s = 0.0
    base_s = float(packets.at_s[0]) + BUFFER_S - int(packets.stamp[0]) / _RTP_HZ
    times_s = [float(packets.at_s[0]) + BUFFER_S]
    steps = zip(
        packets.at_s[1:].tolist(),
        np.diff(packets.number).tolist(),
        np.diff(packets.stamp).tolist(),
        packets.stamp[1:].tolist(),
        packets.marked[1:].tolist(),
        strict=True,
    )
    for at_s, n_steps, advance, stamp, marked in steps:
        hole = max(0, advance - _PACKET_STAMP)
        if n_steps == 1 and (marked or (pauses and hole >= _PAUSE_STAMP)):
            base_s = max(base_s, at_s + BUFFER_S - stamp / _RTP_HZ)
        else:
            late_s = max(0.0, at_s - (base_s + stamp / _RTP_HZ))
            silent_s += hole / _RTP_HZ + late_s
            base_s += late_s
        times_s.append(base_s + stamp / _RTP_HZ)
    return times_s, silent_s


def listened(frames: Sequence[Pcm], times_s: Times, start_s: float, end_s: float, rate_hz: int) -> Pcm:
    """Return what a loudspeaker played between two times: float32 at ``rate_hz``, silent where it had nothing.

    Args:
        frames: the packets' sound.
        times_s: when each is played, float64 ``[n]``.
        start_s: of what is returned.
        end_s: of what is returned.
        rate_hz: of the frames.
    """
    track = np.zeros(max(0, round((end_s - start_s) * rate_hz)), np.float32)
    for frame, time_s in zip(frames, times_s.tolist(), strict=True):
        at = round((time_s - start_s) * rate_hz)
        if at + len(frame) > 0 and at < len(track):
            first = max(0, -at)
            part = frame[first : first + len(track) - (at + first)]
            track[at + first : at + first + len(part)] = part
    return track


def active_s(pcm: Pcm, rate_hz: int) -> float:
    """Return how long somebody speaks in a track, seconds."""
    n = round(PACKET_S * rate_hz)
    windows = pcm[: len(pcm) // n * n].reshape(-1, n)
    return float(np.sum(np.mean(np.square(windows), axis=1) >= 10 ** (_FAINT_DB / 10)) * PACKET_S)


def returned_s(packets: Arrivals) -> float:
    """Return how much sound the packets hold, at 20 ms each."""
    return len(packets.number) * PACKET_S


def place(frames: Sequence[Pcm], stamps: Positions) -> tuple[Pcm, Positions]:
    """Lay decoded packets on one track by their timestamps.

    Args:
        frames: float32 ``[160]`` each, 20 ms at 8 kHz; a longer one is cut.
        stamps: int64 ``[n]``, 48 kHz, growing: those of :class:`Arrivals`.

    Returns:
        The track from the first packet on, silent where nothing came, and for each 20 ms of it the packet that holds
        them (-1: none).
    """
    if not len(frames):
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    slots = np.round((stamps - stamps[0]) / _PACKET_STAMP).astype(np.int64)
    track = np.zeros((slots[-1] + 1, _PACKET_SAMPLES), np.float32)
    holder = np.full(len(track), -1, np.int64)
    for number, (slot, frame) in enumerate(zip(slots.tolist(), frames, strict=True)):
        track[slot, : len(frame)] = frame[:_PACKET_SAMPLES]
        holder[slot] = number
    return track.reshape(-1), holder


def matches(sent: Pcm, departures_s: Times, heard: Pcm, arrivals_s: Times, *, most_s: float) -> list[Match]:
    """Find pieces of what was heard again in what was sent.

    Args:
        sent: float32, 8 kHz: the sound of the sent packets, one after the other.
        departures_s: float64 ``[len(sent) // 160]``: when each of them left.
        heard: float32, 8 kHz: the sound of the received packets.
        arrivals_s: float64 ``[len(heard) // 160]``: when each of them arrived; NaN where none did.
        most_s: the longest delay that is looked for.
    """
    window = round(_WINDOW_S * MATCH_RATE_HZ)
    found = []
    step = round(_EVERY_S * MATCH_RATE_HZ) + _DITHER_SAMPLES
    for start in range(0, len(heard) - window, step):
        at_s = arrivals_s[start // _PACKET_SAMPLES]
        piece = heard[start : start + window]
        if np.isnan(at_s) or _level_db(piece) < _FAINT_DB:
            continue
        first, last = np.searchsorted(departures_s, [at_s - most_s, at_s]) * _PACKET_SAMPLES
        position = _find(sent[first : last + window], piece)
        if position is not None:
            origin = int(first) + position
            sent_s = float(departures_s[min(origin // _PACKET_SAMPLES, len(departures_s) - 1)])
            found.append(Match(sent_s, float(at_s) - sent_s, start - origin, origin))
    return found


def holes_s(sent: Pcm, heard: Pcm, found: Sequence[Match], first: int, last: int) -> float:
    """Return how long nothing was heard where, by what was sent, somebody was in the middle of speaking.

    Finds also what packets do not show: silence that a server put in because it had nothing else. Where silence belongs
    is told by the pieces found before and after it; both must say that it lies within speech, so that a pause whose
    length has changed does not count.

    Args:
        sent: float32, 8 kHz, as in :func:`matches`.
        heard: float32, 8 kHz.
        found: pieces of the one in the other, in order.
        first: where to begin in what was heard, samples.
        last: where to end.
    """
    if not found:
        return 0.0
    loud_sent = _levels_db(sent) >= _LOUD_DB
    within_speech = loud_sent & np.roll(loud_sent, 1) & np.roll(loud_sent, -1)
    shifts = np.array([match.shift_samples for match in found])
    starts = shifts + np.array([match.origin_samples for match in found])
    slots = np.arange(max(0, first) // _PACKET_SAMPLES, min(last, len(heard)) // _PACKET_SAMPLES)
    silent = slots[_levels_db(heard)[slots] < _SILENT_DB]
    following = np.searchsorted(starts, silent * _PACKET_SAMPLES)
    counts = np.ones(len(silent), np.bool_)
    for neighbour in (following - 1, following):
        shift = shifts[np.clip(neighbour, 0, len(found) - 1)]
        origins = (silent * _PACKET_SAMPLES - shift) // _PACKET_SAMPLES
        inside = (origins >= 0) & (origins < len(within_speech))
        counts &= inside & within_speech[np.where(inside, origins, 0)]
    return float(np.sum(counts) * PACKET_S)


def _find(track: Pcm, piece: Pcm) -> int | None:
    """Return where in a track a piece sounds alike, by normalised correlation; None if nowhere."""
    n_places = len(track) - len(piece) + 1
    if n_places <= 0:
        return None
    size = 1 << (len(track) - 1).bit_length()
    spectrum = np.fft.rfft(track, size) * np.conj(np.fft.rfft(piece, size))
    products = np.fft.irfft(spectrum, size)[:n_places]
    energy = np.concatenate([[0.0], np.cumsum(np.square(track, dtype=np.float64))])
    norms = np.sqrt(np.maximum(energy[len(piece) :] - energy[: -len(piece)], 1e-9) * np.sum(np.square(piece)))
    alike = products / norms
    best = int(np.argmax(alike))
    return best if alike[best] >= _ALIKE else None


def _levels_db(pcm: Pcm) -> npt.NDArray[np.floating[Any]]:
    """Return the level of each 20 ms."""
    windows = pcm[: len(pcm) // _PACKET_SAMPLES * _PACKET_SAMPLES].reshape(-1, _PACKET_SAMPLES)
    levels: npt.NDArray[np.floating[Any]] = 10 * np.log10(np.mean(np.square(windows), axis=1) + 1e-12)
    return levels


def _level_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-12))
