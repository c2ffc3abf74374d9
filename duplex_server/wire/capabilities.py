"""What clients are told that model and server can do.

Knows nothing about a session's settings.
"""

from __future__ import annotations

from duplex_server.types import InterruptionPolicy, ModelSpec
from duplex_server.wire.session_object import OPT_IN_NAMES, Capabilities

__all__ = ["capabilities_of"]


def capabilities_of(spec: ModelSpec) -> Capabilities:
    """Return ``session.capabilities`` of a model."""
    sees = ["video_frames", "input_image", "video_track"] if spec.max_frames else []
    return Capabilities(
        chunk_period_ms=spec.unit_ms,
        input_modes=["audio", "text", *sees],
        max_video_fps=spec.max_frames * 1000 / spec.unit_ms,
        transcribes=spec.transcribes,
        languages=list(spec.languages),
        voices=list(spec.voices),
        clones_voices=spec.clones_voices,
        context_tokens_max=spec.context_tokens_max or None,
        examples=list(spec.examples),
        interruption_policies=[policy.value for policy in InterruptionPolicy],
        duplex_events=sorted(OPT_IN_NAMES),
    )
