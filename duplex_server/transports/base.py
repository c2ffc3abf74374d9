"""The border to the sessions, as the transports room sees it."""

from __future__ import annotations

from duplex_server.session.transport import MediaAudio, MediaFrame, Received, Transport, TransportTraits

__all__ = ["MediaAudio", "MediaFrame", "Received", "Transport", "TransportTraits"]
