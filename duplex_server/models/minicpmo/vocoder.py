"""The two vocoders behind one interface: rows with pasts of any length in, samples out.

Knows nothing about codes, voices or turns. Rows whose windows have the same shape go through the network together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from duplex_server.models.minicpmo.hift import Hift, HiftTail
from duplex_server.models.minicpmo.hift_causal import RECORDED_ROWS, CausalHift, CausalTail
from duplex_server.models.minicpmo.replays import Replays

__all__ = ["CausalVocoder", "ClassicVocoder", "Vocoder", "alike"]

_T = TypeVar("_T", bound=Hashable)
_Tail = TypeVar("_Tail")


def alike(kinds: Iterable[_T]) -> list[list[int]]:
    """Group places of equal kind, in the order in which kinds first appear."""
    groups: dict[_T, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        groups[kind].append(place)
    return list(groups.values())


class Vocoder(Protocol[_Tail]):
    """Mel frames to samples, in a stream for each row."""

    def begin(self, generator: torch.Generator) -> _Tail:
        """A row's state before its turn's first frame; ``generator`` is the row's, on the vocoder's device."""
        ...

    def rehearse(self, mel: Tensor, most: int, replays: Replays) -> None:
        """Record what comes in the middle of turns.

        Args:
            mel: any frames ``[80, n]``, as many as usual.
            most: rows of a call.
            replays: of the vocoder's device.
        """
        ...

    def stream(
        self, mels: Sequence[Tensor], tails: Sequence[_Tail], *, final: bool, replays: Replays | None = None
    ) -> list[Tensor]:
        """Make the next samples of some rows; their tails are updated.

        Args:
            mels: next frames ``[80, n]`` of each row, float32.
            tails: one per row.
            final: give out what was held back, too; the tails are of no use then.
            replays: recordings of the vocoder's device; None: nothing is recorded.

        Returns:
            per row float32 at 24 kHz, ``[480 · frames]``: 8 frames behind until the last call.
        """
        ...


class _ClassicRow:
    """A row's overlap, and where its noise comes from."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.overlap: HiftTail | None = None


class ClassicVocoder:
    """Chunks that overlap and are crossfaded."""

    def __init__(self, hift: Hift) -> None:
        self.hift = hift

    def begin(self, generator: torch.Generator | None) -> _ClassicRow:
        return _ClassicRow(generator)

    def rehearse(self, mel: Tensor, most: int, replays: Replays) -> None:
        """Nothing of it is recorded."""

    def stream(
        self,
        mels: Sequence[Tensor],
        tails: Sequence[_ClassicRow],
        *,
        final: bool,
        replays: Replays | None = None,  # noqa: ARG002 - it draws its noise anew each time
    ) -> list[Tensor]:
        speech: dict[int, Tensor] = {}
        for places in alike((mel.shape[1], tail.overlap is None) for mel, tail in zip(mels, tails, strict=True)):
            rows = [tails[place] for place in places]
            made, overlaps = self.hift.stream(
                [mels[place] for place in places],
                [row.overlap for row in rows],
                [row.generator for row in rows],
                final=final,
            )
            for place, row, samples, overlap in zip(places, rows, made, overlaps, strict=True):
                speech[place], row.overlap = samples, overlap
        return [speech[place] for place in range(len(mels))]


class CausalVocoder:
    """A stream that equals the whole.

    Args:
        hift: the network.
        noise: of its source signal, ``[samples, 9]``.
    """

    def __init__(self, hift: CausalHift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise

    def begin(self, generator: torch.Generator | None = None) -> CausalTail:  # noqa: ARG002 - its noise is a table
        return self.hift.begin()

    def rehearse(self, mel: Tensor, most: int, replays: Replays) -> None:
        """See :class:`Vocoder`."""
        for n_rows in (size for size in RECORDED_ROWS if size <= most):
            tails = [self.begin() for _ in range(n_rows)]
            for _ in range(2):  # from a turn's second chunk on, all have one shape
                self.stream([mel] * n_rows, tails, final=False, replays=replays)

    def stream(
        self, mels: Sequence[Tensor], tails: Sequence[CausalTail], *, final: bool, replays: Replays | None = None
    ) -> list[Tensor]:
        speech: dict[int, Tensor] = {}
        for places in alike((mel.shape[1], *tail.window) for mel, tail in zip(mels, tails, strict=True)):
            made = self.hift.step(
                [mels[place] for place in places],
                [tails[place] for place in places],
                self.noise,
                final=final,
                replays=replays,
            )
            speech.update(zip(places, made, strict=True))
        return [speech[place] for place in range(len(mels))]
