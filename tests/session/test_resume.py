"""A connection that breaks at any time costs silence, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from duplex_server.errors import AuthError, InvalidEvent, SessionExpired
from duplex_server.session.manager import SessionManager
from duplex_server.session.session import SessionLimits
from duplex_server.session.transport import TransportTraits
from duplex_server.transports.loopback import MEDIA_TRACK_TRAITS, MESSAGE_TRAITS, LoopbackTransport
from duplex_server.types import InterruptionPolicy, ModelOutput, SessionSetup, Unit
from tests.helpers.slots import LoudnessDetector, ScriptedSlot
from tests.helpers.virtual_time import run
from tests.helpers.wire_resume import check_connections
from tests.session.resuming import ComingBack
from tests.session.stage import SPEC, Notes, OneSlotEngine

N_SEEDS = int(os.environ.get("DUPLEX_RESUME_SEEDS", "24"))
"""Seeds of each kind of connection; 500 take four minutes."""
UNIT_SAMPLES = SPEC.unit_ms * 24


class Reciter:
    """Answers each text by a turn that no other resembles, one unit of it per unit, whatever else happens."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.n_sounding = 0
        self._due: deque[ModelOutput] = deque()
        self._turn = 0

    def __call__(self, unit: Unit) -> Iterable[ModelOutput]:
        self.n_sounding += int(np.count_nonzero(unit.audio))
        for text in unit.texts:
            self.heard.append(text)
            self._turn += 1
            n_units = int(text.split()[-1])
            rng = np.random.default_rng(self._turn)
            for n in range(n_units):
                audio = rng.uniform(0.1, 0.5, UNIT_SAMPLES).astype(np.float32)
                self._due.append(ModelOutput(self._turn, audio, f"{text}:{n} ", end_of_turn=n == n_units - 1))
        if self._due:
            yield self._due.popleft()


@dataclass
class Scene:
    client: ComingBack
    reciter: Reciter
    notes: Notes
    manager: SessionManager
    slot: ScriptedSlot


@asynccontextmanager
async def scene(
    traits: TransportTraits, *, limits: SessionLimits | None = None, line_max: int = 0
) -> AsyncIterator[Scene]:
    reciter, notes = Reciter(), Notes()
    slot = ScriptedSlot(reciter)
    manager = SessionManager(
        OneSlotEngine(slot),  # type: ignore[arg-type]  # a session needs no more of an engine
        max_sessions=0,
        limits=limits or SessionLimits(),
        policy=InterruptionPolicy.GUARDED,
        setup=SessionSetup(),
        make_detector=LoudnessDetector,
        observer=notes,
        shutdown_grace_s=2.0,
        wall_clock_s=lambda: 1.7e9,
        line_max=line_max,
    )
    async with manager, asyncio.TaskGroup() as tasks:
        client = ComingBack(manager, traits, tasks, delay_s=0.04)
        client.connect()
        await asyncio.sleep(0.1)
        try:
            yield Scene(client, reciter, notes, manager, slot)
        finally:
            client.peer.leave()
    assert manager.sessions == 0 and slot.closed, "everything is given back"


async def converse(scene: Scene, texts: list[tuple[float, str]]) -> None:
    """Talk for as long as it takes: a microphone that is always on, and now and then a typed text."""
    client, began_s, due = scene.client, asyncio.get_running_loop().time(), deque(texts)
    quiet = base64.b64encode(np.full(2400, 100, "<i2").tobytes()).decode()
    for n in range(100):
        while due and n * 0.1 >= due[0][0]:
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": due.popleft()[1]}]}
            client.send(type="conversation.item.create", item=item)
        client.send(type="input_audio_buffer.append", audio=quiet)
        await asyncio.sleep(began_s + (n + 1) * 0.1 - asyncio.get_running_loop().time())


async def break_off(client: ComingBack, rng: random.Random) -> None:
    """Lose the network, which the server may or may not notice before the client is back."""
    client.peer.cut_off()
    old = client.peer
    gap_s, notice_s = rng.choice([0.0, 0.1, 1.0, 4.0]) * rng.random(), rng.choice([0.0, 0.3, 9.0]) * rng.random()
    if notice_s < gap_s:
        await asyncio.sleep(notice_s)
        old.notice()
        await asyncio.sleep(gap_s - notice_s)
    else:
        await asyncio.sleep(gap_s)
    await client.come_back()


def recited(traits: TransportTraits, seed: int, *, broken: bool) -> tuple[list[str], list[bytes], Scene]:
    """Hold a conversation, with or without broken connections; return what the listener got."""
    rng = random.Random(seed)
    texts = [(rng.uniform(0.1, 6), f"t{n} {rng.randint(1, 20)}") for n in range(rng.randint(1, 3))]
    breaks = sorted(rng.uniform(0.0, 9) for _ in range(rng.randint(1, 3)))

    async def main() -> tuple[list[str], list[bytes], Scene]:
        async with scene(traits) as played, asyncio.TaskGroup() as tasks:
            talking = tasks.create_task(converse(played, sorted(texts)))
            began_s = asyncio.get_running_loop().time()
            for at_s in breaks if broken else ():
                await asyncio.sleep(max(0.0, began_s + at_s - asyncio.get_running_loop().time()))
                await break_off(played.client, rng)
            await talking
            await asyncio.sleep(6)
            client = played.client
            check_connections([client.logs(peer) for peer in client.peers], media_track=traits.media_track)
            return played.client.transcripts(), played.client.audio(), played

    return run(main(), debug=False)


@pytest.mark.parametrize("seed", range(N_SEEDS))
@pytest.mark.parametrize("traits", [MESSAGE_TRAITS, MEDIA_TRACK_TRAITS], ids=["message", "media track"])
def test_a_broken_conversation_equals_a_whole_one(traits: TransportTraits, seed: int) -> None:
    whole_texts, whole_audio, whole = recited(traits, seed, broken=False)
    texts, audio, played = recited(traits, seed, broken=True)
    assert len(played.client.peers) > 1 and not played.client.refusals
    assert texts == whole_texts and "".join(texts)
    assert audio == whole_audio, [len(part) for part in audio]
    assert played.reciter.heard == whole.reciter.heard, "what the client sent arrives, once and in its order"
    statistics = played.notes.summaries[0].input
    n_heard = played.reciter.n_sounding + statistics.skipped
    assert n_heard == pytest.approx(whole.reciter.n_sounding, abs=1600), "and so does its microphone"


def test_nobody_speaks_while_the_peer_is_away() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            n_units = len(played.slot.units)
            played.client.send(type="session.heartbeat")
            await asyncio.sleep(1)
            played.client.peer.cut_off()
            played.client.peer.notice()
            await asyncio.sleep(0.1)
            n_units = len(played.slot.units)
            await asyncio.sleep(20)
            assert len(played.slot.units) == n_units, "the clock stands still"
            await played.client.come_back()
            await asyncio.sleep(1)
            assert len(played.slot.units) == pytest.approx(n_units + 10, abs=1)

    run(main())


def test_a_peer_that_comes_too_late_learns_it() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS, limits=SessionLimits(resume_grace_s=5.0)) as played:
            played.client.send(type="session.heartbeat")
            await asyncio.sleep(1)
            played.client.peer.notice()
            await asyncio.sleep(4.9)
            assert played.manager.sessions == 1
            await asyncio.sleep(0.2)
            assert played.manager.sessions == 0 and played.slot.closed
            await played.client.come_back()
            assert isinstance(played.client.refusals[0], SessionExpired)

    run(main())


def test_a_peer_that_is_away_keeps_its_place_while_others_wait_for_one() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS, line_max=1) as played:
            client = played.client
            client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            waits = await played.manager.admit(queue=True)
            client.peer.notice()
            await asyncio.sleep(25)
            assert waits.position == 1, "the one that is away was promised 30 s"
            await client.come_back()
            assert not client.refusals, "and need not wait in the line"
            client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            client.peer.notice()
            await asyncio.sleep(29.9)
            assert waits.position == 1
            await asyncio.sleep(0.2)
            assert waits.position == 0, "the promise was kept, and the next one's turn comes"
            waits.release()

    run(main())


def test_a_token_opens_once() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            client = played.client
            client.send(type="session.heartbeat")
            first = client.resume_event()
            with pytest.raises(AuthError):
                played.manager.find(msgspec.structs.replace(first, resume_token=first.resume_token + "x"))
            await client.come_back()
            second = client.resume_event()
            assert second.resume_token != first.resume_token
            played.manager.find(first)  # the answer might have been lost, so the old token holds for now
            client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            played.manager.find(second)
            with pytest.raises(AuthError) as refused:
                played.manager.find(first)
            assert refused.value.error_code == "invalid_resume_token"

    run(main())


def test_a_taken_over_connection_is_told_and_closed() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            client = played.client
            client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            await client.come_back()
            await asyncio.sleep(0.1)
            old = client.peers[0]
            assert client.logs(old)[-1]["type"] == "session.replaced" and old.closed_s is not None
            assert client.logs(client.peer, "session.resumed")[0]["attachment_generation"] == 2

    run(main())


def test_a_session_goes_on_over_the_same_kind_of_connection() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            other = LoopbackTransport(traits=MEDIA_TRACK_TRAITS)
            with pytest.raises(InvalidEvent):
                await played.manager.resume(other, played.client.resume_event())

    run(main())


def test_a_full_journal_is_admitted() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS, limits=SessionLimits(journal_bytes=20_000)) as played:
            client = played.client
            for _ in range(3):
                client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            asked = client.resume_event()
            client.peer.cut_off()
            client.peer.send(client.sent[-1])
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t 20"}]}
            other = LoopbackTransport()
            client.tasks.create_task(played.manager.resume(other, asked))
            await asyncio.sleep(0.1)
            client.peers.append(other.peer)
            client.send(type="conversation.item.create", item=item)
            await asyncio.sleep(4)
            await client.come_back()  # with the last number that the test's peer knows
            missing = client.logs(client.peer, "session.resync_required")
            assert not missing
            late = msgspec.structs.replace(client.resume_event(), last_received_server_event_seq=1)
            other = LoopbackTransport()
            client.tasks.create_task(played.manager.resume(other, late))
            await asyncio.sleep(0.1)
            told = client.logs(other.peer)
            assert [event["type"] for event in told[:2]] == ["session.resumed", "session.resync_required"]
            assert told[1]["reason"] == "journal_overflow" and told[1]["first_missing_seq"] == 2
            assert told[2]["server_event_seq"] == told[1]["last_missing_seq"] + 1 == told[0]["replay_from_seq"]
            client.peers.append(other.peer)

    run(main())


def test_acknowledged_events_are_not_kept() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            client = played.client
            client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            last = client.resume_event().last_received_server_event_seq
            client.send(type="session.event_ack", server_event_seq=last)
            await asyncio.sleep(0.1)
            running = next(iter(played.manager._running.values()))
            journal = running.attachment._journal
            assert journal is not None and len(journal) == 0 and journal.oldest == last + 1

    run(main())


def test_who_says_goodbye_or_never_asked_is_not_waited_for() -> None:
    async def main() -> None:
        async with scene(MESSAGE_TRAITS) as played:
            played.client.send(type="session.heartbeat")
            await asyncio.sleep(0.1)
            played.client.peer.leave()
            await asyncio.sleep(0.1)
            assert played.manager.sessions == 0

    run(main())
