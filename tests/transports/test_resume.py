"""Conversations over real connections that break, resumed by the client for programs."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import numpy as np
import pytest
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from duplex_server.client import Conversation, ReceivedAudio, connect
from duplex_server.errors import TransportError
from duplex_server.session.limits import SessionLimits
from duplex_server.session.manager import SessionManager
from duplex_server.session.observer import SilentObserver
from duplex_server.types import InterruptionPolicy, Pcm, SessionSetup
from duplex_server.wire.events import ConversationItemCreate, ResponseOutputAudioTranscriptDelta
from duplex_server.wire.objects import InputTextPart, MessageItem
from tests.helpers.slots import LoudnessDetector, ScriptedSlot
from tests.session.stage import SPEC
from tests.session.test_resume import UNIT_SAMPLES, Reciter
from tests.transports.serving import FakeManager, Served, run, serving

N_CONVERSATIONS = 24
N_UNITS = 16


class ReciterEngine:
    """Every conversation has a reciter of its own."""

    spec = SPEC
    places = 64
    ready = True

    async def open(self, setup: SessionSetup) -> ScriptedSlot:
        return ScriptedSlot(Reciter())


@asynccontextmanager
async def reciting() -> AsyncIterator[Served]:
    manager = SessionManager(
        cast(Any, ReciterEngine()),
        max_sessions=0,
        limits=SessionLimits(resume_grace_s=5.0),
        policy=InterruptionPolicy.GUARDED,
        setup=SessionSetup(),
        make_detector=LoudnessDetector,
        observer=SilentObserver(),
        shutdown_grace_s=2.0,
        wall_clock_s=lambda: 1.7e9,
    )
    manager.change = asyncio.Event()  # type: ignore[attr-defined]  # which the tests' metrics set
    async with manager, serving(cast(FakeManager, manager)) as served:
        yield served
        async with asyncio.timeout(5):  # every place is given back
            await manager._admission.empty()


def recited() -> Pcm:
    rng = np.random.default_rng(1)
    return np.concatenate([rng.uniform(0.1, 0.5, UNIT_SAMPLES).astype(np.float32) for _ in range(N_UNITS)])


async def ask(conversation: Conversation) -> None:
    item = MessageItem(role="user", content=[InputTextPart(text=f"t {N_UNITS}")])
    await conversation.send(ConversationItemCreate(item=item))


async def listen(conversation: Conversation) -> tuple[str, Pcm]:
    """Collect what is said until its last word, and what of it sounds until it is all there."""
    text, sound = "", [np.zeros(0, np.float32)]
    async with asyncio.timeout(30):
        async for received in conversation.events():
            if isinstance(received, ResponseOutputAudioTranscriptDelta):
                text += received.delta
            elif isinstance(received, ReceivedAudio):
                sound.append(received.pcm)
            if f":{N_UNITS - 1} " in text and sum(map(len, sound)) >= UNIT_SAMPLES * N_UNITS:
                break
    return text, np.concatenate(sound)


def test_broken_websockets_cost_nothing() -> None:
    async def one(served: Served, seed: int) -> None:
        rng = random.Random(seed)
        async with connect(served.url) as conversation, asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen(conversation))
            asking = tasks.create_task(ask(conversation))
            for _ in range(rng.randint(1, 2)):
                await asyncio.sleep(rng.uniform(0.0, 0.6))
                link = cast(Any, conversation._link)
                link._link._connection.transport.abort()
            await asking
            text, sound = await listening
        assert text == "".join(f"t {N_UNITS}:{n} " for n in range(N_UNITS))
        np.testing.assert_allclose(sound, recited(), atol=1e-4)

    async def main() -> None:
        async with reciting() as served, asyncio.TaskGroup() as tasks:
            for seed in range(N_CONVERSATIONS):
                tasks.create_task(one(served, seed))

    run(main())


def test_a_call_goes_on_from_another_address() -> None:
    async def main() -> None:
        async with reciting() as served, connect(served.url, transport="webrtc") as conversation:
            link = cast(Any, conversation._link)
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(listen(conversation))
                await ask(conversation)
                await asyncio.sleep(0.6)
                old = link._link
                for transceiver in old._connection.getTransceivers():
                    ice = transceiver.receiver.transport.transport._connection
                    await ice.close()  # its address is gone; nobody is told
                    break
                old._finish(TransportError("the network changed"))
                text, sound = await listening
            assert link._link is not old
        assert text == "".join(f"t {N_UNITS}:{n} " for n in range(N_UNITS))
        assert len(sound) >= UNIT_SAMPLES * N_UNITS

    run(main())


@pytest.mark.parametrize("wrong", ["token", "session"])
def test_who_may_not_resume_gets_a_typed_answer(wrong: str) -> None:
    async def main() -> None:
        async with reciting() as served, connect(served.url) as conversation:
            link = cast(Any, conversation._link)
            asked = {
                "session_id": link._session_id if wrong == "token" else "sess_gone",
                "resume_token": "nonsense" if wrong == "token" else link._token,
            }
            async with httpx2.AsyncClient(base_url=served.url) as http:
                form: dict[str, Any] = {
                    "sdp": (None, "v=0", "application/sdp"),
                    "session": (None, json.dumps({"resume": asked})),
                }
                reply = await http.post("/v1/realtime/calls", files=form)
            assert reply.status_code == (401 if wrong == "token" else 410), reply.text
            async with open_websocket(served.ws_url + "?autostart=0") as socket:
                await socket.send(json.dumps({"type": "session.resume", **asked}))
                told = await socket.recv()
                assert ("invalid_resume_token" if wrong == "token" else "session.expired") in str(told)
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == (1008 if wrong == "token" else 1001)

    run(main())


def test_the_first_event_may_begin_a_session() -> None:
    async def main() -> None:
        async with reciting() as served, open_websocket(served.ws_url + "?autostart=0") as socket:
            await socket.send('{"type": "nonsense"}')
            assert '"invalid_value"' in str(await socket.recv())
            await socket.send('{"type": "session.heartbeat"}')
            types = [json.loads(await socket.recv())["type"] for _ in range(2)]
            assert types == ["session.created", "session.heartbeat_ack"]

    run(main())
