"""What a client must do with its player when the server says something: play, give way, stop, report.

Pure: events in, events to send back out. Knows nothing about connections or sound cards.
"""

from __future__ import annotations

from collections import deque

from duplex_server.client.link import Received, ReceivedAudio
from duplex_server.client.player import Player
from duplex_server.wire.events import (
    ClientEvent,
    ConversationItemTruncate,
    InputAudioBufferSpeechStarted,
    OutputAudioBufferCleared,
    OverlapDecision,
    ResponseDone,
)

__all__ = ["LOWERED_DB", "MEDIA_TRACK_DELAY_MS", "Playback"]

LOWERED_DB = -18.0
"""How much the voice is lowered while it is undecided whether the user interrupts; the server lowers by as much where
it has the audio in its own hands, on a media track."""

MEDIA_TRACK_DELAY_MS = 40
"""``start_delay_ms`` of a :class:`Player` on a media track: two packets may be late at once. Without a media track the
server runs ahead, and 0 is right."""


class Playback:
    """Keep a player in step with the conversation.

    Args:
        player: what plays; filled and flushed here and nowhere else.
        media_track: whether audio comes on a media track. The server then cuts, lowers and counts by itself; without
            one that is the client's part, for which it needs the ``overlap`` events and says what was heard.
    """

    def __init__(self, player: Player, *, media_track: bool) -> None:
        self._player = player
        self._media_track = media_track
        self._cut_responses: deque[str] = deque(maxlen=64)  # the newest; late audio comes within a second

    def receive(self, received: Received) -> list[ClientEvent]:
        """Act on one thing that came, and return what to send to the server because of it."""
        match received:
            case ReceivedAudio():
                self._play(received)
            case InputAudioBufferSpeechStarted() | OutputAudioBufferCleared():
                return self._stop()
            case ResponseDone() if received.response.status == "cancelled":
                answers = self._stop()
                self._cut_responses.append(received.response.id)
                return answers
            case OverlapDecision() if not self._media_track:
                self._player.set_gain_db(LOWERED_DB if received.action == "hold" else 0.0)
            case _:
                pass
        return []

    def _play(self, audio: ReceivedAudio) -> None:
        if audio.response_id and audio.response_id in self._cut_responses:
            return
        self._player.put(
            audio.pcm,
            response_id=audio.response_id,
            item_id=audio.item_id,
            position_samples=audio.position_samples,
        )

    def _stop(self) -> list[ClientEvent]:
        cuts = [cut for cut in self._player.flush() if cut.item_id and cut.response_id not in self._cut_responses]
        self._player.set_gain_db(0.0)
        if self._media_track:
            return []
        self._cut_responses.extend(cut.response_id for cut in cuts)
        return [ConversationItemTruncate(item_id=cut.item_id, audio_end_ms=cut.played_ms) for cut in cuts]
