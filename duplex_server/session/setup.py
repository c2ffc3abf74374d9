"""What the model is asked to be, as it takes it: the voice to clone at the rate that models hear.

Knows nothing about when it is asked.
"""

from __future__ import annotations

from dataclasses import replace

from duplex_server.media.resample import resample
from duplex_server.types import INPUT_RATE_HZ, SessionSetup
from duplex_server.wire.requests import Configure

__all__ = ["setup_of"]


def setup_of(request: Configure) -> SessionSetup:
    """Return the set-up that a client asked for; with a recording of 30 s, the longest, some milliseconds' work."""
    if request.reference is None:
        return request.setup
    pcm = resample(request.reference.pcm, request.reference.rate_hz, INPUT_RATE_HZ)
    return replace(request.setup, voice_reference=pcm)
