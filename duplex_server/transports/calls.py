"""The WebRTC calls that stand: who owns their tasks, and where later requests about a call find it.

A call outlives the HTTP request that opens it. Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from duplex_server.errors import ClientError, DuplexError, first_error
from duplex_server.session.manager import Hello, Place, SessionManager
from duplex_server.transports.arrivals import Arrivals
from duplex_server.transports.observer import TransportObserver
from duplex_server.transports.rtc_camera import CameraView
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.webrtc import WebRtcTransport
from duplex_server.wire.dialect import Dialect, RealtimeDialect
from duplex_server.wire.events import ClientEvent, SessionResume
from duplex_server.wire.ids import new_call_id

__all__ = ["Calls", "UnknownCall"]

_log = logging.getLogger(__name__)


class UnknownCall(ClientError):
    """No call with this id stands."""

    code = "call_not_found"


class Calls:
    """Open, change and end calls. An async context manager that owns their tasks.

    Args:
        manager: runs a session over each call.
        arrivals: receives the calls that resume one.
        ice_servers: STUN URLs that tell the server its public address.
        max_message_bytes: longest event taken from a peer.
        send_queue_bytes: what may wait for a peer that does not read.
        observer: told what happens.
        view: how the model looks at cameras; None for a blind one.
        gateway: our number, which calls' ids hold.
    """

    def __init__(
        self,
        manager: SessionManager,
        arrivals: Arrivals,
        *,
        ice_servers: tuple[str, ...],
        max_message_bytes: int,
        send_queue_bytes: int,
        observer: TransportObserver,
        view: CameraView | None,
        gateway: int = 0,
    ) -> None:
        self._manager = manager
        self._arrivals = arrivals
        self._ice_servers = ice_servers
        self._max_message_bytes = max_message_bytes
        self._send_queue_bytes = send_queue_bytes
        self._observer = observer
        self._view = view
        self._gateway = gateway
        self._tasks = asyncio.TaskGroup()
        self._pacer = Pacer()
        self._standing: dict[str, _Call] = {}  # bounded by the manager's places

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the calls that stand."""
        for call in self._standing.values():
            call.transport.hang_up()
        await self._tasks.__aexit__(kind, error, trace)
        self._pacer.close()

    def new_id(self) -> str:
        """Make an id that nobody guesses."""
        return new_call_id(self._gateway)

    async def open(
        self,
        place: Place | None,
        sdp: str,
        session: str | SessionResume,
        hello: Hello,
        *,
        call_id: str = "",
        dialect: Dialect | None = None,
        first: Sequence[ClientEvent] = (),
    ) -> tuple[str, str]:
        """Answer an offer, and begin a call.

        Args:
            place: for its session; given back when that is over, or was refused. None for a session that has one.
            sdp: the offer.
            session: a ``session.update`` event as JSON, to be received before any other; "" for none; the session
                to resume, instead of beginning one.
            hello: what the connection brings besides itself.
            call_id: from :meth:`new_id`; "" to make one.
            dialect: how the peer spells events; None: as OpenAI's Realtime API.
            first: events to be received before any of the peer's.

        Returns:
            The call's id and the SDP answer.

        Raises:
            InvalidOffer: the offer cannot be answered.

        Cancelled, the call goes on; without a peer it ends after the time allowed for connecting.
        """
        call_id = call_id or self.new_id()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks.create_task(
            self._run(call_id, sdp, session, place, hello, answer, dialect or RealtimeDialect(), first), name=call_id
        )
        return call_id, await answer

    async def renegotiate(self, call_id: str, key_id: str, sdp: str) -> str:
        """Answer a later offer of a call that stands: another track, or another network path.

        Raises:
            UnknownCall: it does not stand, or was opened with another key.
            InvalidOffer: the offer cannot be answered; the call goes on as it was.
        """
        return await self.find(call_id, key_id).answer(sdp)

    def hang_up(self, call_id: str, key_id: str) -> None:
        """End a call.

        Raises:
            UnknownCall: it does not stand, or was opened with another key.
        """
        self.find(call_id, key_id).hang_up()

    def find(self, call_id: str, key_id: str) -> WebRtcTransport:
        """Return a call that stands.

        Raises:
            UnknownCall: it does not stand, or was opened with another key.
        """
        call = self._standing.get(call_id)
        if call is None or call.key_id != key_id:  # of other people's calls nothing is told, not even that they stand
            raise UnknownCall("No call with this id stands.", param="call_id")
        return call.transport

    async def _run(
        self,
        call_id: str,
        sdp: str,
        session: str | SessionResume,
        place: Place | None,
        hello: Hello,
        answer: asyncio.Future[str],
        dialect: Dialect,
        first: Sequence[ClientEvent],
    ) -> None:
        """Carry a call from its offer to its end. The border for errors: a bug ends this call and touches no other."""
        try:
            async with WebRtcTransport.open(
                ice_servers=self._ice_servers,
                max_message_bytes=self._max_message_bytes,
                send_queue_bytes=self._send_queue_bytes,
                observer=self._observer,
                dialect=dialect,
                pacer=self._pacer,
                view=self._view,
            ) as transport:
                answered = await transport.answer(sdp)
                self._standing[call_id] = _Call(transport, hello.key_id)
                if isinstance(session, str) and session:
                    transport.receive(session)
                for event in first:
                    transport.receive(event)
                if not answer.done():
                    answer.set_result(answered)
                if not await transport.connected():
                    return
                if isinstance(session, SessionResume):
                    await self._arrivals.resume(transport, session)
                elif place is not None:
                    await self._manager.serve(place, transport, hello)
        except* DuplexError as refused:
            _refuse(answer, first_error(refused))
        except* Exception as bug:  # noqa: BLE001 - the border of a call
            _log.error("%s ended by a bug", call_id, exc_info=bug)
            _refuse(answer, DuplexError("internal error"))
        finally:
            if place is not None:
                place.release()
            self._standing.pop(call_id, None)


@dataclass(frozen=True, slots=True)
class _Call:
    transport: WebRtcTransport
    key_id: str


def _refuse(answer: asyncio.Future[str], error: DuplexError) -> None:
    if not answer.done():
        answer.set_exception(error)
