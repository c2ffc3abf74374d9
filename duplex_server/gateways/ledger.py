"""What all gateways share: places and the line for them, the shares of keys, client secrets. One process has it.

Pure and synchronous: it hears messages, and tells others; time is passed in. Whatever a gateway holds falls free when
it is gone. Knows nothing about processes or sockets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from duplex_server.errors import AuthError, CapacityError
from duplex_server.gateways.messages import (
    BeginSession,
    FromGateway,
    FromSupervisor,
    GatewayState,
    GiveBack,
    Given,
    MakeSecret,
    Moved,
    Pulse,
    Refused,
    Secret,
    Secrets,
    SecretsKnown,
    SessionLasted,
    State,
    TakePlace,
    WrongKey,
)
from duplex_server.security import ClientSecrets, Grant, Quota, Throttled
from duplex_server.security.tally import count_in
from duplex_server.session.admission import Admission, Place

__all__ = ["Ledger"]

MAX_SECRETS_A_MESSAGE = 100
"""A secret carries a session of up to some hundred kilobytes; whoever reads them has a loop to turn."""


@dataclass(slots=True)
class _Gateway:
    """One gateway that is up."""

    tell: Callable[[FromSupervisor], None]
    ready: bool = True
    held: dict[int, Callable[[], None]] = field(default_factory=dict)  # bounded by places, line and those who ask
    """By the gateway's number for it: what gives it back."""
    sessions: int = 0
    told: int = 0
    """Messages with secrets so far."""
    known: int = 0
    """Of these, how many it has heard."""


@dataclass(slots=True)
class _Waiting:
    """An answer that waits until all know a secret."""

    gateway: int
    ask: int
    lacking: dict[int, int]
    """By gateway: how many messages it must have heard."""


class Ledger:
    """Counts for all gateways.

    Args:
        places: sessions that may run at once.
        line_max: how many may wait for a place.
        key_max_sessions: sessions at a time under one key; 0 for no bound.
        key_sessions_per_minute: sessions begun in a minute under one key; 0 for no bound.
        clock_s: Unix time, by which client secrets expire.
    """

    def __init__(
        self,
        *,
        places: int,
        line_max: int,
        key_max_sessions: int = 0,
        key_sessions_per_minute: int = 0,
        clock_s: Callable[[], float],
    ) -> None:
        self._admission = Admission(places=lambda: places, ready=lambda: self.ready, line_max=line_max)
        self._quota = Quota(max_sessions=key_max_sessions, per_minute=key_sessions_per_minute)
        self._secrets = ClientSecrets()
        self._clock_s = clock_s
        self._gateways: dict[int, _Gateway] = {}
        self._restarts: dict[int, int] = {}
        self._answers: list[_Waiting] = []  # bounded by the requests that run
        self._told: State | None = None

    @property
    def ready(self) -> bool:
        """Whether a gateway could take a session."""
        return any(gateway.ready for gateway in self._gateways.values())

    @property
    def sessions(self) -> int:
        """Places in use."""
        return self._admission.taken

    def close(self) -> None:
        """Let nobody in any more."""
        self._admission.closed = True

    def expect(self, number: int) -> None:
        """Take note of a gateway that starts, or starts again."""
        self._restarts[number] = self._restarts.get(number, -1) + 1
        self._publish()

    def join(self, number: int, tell: Callable[[FromSupervisor], None]) -> None:
        """Take a gateway in, and tell it what the others know."""
        gateway = self._gateways[number] = _Gateway(tell)
        secrets = [_secret(digest, grant) for digest, grant in self._secrets.grants.items()]
        for start in range(0, len(secrets), MAX_SECRETS_A_MESSAGE):
            self._teach(gateway, secrets[start : start + MAX_SECRETS_A_MESSAGE])
        self._publish(to_all=True)

    def part(self, number: int) -> None:
        """Let a gateway go; what it held falls free. Safe to call for one that never joined."""
        gone = self._gateways.pop(number, None)
        if gone is None:
            return
        for give_back in tuple(gone.held.values()):
            give_back()
        self._answers = [answer for answer in self._answers if answer.gateway != number]
        for answer in self._answers:
            answer.lacking.pop(number, None)
        self._answer_known()
        self._admission.look()
        self._publish()

    def hear(self, number: int, message: FromGateway) -> None:
        """Do what a gateway that has joined asks for."""
        gateway = self._gateways[number]
        match message:
            case BeginSession():
                self._begin(gateway, message)
            case TakePlace():
                self._take_place(gateway, message)
            case GiveBack(ask):
                give_back = gateway.held.pop(ask, None)
                if give_back is not None:
                    give_back()
            case MakeSecret():
                self._keep(number, gateway, message)
            case SecretsKnown(count):
                gateway.known = count
                self._answer_known()
            case WrongKey():
                for other_number, other in self._gateways.items():
                    if other_number != number:
                        other.tell(message)
            case SessionLasted(duration_s):
                self._admission.note_length(duration_s)
            case Pulse(ready):
                gateway.ready = ready
                self._admission.look()
        self._publish()

    def _begin(self, gateway: _Gateway, asked: BeginSession) -> None:
        grant = self._secrets.grants.get(asked.digest)
        try:
            if asked.digest and grant is None:
                raise AuthError("The client secret has expired.")
            end = count_in(self._quota, self._secrets, asked.key_id, grant, self._clock_s())
        except (AuthError, Throttled) as refusal:
            _refuse(gateway, asked.ask, refusal)
            return
        gateway.held[asked.ask] = end
        gateway.tell(Given(asked.ask))

    def _take_place(self, gateway: _Gateway, asked: TakePlace) -> None:
        try:
            if not gateway.ready:
                raise CapacityError(1.0)
            place = self._admission.admit(queue=asked.queue)
        except CapacityError as full:
            _refuse(gateway, asked.ask, full)
            return
        place.on_move = functools.partial(self._move, gateway, asked.ask)
        gateway.held[asked.ask] = lambda: self._give_back(gateway, place)
        gateway.sessions += not place.position
        self._publish()
        gateway.tell(Given(asked.ask, place.position))

    def _move(self, gateway: _Gateway, ask: int, position: int) -> None:
        gateway.sessions += not position
        if not position:
            self._publish()
        gateway.tell(Moved(ask, position))

    def _give_back(self, gateway: _Gateway, place: Place) -> None:
        gateway.sessions -= not place.position
        place.release()

    def _keep(self, number: int, gateway: _Gateway, asked: MakeSecret) -> None:
        secret = asked.secret
        grant = Grant(secret.owner, secret.expires_at, secret.session, secret.max_session_s, secret.sessions_left)
        try:
            self._secrets.keep(secret.digest, grant, self._clock_s())
        except Throttled as refusal:
            _refuse(gateway, asked.ask, refusal)
            return
        for other in self._gateways.values():
            self._teach(other, [secret])
        lacking = {other_number: other.told for other_number, other in self._gateways.items()}
        self._answers.append(_Waiting(number, asked.ask, lacking))

    def _teach(self, gateway: _Gateway, secrets: list[Secret]) -> None:
        gateway.told += 1
        gateway.tell(Secrets(tuple(secrets)))

    def _answer_known(self) -> None:
        """Give the answers for which every gateway that is still there has heard enough."""
        waiting, self._answers = self._answers, []
        for answer in waiting:
            if all(self._gateways[number].known >= count for number, count in answer.lacking.items()):
                self._gateways[answer.gateway].tell(Given(answer.ask))
            else:
                self._answers.append(answer)

    def state(self) -> State:
        """Return the whole server as it is now."""
        return State(
            self._admission.places,
            self._admission.waiting,
            self._admission.usual_s,
            tuple(self._state_of(number, restarts) for number, restarts in sorted(self._restarts.items())),
        )

    def _state_of(self, number: int, restarts: int) -> GatewayState:
        gateway = self._gateways.get(number)
        if gateway is None:
            return GatewayState(number, up=False, ready=False, sessions=0, restarts=restarts)
        return GatewayState(number, up=True, ready=gateway.ready, sessions=gateway.sessions, restarts=restarts)

    def _publish(self, *, to_all: bool = False) -> None:
        """Tell everybody how things are, if they have changed."""
        state = self.state()
        if state != self._told or to_all:
            self._told = state
            for gateway in self._gateways.values():
                gateway.tell(state)


def _refuse(gateway: _Gateway, ask: int, error: AuthError | CapacityError | Throttled) -> None:
    retry_after_s = error.retry_after_s if isinstance(error, CapacityError | Throttled) else 0.0
    gateway.tell(Refused(ask, error.code, str(error), retry_after_s))


def _secret(digest: bytes, grant: Grant) -> Secret:
    return Secret(digest, grant.owner, grant.expires_at, grant.session, grant.max_session_s, grant.sessions_left)
