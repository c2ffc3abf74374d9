"""A client for programs: connect, send microphone and camera, follow the conversation.

    player = Player()
    async with connect("http://127.0.0.1:8000", session={"extra_body": {"duplex_events": ["overlap"]}}) as conversation:
        playback = Playback(player, media_track=conversation.media_track)
        async for received in conversation.events():
            for answer in playback.receive(received):
                await conversation.send(answer)

Another task sends: ``await conversation.send_audio(pcm, 16_000)``; a sound card takes from ``player``. Knows the wire's
events and nothing of how the server is built.
"""

from duplex_server.client.conversation import Conversation, InLine, TransportName, connect
from duplex_server.client.link import Received, ReceivedAudio
from duplex_server.client.playback import MEDIA_TRACK_DELAY_MS, Playback
from duplex_server.client.player import Cut, Loudspeaker, Player

__all__ = [
    "MEDIA_TRACK_DELAY_MS",
    "Conversation",
    "Cut",
    "InLine",
    "Loudspeaker",
    "Playback",
    "Player",
    "Received",
    "ReceivedAudio",
    "TransportName",
    "connect",
]
