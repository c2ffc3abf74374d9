"""A peer that loses its connection and comes back, as a good client does: the other half of the protocol, written anew.

Keeps the number of the last event, the newest token and all that it sent, and sends again what did not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from duplex_server.errors import DuplexError
from duplex_server.session.manager import Hello, SessionManager
from duplex_server.session.transport import TransportTraits
from duplex_server.transports.loopback import LoopbackPeer, LoopbackTransport, steady
from duplex_server.types import Pcm
from duplex_server.wire.codec import decode_client, encode
from duplex_server.wire.events import ClientEvent, SessionResume
from tests.session.stage import ASKED


@dataclass
class ComingBack:
    """One client, over as many connections as it takes. ``tasks`` carries the server's side of each."""

    manager: SessionManager
    traits: TransportTraits
    tasks: asyncio.TaskGroup
    delay_s: float = 0.0
    sent: list[ClientEvent] = field(default_factory=list)
    peers: list[LoopbackPeer] = field(default_factory=list)
    refusals: list[DuplexError] = field(default_factory=list)
    away: bool = False

    @property
    def peer(self) -> LoopbackPeer:
        return self.peers[-1]

    def connect(self) -> None:
        """Begin a session."""
        transport = self._transport()

        async def begin() -> None:
            await self.manager.serve(await self.manager.admit(), transport, Hello(opt_in=ASKED))

        self.tasks.create_task(begin())

    async def come_back(self) -> None:
        """Resume the session over a new connection, and send what did not arrive."""
        self.away = True  # what is sent before the answer would be sent again after it
        asked = self.resume_event()
        transport = self._transport()
        self.tasks.create_task(self._resume(transport, asked))
        while not (resumed := self.logs(self.peer, "session.resumed")):
            if self.refusals:
                return
            await asyncio.sleep(0.02)
        n_arrived = resumed[0]["client_events_received"]
        for event in self.sent[n_arrived:]:
            self.peer.send(event)
        self.away = False

    def resume_event(self) -> SessionResume:
        log = [event for peer in self.peers for event in self.logs(peer)]
        first = next(event for event in log if event["type"] == "session.created")
        return SessionResume(
            session_id=first["session"]["id"],
            resume_token=[event["resume_token"] for event in log if "resume_token" in event][-1],
            last_received_server_event_seq=max(event.get("server_event_seq", 0) for event in log),
            audio_received_ms=self._audio_received_ms(),
        )

    def send(self, **event: Any) -> None:
        self.sent.append(decode_client(msgspec.json.encode(event)))
        if not self.away:
            self.peer.send(self.sent[-1])

    def log(self) -> list[dict[str, Any]]:
        """What arrived of the session, over all connections, without what is about the connections."""
        about = ("session.resumed", "session.replaced")
        return [event for peer in self.peers for event in self.logs(peer) if event["type"] not in about]

    def transcripts(self) -> list[str]:
        """What was said, by item."""
        kind = "response.output_audio_transcript.delta"
        return ["".join(texts) for texts in self._by_item(kind, lambda event: str(event["delta"]))]

    def audio(self) -> list[bytes]:
        """What was heard, by item."""
        if self.traits.media_track:
            heard: Pcm = np.concatenate([pcm for peer in self.peers for _, pcm in peer.audio])
            return [heard[heard != 0].tobytes()]
        kind = "response.output_audio.delta"
        return [b"".join(parts) for parts in self._by_item(kind, lambda event: msgspec.convert(event["delta"], bytes))]

    @staticmethod
    def logs(peer: LoopbackPeer, kind: str | None = None) -> list[dict[str, Any]]:
        events = [msgspec.json.decode(encode(event)) for _, event in peer.received]
        return [event for event in events if kind in (None, event["type"])]

    def _by_item(self, kind: str, part: Any) -> Iterable[list[Any]]:
        parts: dict[str, list[Any]] = {}
        for event in self.log():
            if event["type"] == kind:
                parts.setdefault(event["item_id"], []).append(part(event))
        return parts.values()

    def _audio_received_ms(self) -> float | None:
        if not self.traits.media_track:
            return None
        arrivals = [at_s for at_s, _ in self.peer.audio]
        return (arrivals[-1] - arrivals[0] + 0.02) * 1000 if arrivals else 0.0

    def _transport(self) -> LoopbackTransport:
        way = steady(self.delay_s)
        transport = LoopbackTransport(
            traits=self.traits, to_server=way, to_peer=way, media_to_server=way, media_to_peer=way
        )
        self.peers.append(transport.peer)
        return transport

    async def _resume(self, transport: LoopbackTransport, asked: SessionResume) -> None:
        try:
            await self.manager.resume(transport, asked)
        except DuplexError as error:
            self.refusals.append(error)
