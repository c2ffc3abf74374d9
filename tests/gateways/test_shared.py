"""What gateways share is counted over all of them, and falls free with the gateway that held it."""

from __future__ import annotations

import asyncio
import functools

import msgspec
import pytest

from duplex_server.config import shown_digest
from duplex_server.errors import AuthError, CapacityError
from duplex_server.gateways import link as link_module
from duplex_server.gateways.link import SupervisorLink
from duplex_server.gateways.messages import Pulse
from duplex_server.security import Gate, Grant, Throttled, Visitor
from duplex_server.security.limits import FREE_FAILURES
from duplex_server.transports.loopback import LoopbackTransport
from duplex_server.wire.client_secrets import read_secret_request
from duplex_server.wire.codec import encode
from tests.gateways.hall import NOW_S, hall

KEY = "correct-horse-battery"


def _has(link: SupervisorLink, sessions: int) -> bool:
    return link.admission.sessions == sessions


def test_places_are_counted_over_all_gateways() -> None:
    async def main() -> None:
        async with hall(places=2) as opened:
            one, two = await opened.open(0), await opened.open(1)
            first = await one.admission.enter(queue=False)
            second = await two.admission.enter(queue=False)
            for link in (one, two):
                await opened.until(functools.partial(_has, link, 2))
                assert (link.admission.places, link.admission.ready) == (2, True)
                with pytest.raises(CapacityError):
                    await link.admission.enter(queue=False)
            first.release()
            first.release()
            await opened.until(lambda: opened.ledger.sessions == 1)
            third = await two.admission.enter(queue=False)
            assert (one.admission.sessions_here, two.admission.sessions_here) == (0, 2)
            second.release()
            third.release()
            await asyncio.wait_for(two.admission.empty(), 1)
            await opened.until(lambda: opened.ledger.sessions == 0)

    asyncio.run(main())


def test_the_line_is_one_over_all_gateways() -> None:
    async def main() -> None:
        async with hall(places=1) as opened, asyncio.TaskGroup() as tasks:
            one, two = await opened.open(0), await opened.open(1)
            held = await one.admission.enter(queue=True)
            a, b = await two.admission.enter(queue=True), await one.admission.enter(queue=True)
            assert [held.position, a.position, b.position] == [0, 1, 2]
            transports = [LoopbackTransport(), LoopbackTransport()]
            waits = [
                tasks.create_task(two.admission.wait(a, transports[0])),
                tasks.create_task(one.admission.wait(b, transports[1])),
            ]
            held.release()
            assert await waits[0]
            assert b.position == 1 and not waits[1].done()
            assert (two.admission.sessions_here, one.admission.sessions_here) == (1, 0)
            a.release()
            assert await waits[1]
            b.release()
        told = [msgspec.json.decode(encode(event)) for _, event in transports[1].peer.received]
        assert [(event["type"], event.get("position")) for event in told] == [
            ("session.queued", 2),
            ("session.queue_update", 1),
            ("session.queue_done", None),
        ]
        assert told[0]["queue_length"] == 2

    asyncio.run(main())


def test_a_full_line_turns_away() -> None:
    async def main() -> None:
        async with hall(places=1, line_max=1) as opened:
            one, two = await opened.open(0), await opened.open(1)
            await one.admission.enter(queue=True)
            waiting = await two.admission.enter(queue=True)
            with pytest.raises(CapacityError):
                await one.admission.enter(queue=True)
            waiting.release()
            await opened.until(lambda: not opened.ledger.state().waiting)
            assert (await one.admission.enter(queue=True)).position == 1

    asyncio.run(main())


def test_a_cancelled_visitor_takes_no_place() -> None:
    async def main() -> None:
        async with hall(places=1) as opened:
            link = await opened.open(0)
            for turns in range(6):  # before it is asked, while it is, and after
                entering = asyncio.create_task(link.admission.enter(queue=False))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not entering.cancel():
                    entering.result().release()
                await asyncio.wait([entering])
            await opened.until(lambda: opened.ledger.sessions == 0)
            assert link.admission.sessions_here == 0
            await link.admission.enter(queue=False)

    asyncio.run(main())


def test_what_a_gateway_held_falls_free_when_it_dies() -> None:
    async def main() -> None:
        async with hall(places=1, key_max_sessions=1) as opened:
            one, two = await opened.open(0), await opened.open(1)
            await one.tally.begin("key", None, NOW_S)
            await one.admission.enter(queue=False)
            with pytest.raises(Throttled):
                await two.tally.begin("key", None, NOW_S)
            waiting = await two.admission.enter(queue=True)
            await opened.lose(0)
            await opened.until(lambda: waiting.position == 0)
            await two.tally.begin("key", None, NOW_S)
            await opened.until(lambda: [state.up for state in two.state.gateways] == [False, True])
            again = await opened.open(0)
            assert [(state.up, state.restarts) for state in again.state.gateways] == [(True, 1), (True, 0)]

    asyncio.run(main())


def test_a_lost_supervisor_stops_the_gateway_at_once() -> None:
    async def main() -> None:
        async with hall() as opened:
            link = await opened.open(0)
            entering = asyncio.create_task(link.admission.enter(queue=False))
            await asyncio.sleep(0)
            await opened.lose(0)
            with pytest.raises(CapacityError):
                await entering
            with pytest.raises(CapacityError):
                await link.admission.enter(queue=False)
            await asyncio.wait_for(link.drained(), 1)
            assert link.stopping.is_set() and link.stopping_at_once.is_set() and not link.admission.ready

    asyncio.run(main())


def test_a_supervisor_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ASK_TIMEOUT_S", 0.05)

    async def main() -> None:
        async with hall() as opened:
            link = await opened.open(0)
            monkeypatch.setattr(opened.ledger, "hear", lambda number, message: None)
            with pytest.raises(CapacityError):
                await link.admission.enter(queue=False)
            with pytest.raises(CapacityError):
                await link.tally.begin("key", None, NOW_S)
            assert link.admission.sessions_here == 0

    asyncio.run(main())


def test_a_gateway_whose_model_is_down_gets_nobody() -> None:
    async def main() -> None:
        async with hall() as opened:
            one, two = await opened.open(0), await opened.open(1)
            one.tell(Pulse(ready=False))
            with pytest.raises(CapacityError):
                await one.admission.enter(queue=False)
            assert one.admission.ready, "the server has another gateway"
            await two.admission.enter(queue=False)

    asyncio.run(main())


def test_a_stopping_server_lets_nobody_in() -> None:
    async def main() -> None:
        async with hall() as opened:
            link = await opened.open(0)
            opened.ledger.close()
            with pytest.raises(CapacityError):
                await link.admission.enter(queue=True)

    asyncio.run(main())


def test_sessions_of_a_key_are_bounded_over_all_gateways() -> None:
    async def main() -> None:
        async with hall(key_max_sessions=2, key_sessions_per_minute=4) as opened:
            one, two = await opened.open(0), await opened.open(1)
            end = await one.tally.begin("key", None, NOW_S)
            await two.tally.begin("key", None, NOW_S)
            with pytest.raises(Throttled, match="at a time"):
                await one.tally.begin("key", None, NOW_S)
            await one.tally.begin("other", None, NOW_S)
            end()
            end()
            await one.tally.begin("key", None, NOW_S)
            with pytest.raises(Throttled, match="at a time"):
                await two.tally.begin("key", None, NOW_S)

    asyncio.run(main())


def gate_of(tally: object) -> Gate:
    return Gate([shown_digest(KEY)], [], loopback=False, clock_s=lambda: NOW_S, tally=tally)  # type: ignore[arg-type]


def test_a_secret_opens_every_gateway_as_soon_as_it_is_made() -> None:
    async def main() -> None:
        async with hall() as opened:
            one, two = gate_of((await opened.open(0)).tally), gate_of((await opened.open(1)).tally)
            owner = one.admit_owner(Visitor(query_key=KEY))
            asked = read_secret_request(b'{"session": {"type": "realtime", "instructions": "Be brief."}}')
            value, _ = await one.mint(owner, ttl_s=60, session=asked.session, max_session_s=9.0, max_sessions=2)
            entry = two.admit(Visitor(query_key=value))
            assert (entry.session, entry.max_session_s, entry.key_id) == (asked.session, 9.0, owner.key_id)
            await two.begin_session(entry)
            await one.begin_session(one.admit(Visitor(query_key=value)))
            for gate in (one, two):
                with pytest.raises(AuthError, match="as many sessions"):
                    await gate.begin_session(gate.admit(Visitor(query_key=value)))
            late = gate_of((await opened.open(2)).tally)
            with pytest.raises(AuthError, match="as many sessions"):
                await late.begin_session(late.admit(Visitor(query_key=value)))

    asyncio.run(main())


def test_a_secret_is_made_although_a_gateway_dies_before_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with hall() as opened:
            one, deaf = await opened.open(0), await opened.open(1)
            monkeypatch.setattr(deaf.tally, "learn", lambda secrets: None)
            minting = asyncio.create_task(one.tally.mint(Grant("key", int(NOW_S) + 60, None), NOW_S))
            await asyncio.sleep(0.02)
            assert not minting.done(), "not before all know"
            await opened.lose(1)
            assert one.tally.find(await minting, NOW_S) is not None

    asyncio.run(main())


def test_many_secrets_reach_a_gateway_that_comes_late() -> None:
    async def main() -> None:
        async with hall() as opened:
            one = await opened.open(0)
            values = [await one.tally.mint(Grant("key", int(NOW_S) + 60, None), NOW_S) for _ in range(230)]
            late = await opened.open(1)
            assert all(late.tally.find(value, NOW_S) for value in values)
            assert late.tally.find("ek_" + "0" * 48, NOW_S) is None

    asyncio.run(main())


def test_wrong_keys_are_counted_over_all_gateways() -> None:
    async def main() -> None:
        async with hall() as opened:
            tallies = [(await opened.open(number)).tally for number in range(2)]
            gates = [gate_of(tally) for tally in tallies]
            guess = Visitor(query_key="wrong-key", address="192.0.2.1")
            for n_guesses in range(FREE_FAILURES):
                with pytest.raises(AuthError):
                    gates[n_guesses % 2].admit(guess)
                await asyncio.sleep(0.01)
            for gate in gates:
                with pytest.raises(Throttled):
                    gate.admit(guess)
            assert sum(gate.failed_attempts for gate in gates) == FREE_FAILURES + 2, "each where it was shown"

    asyncio.run(main())
