"""A gateway's way to the supervisor: what it asks of the ledger, what it knows of the others, when it has to go.

Knows nothing about HTTP or about sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable

from duplex_server.errors import AuthError, CapacityError, DuplexError
from duplex_server.gateways.channel import Channel
from duplex_server.gateways.messages import (
    BeginSession,
    Drained,
    FromGateway,
    GatewayState,
    GiveBack,
    Given,
    Leave,
    Loaded,
    MakeSecret,
    Moved,
    Pulse,
    Refused,
    Secret,
    Secrets,
    SecretsKnown,
    Serving,
    SessionLasted,
    State,
    Stop,
    TakePlace,
    WrongKey,
    decode_from_supervisor,
)
from duplex_server.security import Attempts, ClientSecrets, Grant, Throttled
from duplex_server.security.ephemeral import new_secret
from duplex_server.session.admission import Place, stand_in_line, wait_s
from duplex_server.session.transport import Transport

__all__ = ["PULSE_S", "SharedAdmission", "SharedTally", "SupervisorLink", "linked"]

PULSE_S = 1.0
"""How often a gateway says that it lives, and whether it could take a session."""

ASK_TIMEOUT_S = 10.0
"""The supervisor does nothing that takes long; one that is silent for so long is stopped or starved."""


class SupervisorLink:
    """The gateway's end of the channel. Made by :func:`linked`.

    A lost supervisor stops the gateway at once: nobody would start it again, or count with it.
    """

    def __init__(self, number: int, clock_s: Callable[[], float]) -> None:
        self.number = number
        self.state = State(0, 0, 0.0, ())
        """The whole server, as it was told last."""
        self.stopping = asyncio.Event()
        """Set when sessions are to end in their time."""
        self.stopping_at_once = asyncio.Event()
        """Set when they are to be cut off."""
        self.leaving = asyncio.Event()
        """Set when no other gateway needs this one any more."""
        self.admission = SharedAdmission(self)
        self.tally = SharedTally(self, clock_s)
        self._channel = Channel(self._hear, self._lose)
        self._lost = False
        self._joined = asyncio.Event()
        self._asks = itertools.count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}  # bounded by the requests that run
        self.on_move: dict[int, Callable[[int], None]] = {}
        """By number of a place: what hears its position, with the answer and whenever it changes."""

    @property
    def channel(self) -> Channel:
        """What carries it, to be connected."""
        return self._channel

    @property
    def me(self) -> GatewayState | None:
        """This gateway as the supervisor knows it; None before it has joined."""
        return next((gateway for gateway in self.state.gateways if gateway.number == self.number), None)

    def tell(self, message: FromGateway) -> None:
        """Tell the supervisor something. Never waits."""
        self._channel.send(message)

    async def join(self) -> None:
        """Say that the model is loaded; returns when this gateway knows what the others know."""
        self.tell(Loaded())
        await self._joined.wait()

    def serve(self) -> None:
        """Say that connections are taken."""
        self.tell(Serving())

    async def drained(self) -> None:
        """Say that no session is left here; returns when none is left anywhere."""
        self.tell(Drained())
        await self.leaving.wait()

    async def beat(self, ready: Callable[[], bool]) -> None:
        """Say regularly that the event loop turns, until cancelled."""
        while True:
            self.tell(Pulse(ready()))
            await asyncio.sleep(PULSE_S)

    def new_number(self) -> int:
        """Return a number under which something can be asked for."""
        return next(self._asks)

    async def ask(self, number: int, message: FromGateway) -> None:
        """Ask for something under a number; returns when it is given.

        Raises:
            CapacityError, Throttled, AuthError: it was refused; CapacityError, too, if no answer comes.

        Then, and cancelled, it may hold what it asked for: call :meth:`give_back`.
        """
        if self._lost:
            raise CapacityError(1.0)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.tell(message)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await answer
        except TimeoutError:
            raise CapacityError(ASK_TIMEOUT_S) from None
        finally:
            del self._answers[number]

    def give_back(self, number: int) -> None:
        """Give back what was given, or will be."""
        self.on_move.pop(number, None)
        self.tell(GiveBack(number))

    def _hear(self, payload: bytes) -> None:
        match decode_from_supervisor(payload):
            case State() as state:
                self.state = state
                self._joined.set()
            case Given(ask, position):
                self._move(ask, position)
                self._answer(ask, None)
            case Refused() as refused:
                self._answer(refused.ask, _error_of(refused))
            case Moved(ask, position):
                self._move(ask, position)
            case Secrets(secrets):
                self.tally.learn(secrets)
            case WrongKey(address):
                self.tally.note_elsewhere(address)
            case Stop(at_once):
                self.admission.closed = True
                self.stopping.set()
                if at_once:
                    self.stopping_at_once.set()
            case Leave():
                self.leaving.set()

    def _move(self, number: int, position: int) -> None:
        if (moved := self.on_move.get(number)) is not None:
            moved(position)

    def _answer(self, number: int, refusal: DuplexError | None) -> None:
        answer = self._answers.get(number)
        if answer is None or answer.done():
            return
        if refusal is None:
            answer.set_result(None)
        else:
            answer.set_exception(refusal)

    def _lose(self) -> None:
        self._lost = True
        self.admission.closed = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(CapacityError(1.0))
        for event in (self.stopping, self.stopping_at_once, self.leaving, self._joined):
            event.set()


class SharedAdmission:
    """Speaks for the ledger's places, as a :class:`~duplex_server.session.admission.Doorkeeper`."""

    def __init__(self, link: SupervisorLink) -> None:
        self._link = link
        self._taken = 0
        self._idle = asyncio.Event()
        self.closed = False
        """Whether the server stops: nobody is let in any more."""

    @property
    def ready(self) -> bool:
        """Whether a session could begin, at whichever gateway."""
        return not self.closed and any(gateway.ready for gateway in self._link.state.gateways)

    @property
    def places(self) -> int:
        """Sessions that may run at once, at all gateways together."""
        return self._link.state.places

    @property
    def sessions(self) -> int:
        """Places in use, at all gateways together."""
        return sum(gateway.sessions for gateway in self._link.state.gateways)

    @property
    def sessions_here(self) -> int:
        """Places in use at this gateway."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait, at all gateways together."""
        return self._link.state.waiting

    def estimate_s(self, position: int) -> float:
        """How long it may be until ``position`` places have fallen free."""
        return wait_s(position, self._link.state.usual_s, self.places)

    def look(self) -> None:
        """Leave it to the ledger to give places to those who wait."""

    async def enter(self, *, queue: bool) -> Place:
        """Take a place, or the end of the line.

        Raises:
            CapacityError: there is none, and none to wait for.

        A cancelled call takes none.
        """
        if self.closed:
            raise CapacityError(self.estimate_s(1))
        number = self._link.new_number()
        place = Place(lambda: self._give_back(number, place), 1)
        self._link.on_move[number] = lambda position: self._move(place, position)
        try:
            await self._link.ask(number, TakePlace(number, queue))
        except BaseException:
            place.release()
            raise
        return place

    async def wait(self, place: Place, transport: Transport) -> bool:
        """See :func:`~duplex_server.session.admission.stand_in_line`."""
        return await stand_in_line(self, place, transport)

    async def empty(self) -> None:
        """Wait until no place is taken at this gateway."""
        while self._taken:
            self._idle.clear()
            await self._idle.wait()

    def note_length(self, duration_s: float) -> None:
        """Tell the ledger how long a session lasted."""
        self._link.tell(SessionLasted(duration_s))

    def _move(self, place: Place, position: int) -> None:
        self._taken += not position
        place.move(position)

    def _give_back(self, number: int, place: Place) -> None:
        self._link.give_back(number)
        if not place.position:
            self._taken -= 1
            if not self._taken:
                self._idle.set()


class SharedTally:
    """Speaks for the ledger's shares and secrets, as a :class:`~duplex_server.security.Tally`.

    Secrets are known here too, so that showing one asks nobody. Wrong keys are counted by each gateway, and told to the
    others: guesses in the same moment at several of them may be a few more than one address has.
    """

    def __init__(self, link: SupervisorLink, clock_s: Callable[[], float]) -> None:
        self._link = link
        self._clock_s = clock_s
        self._attempts = Attempts()
        self._secrets = ClientSecrets()
        self._heard = 0

    @property
    def failed_attempts(self) -> int:
        """Wrong keys that were shown at this gateway."""
        return self._attempts.n_failed

    def check(self, address: str, now_s: float) -> None:
        """Raise :class:`Throttled` if an address has used up its attempts."""
        self._attempts.check(address, now_s)

    def note_failure(self, address: str, now_s: float) -> None:
        """Count a wrong key, here and at the others."""
        self._attempts.note_failure(address, now_s)
        self._link.tell(WrongKey(address))

    def note_elsewhere(self, address: str) -> None:
        """Count a wrong key that another gateway was shown."""
        self._attempts.note_failure(address, self._clock_s(), here=False)

    def find(self, value: str, now_s: float, *, expired: bool = False) -> Grant | None:
        """Return what a client secret stands for, whoever made it."""
        return self._secrets.find(value, now_s, expired=expired)

    async def begin(self, key_id: str, grant: Grant | None, _now_s: float) -> Callable[[], None]:
        """Count a session in, over all gateways; see :class:`~duplex_server.security.Tally`."""
        if not key_id and grant is None:
            return lambda: None
        number = self._link.new_number()
        given = [number]

        def end() -> None:
            while given:
                self._link.give_back(given.pop())

        try:
            await self._link.ask(number, BeginSession(number, key_id, b"" if grant is None else grant.digest))
        except BaseException:
            end()
            raise
        return end

    async def mint(self, grant: Grant, _now_s: float) -> str:
        """Make a client secret; all gateways know it when this returns."""
        value, digest = new_secret()
        secret = Secret(digest, grant.owner, grant.expires_at, grant.session, grant.max_session_s, grant.sessions_left)
        number = self._link.new_number()
        await self._link.ask(number, MakeSecret(number, secret))
        return value

    def learn(self, secrets: tuple[Secret, ...]) -> None:
        """Take note of secrets, and say so."""
        for secret in secrets:
            grant = Grant(secret.owner, secret.expires_at, secret.session, secret.max_session_s, secret.sessions_left)
            # The ledger has counted them: a gateway that is a little behind refuses none.
            with contextlib.suppress(Throttled):
                self._secrets.keep(secret.digest, grant, self._clock_s())
        self._heard += 1
        self._link.tell(SecretsKnown(self._heard))


def _error_of(refused: Refused) -> DuplexError:
    if refused.code == CapacityError.code:
        return CapacityError(refused.retry_after_s)
    if refused.code == Throttled.code:
        return Throttled(refused.message, refused.retry_after_s)
    return AuthError(refused.message)


@contextlib.asynccontextmanager
async def linked(number: int, end: socket.socket, clock_s: Callable[[], float]) -> AsyncIterator[SupervisorLink]:
    """Speak with the supervisor until the block is left.

    Args:
        number: this gateway's.
        end: our end of the socket pair; taken over.
        clock_s: Unix time.
    """
    link = SupervisorLink(number, clock_s)
    end.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: link.channel, sock=end)
    try:
        yield link
    finally:
        link.channel.close()
