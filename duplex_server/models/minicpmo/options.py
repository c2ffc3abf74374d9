"""How duplex conversations are held, and how much of the context that takes. Knows nothing about tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from duplex_server.models.minicpmo.rows import SPOKEN_TOKENS_MAX
from duplex_server.models.minicpmo.sampling import SamplingOptions
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions

__all__ = [
    "AUDIO_EMBEDS",
    "BESIDE_INPUT_TOKENS",
    "HEAD_MAX_TOKENS",
    "TYPED_MAX_TOKENS",
    "TYPED_PER_UNIT_TOKENS",
    "DuplexOptions",
]

AUDIO_EMBEDS = 10
"""Of a unit. Source: specification §3.3."""
BESIDE_INPUT_TOKENS = 2 * 3 + SPOKEN_TOKENS_MAX
"""Most positions of a unit beside its input: the end of the unit before, what it says, and its own end."""
TYPED_PER_UNIT_TOKENS = 256
"""Most typed tokens that a unit takes; what is longer goes on with the next. Ours: it bounds a unit's length."""
TYPED_MAX_TOKENS = 16_384
"""Most typed tokens that wait, a minute of units."""
AROUND_INPUT_TOKENS = 4
"""Most positions around a unit's input that come with it: the end of the unit before, and its own beginning."""
HEAD_MAX_TOKENS = 2048
"""Longest head: instructions and the recorded voice."""


@dataclass(frozen=True, slots=True)
class DuplexOptions:
    """How conversations are held."""

    window: WindowOptions = field(default_factory=lambda: WindowOptions(WindowMode.BASIC))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_frames: int = 1
    """Pictures of a unit; more than one is a higher refresh rate."""
    max_slices: int = 1
    """Slices of a picture beside the whole; 1 means none."""
    frame_max_px: int = 448
    """Longer side of pictures that come; more pays only with slices."""
    seed: int | None = None
    """Of each conversation's random numbers; None: another for each."""
    together: bool = False
    """Whether rows attend in one masked call; pays on a GPU."""
    recorded: bool = False
    """Whether steps are recorded and replayed, see :class:`~duplex_server.models.minicpmo.replays.Replays`."""
    official: bool = False
    """Behave as the official code does, bug for bug."""

    def usual_tokens(self, queries: int) -> list[int]:
        """Return the positions that units have whose pictures are not sliced, where nothing is typed.

        Args:
            queries: embeddings of a picture.
        """
        return [AROUND_INPUT_TOKENS + AUDIO_EMBEDS + count * (queries + 2) for count in range(self.max_frames + 1)]

    def capacity(self, queries: int) -> int:
        """Return the positions that a row needs.

        Args:
            queries: embeddings of a picture or slice.
        """
        picture = (1 + (self.max_slices if self.max_slices > 1 else 0)) * (queries + 2)
        unit = 1 + self.max_frames * picture + AUDIO_EMBEDS + TYPED_PER_UNIT_TOKENS + BESIDE_INPUT_TOKENS
        if self.window.mode is WindowMode.CONTEXT:
            # Typed text is rare: what a long one takes of the room of many units, it takes for max_units units.
            usual = unit - TYPED_PER_UNIT_TOKENS
            return HEAD_MAX_TOKENS + self.window.previous_max_tokens + self.window.max_units * usual + 2 * unit
        return max(self.window.high_tokens, HEAD_MAX_TOKENS) + unit
