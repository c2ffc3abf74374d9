"""Who may have a conversation now: places, the sessions that hold them, and their orderly end.

Knows nothing about HTTP or WebRTC; transports ask for a place, and hand over a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from duplex_server.engine.base import Engine
from duplex_server.errors import (
    AuthError,
    CapacityError,
    DuplexError,
    InvalidEvent,
    SessionExpired,
    TransportError,
    first_error,
)
from duplex_server.media.vad import VoiceDetector
from duplex_server.session.admission import Admission, Doorkeeper, Place
from duplex_server.session.attachment import Attachment
from duplex_server.session.observer import SessionObserver
from duplex_server.session.session import Session, SessionLimits
from duplex_server.session.transport import Transport
from duplex_server.types import InterruptionPolicy, ModelSpec, SessionSetup
from duplex_server.wire.dialogue import Dialogue
from duplex_server.wire.events import ClientEvent, SessionResume
from duplex_server.wire.ids import new_session_id
from duplex_server.wire.requests import TurnTaking
from duplex_server.wire.session_object import Session as SessionObject
from duplex_server.wire.session_object import SessionPatch
from duplex_server.wire.session_state import REALTIME_PCM_RATES_HZ

__all__ = ["Hello", "Place", "SessionManager"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a connection brings besides itself."""

    opt_in: frozenset[str] = frozenset()
    """Groups of extension events that the peer asked for; see ``docs/protocol.md``."""
    client: str = ""
    """Who it is, for logs."""
    key_id: str = ""
    """Which key let it in, as :class:`~duplex_server.security.Entry` tells keys apart; empty for none."""
    session: tuple[SessionPatch, ...] = ()
    """What the session begins with instead of the server's defaults, later over earlier."""
    session_max_s: float | None = None
    """Longest session, if that is shorter than the server's."""
    input_rates_hz: frozenset[int] = REALTIME_PCM_RATES_HZ
    """Rates that the client's PCM may have."""
    first: ClientEvent | None = None
    """Its first event, if that had to be seen before a session could begin."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A session, and what it is reached by."""

    session: Session
    attachment: Attachment
    dialogue: Dialogue


class SessionManager:
    """Admit sessions up to a limit, run them, and let them end. An async context manager that owns their tasks.

    A session may outlive its connection, see :class:`~duplex_server.session.attachment.Attachment`, so none runs in the
    task of the request that began it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_sessions: int,
        limits: SessionLimits,
        policy: InterruptionPolicy,
        setup: SessionSetup,
        make_detector: Callable[[], VoiceDetector],
        observer: SessionObserver,
        shutdown_grace_s: float,
        wall_clock_s: Callable[[], float],
        line_max: int = 0,
        doorkeeper: Doorkeeper | None = None,
        gateway: int = 0,
    ) -> None:
        """
        Args:
            engine: an entered engine.
            max_sessions: places; 0 for as many as the engine has.
            limits: what each session may use.
            policy: what lets a user interrupt unless the client says otherwise.
            setup: what the model is asked to be unless the client says otherwise.
            make_detector: makes a voice detector per session; called in a thread, since a network may have to be read.
            observer: told what happens.
            shutdown_grace_s: how long sessions may go on when the server stops.
            wall_clock_s: Unix time, for the ``expires_at`` that clients are told.
            line_max: how many may wait for a place.
            doorkeeper: counts places instead of this manager, where several share them; then ``max_sessions`` and
                ``line_max`` are its matter.
            gateway: our number, which sessions' ids hold.
        """
        self._engine = engine
        self._limits = limits
        self._policy = policy
        self._setup = setup
        self._make_detector = make_detector
        self._observer = observer
        self._grace_s = shutdown_grace_s
        self._stops_s = 0.0  # when sessions end, once the server stops
        self._wall_clock_s = wall_clock_s
        self._gateway = gateway
        self._admission: Doorkeeper = doorkeeper or Admission(
            places=lambda: min(max_sessions or engine.places, engine.places),
            ready=lambda: engine.ready,
            line_max=line_max,
        )
        self._tasks = asyncio.TaskGroup()
        self._running: dict[str, _Running] = {}  # by session id; bounded by the places

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the sessions that run; drain first. On an error they are cut off."""
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def spec(self) -> ModelSpec:
        """What sessions talk to."""
        return self._engine.spec

    @property
    def draining(self) -> bool:
        """Whether the server is stopping: nobody is admitted any more."""
        return self._admission.closed

    @property
    def places(self) -> int:
        """Sessions that may run at once."""
        return self._admission.places

    @property
    def sessions(self) -> int:
        """Places taken now."""
        return self._admission.sessions

    @property
    def waiting(self) -> int:
        """Connections that wait for a place."""
        return self._admission.waiting

    @property
    def ready(self) -> bool:
        """Whether a session could be served: the engine is up and the server is not stopping."""
        return self._admission.ready

    async def admit(self, *, queue: bool = False) -> Place:
        """Take a place, or, with ``queue``, the end of the line of those who wait for one.

        Raises:
            CapacityError: none is free, the line is full, the engine is down, or the server is stopping.

        A cancelled call takes none.
        """
        return await self._admission.enter(queue=queue)

    async def serve(self, place: Place, transport: Transport, hello: Hello) -> None:
        """Run a session over a connection; returns when it does not use the connection any more, and closes that.

        Args:
            place: taken over: it is free again when the session is over, which may be later. One in the line is
                waited for here.
            transport: the connection.
            hello: what it brought besides itself; its session must have passed :meth:`preview`.

        Cancelled, it ends the session, and leaves the connection to the caller.
        """
        if place.position and not await self._wait(place, transport):
            return
        session_id = new_session_id(self._gateway)
        attachment = Attachment(
            session_id,
            transport,
            resumable="resume" in hello.opt_in,
            journal_bytes=self._limits.journal_bytes,
            first=hello.first,
        )
        limits = self._limits_of(hello)
        dialogue = self._make_dialogue(session_id, hello, limits, media_track=transport.traits.media_track)
        running = self._run(session_id, place.hand_on(), attachment, dialogue, limits, hello.client)
        self._tasks.create_task(running, name=session_id)
        await self._lend(attachment, transport)

    async def _wait(self, place: Place, transport: Transport) -> bool:
        """Wait in the line; False, with the connection closed and the place given back, if nothing came of it."""
        error: CapacityError | None = None
        try:
            if await self._admission.wait(place, transport):
                return True
        except CapacityError as stopping:
            error = stopping
        place.release()
        await transport.close(error)
        return False

    def find(self, asked: SessionResume) -> None:
        """Check that a session can be resumed, before a connection for it is made.

        Raises:
            SessionExpired: there is none with this id, or not any more.
            AuthError: the token is not one of its.
        """
        self._resumable(asked)

    async def resume(self, transport: Transport, asked: SessionResume) -> None:
        """Go on with a session over another connection; returns and closes as :meth:`serve` does.

        Raises:
            SessionExpired: there is no such session, or not any more.
            AuthError: the token is not one of its.
            InvalidEvent: its audio travels in another way than over this connection.

        On an error nothing was sent, and the session is as it was.
        """
        running = self._resumable(asked)
        attachment = running.attachment
        if transport.traits != attachment.traits:
            raise InvalidEvent(
                f"This session is held over {attachment.traits.name}, and is resumed over the same.",
                code="unsupported_value",
            )
        attachment.attach(transport, asked, running.dialogue.session)
        _log.info("%s goes on over its connection no. %d", running.session.session_id, attachment.generation)
        await self._lend(attachment, transport)

    def _resumable(self, asked: SessionResume) -> _Running:
        running = self._running.get(asked.session_id)
        if running is None:
            raise SessionExpired("unknown", "There is no such session any more. Please begin a new one.")
        if not running.attachment.admits(asked.resume_token):
            raise AuthError("The resume token is not valid.", param="resume_token", code="invalid_resume_token")
        return running

    async def _lend(self, attachment: Attachment, transport: Transport) -> None:
        """Let a session have a connection for as long as it wants it."""
        released = attachment.released
        try:
            await released.wait()
            await transport.close()
        finally:
            if not released.is_set():
                attachment.drop(transport)

    async def _run(
        self,
        session_id: str,
        place: Place,
        attachment: Attachment,
        dialogue: Dialogue,
        limits: SessionLimits,
        client: str,
    ) -> None:
        """Run a session to its end; closes its connection and frees the place, whatever happens.

        One of the project's three borders for errors: a bug ends this session, is logged with its traceback, and
        touches no other. Cancellation closes the connection and is passed on.
        """
        ended_by = "peer"
        session: Session | None = None
        error: DuplexError | None = None
        try:
            detector = await asyncio.to_thread(self._make_detector)  # a cancelled wait here leaks no slot
            slot = await self._engine.open(dialogue.setup)
            session = Session(
                session_id=session_id,
                spec=self._engine.spec,
                transport=attachment,
                slot=slot,
                dialogue=dialogue,
                detector=detector,
                limits=limits,
                observer=self._observer,
            )
            self._running[session_id] = _Running(session, attachment, dialogue)
            if self.draining:  # it was admitted just before
                session.wind_down(self._stops_s - asyncio.get_running_loop().time())
            _log.info("%s began over %s (%s)", session_id, attachment.traits.name, client or "unknown client")
            await session.run()
        except* DuplexError as group:
            error = first_error(group)
            ended_by = error.code
            self._tell(attachment, dialogue, error)
        except* Exception as group:  # noqa: BLE001 - the border of a session
            error, ended_by = DuplexError("internal error"), "bug"
            _log.error("%s ended by a bug", session_id, exc_info=group)
            self._tell(attachment, dialogue, error)
        finally:
            self._running.pop(session_id, None)
            try:
                await attachment.close(error)
            finally:
                if session is not None:
                    self._finish(session, ended_by)
                place.release()
                attachment.released.set()

    async def drain(self) -> None:
        """Stop admitting, tell every peer, and return when all sessions are over, at most the grace later.

        A cancelled call leaves the manager draining.
        """
        self._admission.closed = True
        self._stops_s = asyncio.get_running_loop().time() + self._grace_s
        for running in list(self._running.values()):
            running.session.wind_down(self._grace_s)
        try:
            async with asyncio.timeout(self._grace_s + 5):  # closing a connection takes a few seconds at most
                await self._admission.empty()
        except TimeoutError:
            _log.warning("%d sessions did not end in time", self.sessions)

    def preview(self, hello: Hello) -> SessionObject:
        """Return the session object that a connection would begin with.

        Raises:
            InvalidEvent: something in ``hello.session`` cannot be had.
        """
        return self._make_dialogue(
            new_session_id(self._gateway), hello, self._limits_of(hello), media_track=False
        ).session

    def _limits_of(self, hello: Hello) -> SessionLimits:
        if hello.session_max_s is None:
            return self._limits
        return replace(self._limits, session_max_s=min(self._limits.session_max_s, hello.session_max_s))

    def _make_dialogue(self, session_id: str, hello: Hello, limits: SessionLimits, *, media_track: bool) -> Dialogue:
        return Dialogue(
            spec=self._engine.spec,
            session_id=session_id,
            media_track=media_track,
            setup=self._setup,
            turn_taking=TurnTaking(policy=self._policy),
            opt_in=hello.opt_in,
            expires_at=int(self._wall_clock_s() + limits.session_max_s),
            image_max_bytes=limits.pictures.max_bytes,
            base=hello.session,
            input_rates_hz=hello.input_rates_hz,
        )

    def _tell(self, transport: Attachment, dialogue: Dialogue, error: DuplexError) -> None:
        if isinstance(error, TransportError):
            _log.info("connection lost: %s", error)
            return
        for event in dialogue.fail(error):
            transport.send(event)

    def _finish(self, session: Session, ended_by: str) -> None:
        summary = session.summary(ended_by)
        self._admission.note_length(summary.duration_s)
        self._observer.session_ended(summary)
        _log.info("%s ended by %s after %.1f s", session.session_id, ended_by, summary.duration_s)
