"""Whatever clients send to a running server over real connections that break: documented answers, nothing left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from duplex_server.engine.slots import RowSlot
from duplex_server.session.attachment import Attachment
from duplex_server.session.manager import SessionManager
from duplex_server.session.observer import SilentObserver
from duplex_server.session.session import Session, SessionLimits
from duplex_server.session.voice import Voice
from duplex_server.transports.intake import Intake
from duplex_server.transports.websocket import WebSocketTransport
from duplex_server.types import Floor, InterruptionPolicy, ModelOutput, SessionSetup, Unit
from duplex_server.wire.dialogue import Dialogue
from duplex_server.wire.journal import Journal
from tests.helpers.slots import LoudnessDetector, ScriptedSlot, speech
from tests.helpers.wire_plans import from_client, on_items
from tests.helpers.wire_resume import check_connections
from tests.session.stage import SPEC
from tests.session.test_any_events import CODES
from tests.transports.serving import FakeManager, Served, run, serving

N_EXAMPLES = int(os.environ.get("DUPLEX_LIVE_EXAMPLES", "2"))
"""Servers, each with :data:`AT_A_TIME` conversations; one takes three seconds or four."""
AT_A_TIME = 12
OF_A_SESSION = (Session, Attachment, Dialogue, Voice, Journal, Intake, WebSocketTransport, RowSlot)
BAD = ["", "[]", "{", '{"type": 7}', "\\ud800", '{"type":"session.update"}', "[" * 5000, '{"type":"x","event_id":9}']

steps = st.one_of(
    from_client,
    on_items,
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.02, 0.1, 0.3])),
    st.tuples(st.just("garbage"), st.sampled_from(BAD)),
    st.tuples(st.just("break"), st.sampled_from([0.0, 0.05, 0.3])),
)
plans = st.lists(st.lists(steps, min_size=5, max_size=30), min_size=AT_A_TIME, max_size=AT_A_TIME)


class Chatterbox:
    """Says something when asked to, when something was typed, and now and then by itself."""

    def __init__(self) -> None:
        self.slot = ScriptedSlot(self.answer)
        self._turn = 0

    def answer(self, unit: Unit) -> Iterable[ModelOutput]:
        if unit.floor is Floor.SPEAK or unit.texts or unit.index % 8 == 7:
            self._turn = max([self._turn, *(turn for turn, _ in self.slot.cancelled)]) + 1
            yield speech(0.25, turn=self._turn, text="Well.")


class ChatterEngine:
    spec = SPEC
    places = AT_A_TIME
    ready = True

    async def open(self, setup: SessionSetup) -> ScriptedSlot:
        return Chatterbox().slot


class Client:
    """One conversation, over as many connections as it takes; written for this test, from the protocol alone."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._socket: ClientConnection
        self._sent: list[str] = []
        self.heard: list[list[dict[str, Any]]] = []  # by connection
        self._token = self._session = ""

    async def begin(self) -> None:
        self._socket = await open_websocket(f"{self._url}?resume=1")
        self.heard.append([])
        await self.until(lambda event: event["type"] == "session.created")

    async def play(self, plan: list[tuple[str, Any]]) -> None:
        for kind, what in plan:
            if kind == "wait":
                await self._listen(what)
            elif kind == "break":
                self._socket.transport.abort()
                await asyncio.sleep(what)
                await self._come_back()
            else:
                await self.send(what if kind == "garbage" else msgspec.json.encode(self._honest(what)).decode())

    def _honest(self, event: dict[str, Any]) -> dict[str, Any]:
        """What a client says it has is not sent again."""
        if event["type"] != "session.event_ack":
            return event
        return event | {"server_event_seq": min(event["server_event_seq"], self._last_seq)}

    async def send(self, text: str) -> None:
        self._sent.append(text)
        await self._socket.send(text)

    async def until(self, fits: Any) -> None:
        try:
            async with asyncio.timeout(20):
                while not fits(await self._receive()):
                    pass
        except TimeoutError:
            raise AssertionError(f"it never came; sent {self._sent}, heard {self.heard}") from None

    async def leave(self) -> None:
        await self._socket.close()

    @property
    def _last_seq(self) -> int:
        return max(int(event.get("server_event_seq", 0)) for event in self.log)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [event for events in self.heard for event in events]

    @property
    def all_said(self) -> bool:
        """Whether no response is open, or half closed."""
        opened, closed = (
            [event["response"]["id"] for event in self.log if event["type"] == kind]
            for kind in ("response.created", "response.done")
        )
        return opened == closed and self.log[-1]["type"] != "response.done"

    async def _listen(self, duration_s: float) -> None:
        try:
            async with asyncio.timeout(duration_s):
                while True:
                    await self._receive()
        except TimeoutError:
            pass

    async def _receive(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self._socket.recv())
        self.heard[-1].append(event)
        self._token = event.get("resume_token", self._token)
        self._session = event.get("session", {}).get("id", self._session)
        return event

    async def _come_back(self) -> None:
        self._socket = await open_websocket(f"{self._url}?autostart=0")
        asked: dict[str, Any] = {"session_id": self._session, "resume_token": self._token}
        asked["last_received_server_event_seq"] = self._last_seq
        await self._socket.send(json.dumps({"type": "session.resume", **asked}))
        self.heard.append([])
        await self.until(lambda event: event["type"] == "session.resumed")
        for text in self._sent[self.heard[-1][0]["client_events_received"] :]:
            await self._socket.send(text)


async def converse(served: Served, plan: list[tuple[str, Any]]) -> None:
    client = Client(served.ws_url)
    await client.begin()
    try:
        await client.play(plan)
        for event in ({"type": "session.continue"}, {"type": "session.heartbeat", "event_id": "last"}):
            await client.send(json.dumps(event))
        await client.until(lambda event: event["type"] == "session.heartbeat_ack" and is_last(client))
        if not client.all_said:  # the model speaks by itself, so one may be open, but has to end
            await client.until(lambda _: client.all_said)
    except ConnectionClosed as error:
        raise AssertionError(f"the server closed the connection: {error}; {client.log[-3:]}") from error
    finally:
        await client.leave()
    check_connections(client.heard, media_track=False, all_ended=False)
    errors = [event["error"]["code"] for event in client.log if event["type"] == "error"]
    assert set(errors) <= CODES - {"server_error"}


def is_last(client: Client) -> bool:
    """Whether every heartbeat was answered, so that this answer is the last one's."""
    beats = sum('"session.heartbeat"' in text for text in client._sent)
    return beats == len([event for event in client.log if event["type"] == "session.heartbeat_ack"])


def standing() -> Counter[str]:
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in OF_A_SESSION)


# Nothing is shrunk: an example takes seconds of real time.
@settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)
@given(plans=plans)
def test_any_events_in_any_order_over_connections_that_break(plans: list[list[tuple[str, Any]]]) -> None:
    before = standing()

    async def main() -> None:
        manager = SessionManager(
            cast(Any, ChatterEngine()),
            max_sessions=0,
            limits=SessionLimits(),
            policy=InterruptionPolicy.GUARDED,
            setup=SessionSetup(),
            make_detector=LoudnessDetector,
            observer=SilentObserver(),
            shutdown_grace_s=2.0,
            wall_clock_s=lambda: 1.7e9,
        )
        manager.change = asyncio.Event()  # type: ignore[attr-defined]  # which the tests' metrics set
        async with manager, serving(cast(FakeManager, manager)) as served:
            async with asyncio.TaskGroup() as talking:
                for plan in plans:
                    talking.create_task(converse(served, plan))
            async with asyncio.timeout(5):
                await manager._admission.empty()

    run(main())
    assert standing() == before, "objects of conversations that are over"
