"""What stands between a session and the connections that it may have, one after another.

A peer that asked for it finds its session again when its connection was lost: events are numbered and kept, and those
that it missed are sent again over the new connection. The session sees one transport that is now and then away. Knows
nothing about turns, models, or who may enter.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from duplex_server.errors import DuplexError
from duplex_server.session.transport import EventStream, MediaAudio, MediaFrame, Received, Transport, TransportTraits
from duplex_server.session.unheard import Unheard
from duplex_server.types import Pcm
from duplex_server.wire.events import (
    ClientEvent,
    InputAudioBufferSpeechStarted,
    ServerEvent,
    SessionCreated,
    SessionEventAck,
    SessionReplaced,
    SessionResume,
    SessionResumed,
    SessionResyncRequired,
    SessionUpdated,
)
from duplex_server.wire.journal import Journal, with_token
from duplex_server.wire.session_object import Session

__all__ = ["Attachment"]

_GROUP = "resume"
_TOKEN_BYTES = 24


class Attachment:
    """A session's hold on its peer; a :class:`~duplex_server.session.transport.Transport` that survives its connection.

    Args:
        session_id: the session's.
        transport: the first connection.
        resumable: whether the peer asked for it when it connected; it may do so later, by ``duplex_events``.
        journal_bytes: events that are kept for it.
        first: an event that came before the session was there.
    """

    def __init__(
        self,
        session_id: str,
        transport: Transport,
        *,
        resumable: bool,
        journal_bytes: int,
        first: ClientEvent | None = None,
    ) -> None:
        self._session_id = session_id
        self._transport = transport
        self._events = transport.events()
        self._journal_bytes = journal_bytes
        self._journal = Journal(journal_bytes) if resumable else None
        self._first = first
        self._n_received = 0  # events of the peer, over all connections
        self._tokens: list[str] = []  # valid ones, the newest first: two at most
        self._unheard = Unheard()
        self._media_offset: int | None = 0  # of this connection's media clock; None until its first packet
        self._media_end = 0
        self._released = asyncio.Event()
        self._return = asyncio.Event()
        self._closed = False
        self.generation = 1
        """Which connection this is, from 1."""
        self.attached = True
        """Whether a peer is there."""

    # -- for the session ----------------------------------------------------------------------------------------------

    @property
    def traits(self) -> TransportTraits:
        """How audio leaves; the same for all connections of a session."""
        return self._transport.traits

    async def receive(self, take: Callable[[Received], None]) -> None:
        """Call a function with all that the peer sends, over all its connections, in the moment in which it comes.

        Returns when it left or :meth:`close` was called. What ``take`` raises is raised here, and ends it.
        """
        if self._first is not None:
            first, self._first = self._first, None
            self._n_received += 1
            take(first)
        present = True
        while present:
            events = self._events
            await events.for_each(partial(self._pass_on, events, take))
            if events is self._events:
                present = await self._returns()

    def send(self, event: ServerEvent) -> None:
        """Send an event, or keep it for the peer's return."""
        if self._journal is None and isinstance(event, SessionUpdated) and _asks_for_it(event.session):
            self._journal = Journal(self._journal_bytes)
        if self._journal is not None:
            if isinstance(event, SessionCreated | SessionUpdated) and not self._tokens:
                event = with_token(event, self._new_token(), self.generation)
            elif isinstance(event, InputAudioBufferSpeechStarted):  # as its playback does, so does what is repeated end
                self._unheard.clear()
            event = self._journal.append(event)
        if self.attached:
            self._transport.send(event)

    def send_audio(self, pcm: Pcm) -> None:
        """Put one tick of audio on the media track, behind what is being repeated there."""
        if self._journal is None:
            self._transport.send_audio(pcm)
        elif self._unheard.behind:
            self._unheard.queue(pcm)
        else:
            self._send_kept(pcm)

    def repeat_audio(self) -> None:
        """Send one tick of what did not arrive, if any is left; called once per tick."""
        if self.attached and (pcm := self._unheard.take()) is not None:
            self._send_kept(pcm)

    def clear_audio(self) -> None:
        """Drop audio that has not left yet, or not arrived."""
        self._unheard.clear()
        self._transport.clear_audio()

    def stats(self) -> Mapping[str, float]:
        """Return what is known of the connection."""
        return self._transport.stats()

    async def close(self, error: DuplexError | None = None) -> None:
        """End the session's hold for good. Safe to call twice."""
        self._closed = True
        self._return.set()
        await self._transport.close(error)

    # -- for those who bring connections ------------------------------------------------------------------------------

    @property
    def released(self) -> asyncio.Event:
        """Set when the present connection is not used any more."""
        return self._released

    def drop(self, transport: Transport) -> None:
        """Let go of a connection whose task is being cancelled."""
        if transport is self._transport:
            self._closed = True
            self._return.set()

    def admits(self, token: str) -> bool:
        """Whether ``token`` is one that resumes this session; compared in constant time."""
        return any(hmac.compare_digest(token.encode(), valid.encode()) for valid in self._tokens)

    def attach(self, transport: Transport, asked: SessionResume, session: Session) -> None:
        """Go on over another connection: say so, send what the peer missed, and let go of the old connection.

        Args:
            transport: the new connection; of the same traits.
            asked: the peer's words; its token has been checked.
            session: as it is now.
        """
        assert self._journal is not None and transport.traits == self.traits, "the manager has checked"
        journal, old, was_attached = self._journal, self._transport, self.attached
        last = asked.last_received_server_event_seq
        if self.traits.media_track:
            self._unheard.repeat(received_ms=asked.audio_received_ms, heard_s=old.heard_s)
        self.generation += 1
        replay = journal.after(last)
        self._tokens = [self._new_token(), asked.resume_token]  # until the peer shows that it has the new one
        if was_attached:
            old.send(SessionReplaced(event_id=self._event_id("replaced"), attachment_generation=self.generation))
        self._released.set()
        self._released = asyncio.Event()
        self._transport, self._events, self.attached = transport, transport.events(), True
        self._media_offset = None
        transport.send(
            SessionResumed(
                event_id=self._event_id("resumed"),
                session=session,
                resume_token=self._tokens[0],
                attachment_generation=self.generation,
                replay_from_seq=journal.newest - len(replay) + 1,
                client_events_received=self._n_received,
            )
        )
        if not journal.oldest - 1 <= last <= journal.newest:
            unknown = last > journal.newest
            transport.send(
                SessionResyncRequired(
                    event_id=self._event_id("resync"),
                    reason="unknown_seq" if unknown else "journal_overflow",
                    first_missing_seq=0 if unknown else last + 1,
                    last_missing_seq=0 if unknown else journal.oldest - 1,
                )
            )
        for event in replay:
            transport.send(event)
        self._return.set()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _pass_on(self, events: EventStream, take: Callable[[Received], None], received: Received) -> None:
        if events is not self._events:  # a rest of the old connection; the peer sends it again
            return
        if isinstance(received, MediaAudio):
            take(self._place(received))
            return
        if not isinstance(received, MediaFrame):
            self._n_received += 1
            del self._tokens[1:]  # it acts on session.resumed, so it has the new token
            if isinstance(received, SessionEventAck):
                if self._journal is not None:
                    self._journal.forget(received.server_event_seq)
                return
        take(received)

    async def _returns(self) -> bool:
        """Wait, after the connection has ended, for another one; return whether it came."""
        if self._closed or self._journal is None or not self._transport.lost:
            return False
        self.attached = False
        self._released.set()
        events = self._events
        self._return.clear()
        await self._return.wait()
        return events is not self._events

    def _send_kept(self, pcm: Pcm) -> None:
        self._unheard.note(pcm, asyncio.get_running_loop().time())
        self._transport.send_audio(pcm)

    def _place(self, audio: MediaAudio) -> MediaAudio:
        """Put audio on one clock for all connections, each of whose clocks begins anew."""
        if self._media_offset is None:
            self._media_offset = self._media_end - audio.position_samples
        position = audio.position_samples + self._media_offset
        self._media_end = max(self._media_end, position + len(audio.pcm))
        return dataclasses.replace(audio, position_samples=position) if self._media_offset else audio

    def _new_token(self) -> str:
        self._tokens = [secrets.token_urlsafe(_TOKEN_BYTES)]
        return self._tokens[0]

    def _event_id(self, word: str) -> str:
        return f"event_{self._session_id.removeprefix('sess_')[:16]}_{word}_{self.generation}"


def _asks_for_it(session: Session) -> bool:
    return session.extra_body is not None and _GROUP in session.extra_body.duplex_events
