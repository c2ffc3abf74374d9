"""From the packets of a camera track, in whatever order the network brings them, to whole coded pictures.

A plain machine: packets and the time go in, pictures come out. Knows nothing about pixels or about who looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from duplex_server.media.rtp import SEQUENCES, RtpPacket, signed16
from duplex_server.media.video_h264 import h264_picture, read_h264_payload
from duplex_server.media.video_picture import CodedPicture, CorruptVideo, Fragment, VideoCodec
from duplex_server.media.video_vp8 import read_vp8_payload, vp8_picture

__all__ = ["MAX_HELD_BYTES", "MAX_HELD_PACKETS", "PictureAssembler"]

MAX_HELD_BYTES = 2 * 2**20
"""What may wait for a missing packet, or for the rest of a picture. A key picture of 4K is below 1 MiB."""

MAX_HELD_PACKETS = 2048
"""The same in packets, of 1200 bytes; many small ones must not cost more."""

MAX_HELD_PICTURES = 32
"""Pictures that may be incomplete at a time: a second of them at 30/s."""

REORDERING_S = 0.1
"""How long a missing packet may still come. Later, its picture is lost, and with it all that builds upon that."""

STALE_S = 0.25
"""A picture of which nothing has come for so long, while others began, is not going to be whole."""

_MAX_AHEAD, _MAX_BEHIND = 3000, 100
"""A number further away is that of a sender that began anew. Source: MAX_DROPOUT and MAX_MISORDER of RFC 3550 A.1."""


@dataclass(slots=True)
class _Partial:
    """A picture whose packets are coming in."""

    touched_s: float
    fragments: dict[int, Fragment] = field(default_factory=dict)  # by extended sequence number
    opens_key: int | None = None  # where a key picture begins, if it was seen
    last: int | None = None  # where it ends, if that was seen

    def is_whole(self, first: int) -> bool:
        """Whether nothing is missing from ``first`` on."""
        if self.last is None or len(self.fragments) <= self.last - first:
            return False
        return first <= self.last and all(number in self.fragments for number in range(first, self.last + 1))


class PictureAssembler:
    """Put one stream's pictures together.

    Every picture that comes out can be decoded by whoever has decoded those that came out before it: the first is a key
    picture, and after a loss nothing comes out until the next one, since what builds upon a lost picture is worth
    nothing.

    Args:
        codec: what the packets' payloads are.

    Attributes:
        n_corrupt: payloads and pictures that were not what they claimed to be.
        n_breaks: how often a loss made the pictures after it worthless.
    """

    def __init__(self, codec: VideoCodec) -> None:
        self._read = read_vp8_payload if codec is VideoCodec.VP8 else read_h264_payload
        self._codec = codec
        self._partials: dict[int, _Partial] = {}  # by RTP timestamp, oldest first; bounded by _hold()
        self._padding: set[int] = set()  # packets without content that lie ahead; bounded by _hold()
        self._n_held = 0  # fragments and padding
        self._held_bytes = 0
        self._next: int | None = None  # extended number where the next picture begins; None after a loss
        self._highest: int | None = None  # extended number
        self._newest_timestamp = 0  # of the packet with the highest number
        self._gap_since_s: float | None = None
        self.n_corrupt = 0
        self.n_breaks = 0

    @property
    def intact(self) -> bool:
        """Whether pictures go on without a new key picture, as far as is known."""
        return self._next is not None

    def add(self, packet: RtpPacket, now_s: float) -> list[CodedPicture]:
        """Take in a packet as it arrives.

        Args:
            packet: of this stream and codec; padding has been taken off.
            now_s: monotonic.

        Returns:
            The pictures that are whole now, oldest first.
        """
        number = self._place(packet)
        if self._next is not None and number < self._next:
            return []  # late, or a duplicate
        if packet.payload:
            try:
                fragment = self._read(packet.payload)
            except CorruptVideo:
                self.n_corrupt += 1
                return []
            self._hold(number, packet, fragment, now_s)
        elif self._next is not None:
            self._hold_padding(number)
        pictures = self._take_whole()
        self._mind_gap(now_s)
        return pictures

    def _place(self, packet: RtpPacket) -> int:
        """Return the packet's extended number, and learn from it where the picture before it ended."""
        if self._highest is None:
            self._highest, self._newest_timestamp = packet.sequence_number, packet.timestamp
            return self._highest
        number = self._highest + signed16(packet.sequence_number - self._highest)
        if not -_MAX_BEHIND <= number - self._highest <= _MAX_AHEAD:
            self._lose()
            self._partials.clear()
            self._n_held = self._held_bytes = 0
            number = self._highest + (packet.sequence_number - self._highest) % SEQUENCES  # never into the past
        if number == self._highest + 1 and packet.timestamp != self._newest_timestamp:
            # The marker tells the same earlier, but must not be relied upon (RFC 6184 §5.1).
            before = self._partials.get(self._newest_timestamp)
            if before is not None and before.last is None and packet.payload:
                before.last = self._highest
        if number > self._highest:
            self._highest, self._newest_timestamp = number, packet.timestamp
        return number

    def _hold(self, number: int, packet: RtpPacket, fragment: Fragment, now_s: float) -> None:
        partial = self._partials.get(packet.timestamp)
        if partial is None:
            if self._next is None:
                self._drop_stale(now_s)
            partial = self._partials[packet.timestamp] = _Partial(now_s)
        if number in partial.fragments:
            return
        partial.touched_s = now_s
        partial.fragments[number] = fragment
        self._n_held += 1
        self._held_bytes += len(fragment.coded)
        if fragment.opens_key and (partial.opens_key is None or number < partial.opens_key):
            partial.opens_key = number
        if packet.marker and (partial.last is None or number > partial.last):
            partial.last = number
        while self._is_overfull():
            self._lose()
            self._drop(next(iter(self._partials)))

    def _hold_padding(self, number: int) -> None:
        if number not in self._padding:
            self._padding.add(number)
            self._n_held += 1
        if self._n_held > MAX_HELD_PACKETS:
            self._lose()

    def _is_overfull(self) -> bool:
        return (
            self._held_bytes > MAX_HELD_BYTES
            or self._n_held > MAX_HELD_PACKETS
            or len(self._partials) > MAX_HELD_PICTURES
        )

    def _take_whole(self) -> list[CodedPicture]:
        """Take out what can be decoded: what goes on where the last picture ended, or the newest key picture."""
        taken: list[CodedPicture] = []
        while True:
            self._step_over_padding()
            timestamp, first = self._find_whole()
            if timestamp is None:
                return taken
            partial = self._partials[timestamp]
            assert partial.last is not None, "whole pictures have an end"
            fragments = [partial.fragments[number] for number in range(first, partial.last + 1)]
            try:
                picture = self._put_together(fragments)
            except CorruptVideo:
                self.n_corrupt += 1
                self._lose()
                self._drop(timestamp)
                continue
            if picture.is_key or first == self._next:
                taken.append(picture)
                self._drop(timestamp)
                self._go_on_from(partial.last + 1)
            else:
                partial.opens_key = None  # it only looked like one, and must wait for its turn

    def _find_whole(self) -> tuple[int | None, int]:
        """Return the timestamp of a whole picture and the number of its first packet."""
        if self._next is not None:
            for timestamp, partial in self._partials.items():
                if self._next in partial.fragments:
                    if partial.is_whole(self._next):
                        return timestamp, self._next
                    break
        for timestamp in reversed(self._partials):
            partial = self._partials[timestamp]
            if partial.opens_key is not None and partial.is_whole(partial.opens_key):
                return timestamp, partial.opens_key
        return None, 0

    def _put_together(self, fragments: list[Fragment]) -> CodedPicture:
        coded = b"".join(fragment.coded for fragment in fragments)
        if self._codec is VideoCodec.H264:
            return h264_picture(coded)
        return vp8_picture(coded, disposable=fragments[0].disposable)

    def _go_on_from(self, number: int) -> None:
        """Expect the next picture at ``number``, and forget what lies before."""
        self._next = number
        self._gap_since_s = None
        for timestamp in [stamp for stamp, partial in self._partials.items() if min(partial.fragments) < number]:
            self._drop(timestamp)
        passed = {padding for padding in self._padding if padding < number}
        self._padding -= passed
        self._n_held -= len(passed)

    def _step_over_padding(self) -> None:
        while self._next is not None and self._next in self._padding:
            self._padding.discard(self._next)
            self._n_held -= 1
            self._next += 1
            self._gap_since_s = None

    def _mind_gap(self, now_s: float) -> None:
        """Give up a missing packet that is overdue."""
        if self._next is None:
            return
        assert self._highest is not None, "a packet has been placed"
        if self._n_held == self._highest - self._next + 1:
            self._gap_since_s = None
        elif self._gap_since_s is None:
            self._gap_since_s = now_s
        elif now_s - self._gap_since_s > REORDERING_S:
            self._lose()

    def _lose(self) -> None:
        """Wait for a key picture. What is held stays: one may be among it."""
        self.n_breaks += self._next is not None
        self._next = self._gap_since_s = None
        self._n_held -= len(self._padding)
        self._padding.clear()

    def _drop_stale(self, now_s: float) -> None:
        """While only a key picture is waited for, forget pictures that have stopped coming in."""
        for timestamp in [t for t, partial in self._partials.items() if now_s - partial.touched_s > STALE_S]:
            self._drop(timestamp)

    def _drop(self, timestamp: int) -> None:
        partial = self._partials.pop(timestamp)
        self._n_held -= len(partial.fragments)
        self._held_bytes -= sum(len(fragment.coded) for fragment in partial.fragments.values())
