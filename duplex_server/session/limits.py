"""What one session may use. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from duplex_server.session.camera import PictureLimits

__all__ = ["SessionLimits"]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one session may use."""

    session_max_s: float = 3600.0
    input_ahead_s: float = 330.0
    """Input that may wait: a 15 MiB append, the largest that OpenAI's protocol allows, holds 327 s."""
    engine_behind_s: float = 10.0
    """Units that may wait for the engine; beyond it the session ends with ModelTimeout."""
    confirm_ms: int = 480
    """How long speech must go on to be an interruption. Backchannels last 300 to 400 ms, "okay" up to 500."""
    resume_grace_s: float = 30.0
    """How long a session waits for a peer whose connection was lost, if the peer knows how to come back."""
    pause_max_s: float = 300.0
    """How long a client may pause. The place is held meanwhile, and nobody else has it."""
    journal_bytes: int = 4 * 2**20
    """Events kept for such a peer, as JSON: a minute of speech as PCM in base64 is 3.8 MB. Without acknowledgements
    the oldest go when it is full."""
    pictures: PictureLimits = field(default_factory=PictureLimits)
