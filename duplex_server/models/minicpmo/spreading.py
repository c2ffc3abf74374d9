"""Text of a unit over the unit's sound. No part of the model says which word is spoken when.

Knows nothing about turns or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duplex_server.types import Pcm

__all__ = ["spread"]


def spread(texts: Sequence[str], sound: Pcm) -> list[tuple[str, Pcm]]:
    """Cut sound into as many equal pieces as there are texts, those without text joined to the one before.

    Args:
        texts: what is said, in order; some may be empty.
        sound: float32 ``[n]``; may be empty.

    Returns:
        at least one piece; all texts and all sound, in order.
    """
    if not texts or not len(sound):
        return [("".join(texts), sound)]
    cuts = [round(place * len(sound) / len(texts)) for place in range(len(texts) + 1)]
    joined: list[tuple[str, list[Pcm]]] = []
    for place, text in enumerate(texts):
        piece = sound[cuts[place] : cuts[place + 1]]
        if joined and not text:
            joined[-1][1].append(piece)
        else:
            joined.append((text, [piece]))
    return [(text, np.concatenate(pieces)) for text, pieces in joined]
