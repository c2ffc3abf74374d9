"""Which coded pictures of a camera are decoded: as few as it takes to see the newest one, as often as somebody looks.

A camera sends thirty pictures a second, a model looks once, and most pictures are changes of the one before. So the
sender is asked for a key picture when it is time to look: that one is decoded and all others are dropped as they came.
Where that is not worth it, because few have come, or the sender does not do as it is asked, all since the last look are
decoded at once. A plain machine: pictures and the time go in, pictures to decode come out.

Knows nothing about packets or pixels.
"""

from __future__ import annotations

from typing import NamedTuple

from duplex_server.media.video_picture import CodedPicture

__all__ = ["MAX_CHAIN_BYTES", "MAX_PX_PER_S", "Choice", "PicturePicker"]

MAX_PX_PER_S = 1280 * 720 * 30
"""What is decoded of one camera, pixels per second: a usual one that gives no key pictures, a tenth of a core."""

SHORT_CHAIN = 3
"""So many pictures are decoded without asking for a key picture, which costs the sender several times their bits and
quality, and us as much CPU as two or three others."""

MAX_CHAIN_BYTES = 4 * 2**20
"""What is kept, coded, to be decoded later: a second at 32 Mbit/s."""

MAX_CHAIN = 256
"""The same in pictures, however small."""

KEY_PATIENCE_S = 0.5
"""How long a key picture that was asked for may take: a slow round trip, the sender's next picture, and ten or twenty
packets at its pace."""

IGNORED_ASKS = 3
"""A sender that let so many requests pass is taken for one that does not answer them."""

ASK_AGAIN_S = 10.0
"""How often that one is still asked."""


class Choice(NamedTuple):
    """What is to be done now."""

    pictures: tuple[CodedPicture, ...] = ()
    """To be decoded, in this order, by the decoder that decoded the choice before; the last is what is to be seen."""
    ask: bool = False
    """Whether the sender is to be asked for a key picture."""


_NOTHING = Choice()


class PicturePicker:
    """Choose for one camera.

    Args:
        every_s: how often somebody looks.
        max_px: largest picture that is decoded, pixels.

    Attributes:
        n_dropped: pictures that were not decoded.
    """

    def __init__(self, every_s: float, max_px: int) -> None:
        assert every_s > 0, "nobody looks"
        self._every_s = every_s
        self._max_px = max_px
        self._chain: list[CodedPicture] = []  # what the decoder needs to get to the newest picture; bounded by put()
        self._chain_bytes = 0
        self._decodable = False  # whether the chain goes on where the decoder is, or begins with a key picture
        self._size_px = 0  # of one picture of the chain
        self._busy = False
        self._begins = True  # the stream's first packet is still to come
        self._due_s: float | None = None  # the next look; None before the first
        self._asked_s: float | None = None  # when a key picture was asked for, for this look
        self._asked_last_s = -ASK_AGAIN_S
        self._n_ignored = 0
        self._allowance_px = float(MAX_PX_PER_S)  # below zero after an expensive picture
        self._allowance_s: float | None = None
        self._too_large = False
        self.n_dropped = 0

    def put(self, picture: CodedPicture) -> tuple[int, int] | None:
        """Take in the stream's next picture.

        Returns:
            Its size, if this is the first in a row that has more pixels than are decoded.
        """
        size_px = picture.size_px
        if size_px is not None and size_px[0] * size_px[1] > self._max_px:
            told, self._too_large = self._too_large, True
            self.n_dropped += 1
            self._give_up()
            return None if told else size_px
        if picture.is_key:
            assert size_px is not None, "key pictures tell their size"
            self._forget()
            self._decodable, self._size_px, self._too_large = True, size_px[0] * size_px[1], False
            self._n_ignored = 0
        elif not self._decodable:
            self.n_dropped += 1
            return None
        elif self._chain and self._chain[-1].disposable:
            self._chain_bytes -= len(self._chain.pop().coded)
            self.n_dropped += 1
        self._chain.append(picture)
        self._chain_bytes += len(picture.coded)
        if (
            self._chain_bytes > MAX_CHAIN_BYTES
            or len(self._chain) > MAX_CHAIN
            or (len(self._chain) > SHORT_CHAIN and len(self._chain) * self._size_px > MAX_PX_PER_S)
        ):
            self._give_up()
        return None

    def begin_anew(self) -> None:
        """Expect the key picture of another stream; how often somebody looks does not change."""
        self._give_up()
        self._begins = True

    def choose(self, now_s: float, *, intact: bool) -> Choice:
        """Say what is to be done now; pictures that are returned are the caller's, who calls :meth:`done` afterwards.

        Args:
            now_s: monotonic.
            intact: whether the newest picture is as new as what the sender sent last, as far as is known.
        """
        if self._due_s is None:
            self._due_s = now_s
        if self._begins:
            # Every stream begins with a key picture, so none is asked for until that one is overdue.
            self._begins = False
            self._asked_s = self._asked_last_s = now_s
        if self._busy or now_s < self._due_s or not self._may_spend(now_s):
            return _NOTHING
        fresh = intact and self._decodable
        if fresh and not self._chain:
            return _NOTHING  # nothing new to be seen
        if not fresh or len(self._chain) > SHORT_CHAIN:
            if self._asked_s is None and self._is_worth_asking(now_s, intact=intact):
                self._asked_s = self._asked_last_s = now_s
                return Choice(ask=True)
            if self._asked_s is not None:
                if now_s < self._asked_s + KEY_PATIENCE_S:
                    return _NOTHING
                self._n_ignored += 1
        return self._look(now_s)

    def done(self, *, decoded: bool) -> None:
        """Hear that the pictures of the last choice have been decoded, or that one of them could not be."""
        assert self._busy, "nothing was being decoded"
        self._busy = False
        if not decoded and not (self._chain and self._chain[0].is_key):
            self._give_up()

    @property
    def deadline_s(self) -> float | None:
        """When :meth:`choose` is to be called even if nothing more comes; None if there is no need."""
        if self._busy or self._due_s is None or (self._asked_s is None and not self._chain):
            return None
        patient_s = self._due_s if self._asked_s is None else self._asked_s + KEY_PATIENCE_S
        return max(self._due_s, patient_s, self._spendable_s)

    def _look(self, now_s: float) -> Choice:
        assert self._due_s is not None, "choose() has set it"
        # By absolute deadlines, so that the wait for a key picture does not add up; after a long one, not at once.
        self._due_s = max(self._due_s + self._every_s, now_s + self._every_s / 2)
        self._asked_s = None
        if not self._chain:
            return _NOTHING
        pictures = tuple(self._chain)
        self._chain, self._chain_bytes = [], 0
        self._allowance_px -= len(pictures) * self._size_px
        self._busy = True
        return Choice(pictures)

    def _is_worth_asking(self, now_s: float, *, intact: bool) -> bool:
        if self._too_large:
            return False  # the next one would be as large
        if self._n_ignored < IGNORED_ASKS or not (intact and self._decodable):
            return True
        return now_s >= self._asked_last_s + ASK_AGAIN_S

    def _may_spend(self, now_s: float) -> bool:
        """Whether the pixels of this second are not yet used up; the last picture may go beyond."""
        if self._allowance_s is not None:
            earned = (now_s - self._allowance_s) * MAX_PX_PER_S
            self._allowance_px = min(float(MAX_PX_PER_S), self._allowance_px + earned)
        self._allowance_s = now_s
        return self._allowance_px > 0

    @property
    def _spendable_s(self) -> float:
        """When there are pixels to spend again; a moment later, for the sake of rounding."""
        if self._allowance_s is None or self._allowance_px > 0:
            return 0.0
        return self._allowance_s - self._allowance_px / MAX_PX_PER_S + 1e-3

    def _give_up(self) -> None:
        """Wait for a key picture."""
        self._forget()
        self._decodable = False

    def _forget(self) -> None:
        self.n_dropped += len(self._chain)
        self._chain, self._chain_bytes = [], 0
