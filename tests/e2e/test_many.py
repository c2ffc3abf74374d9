"""Several people at the page at the same time."""

from __future__ import annotations

import pytest

from tests.e2e.clips import said
from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server
from tests.e2e.visitor import TRANSPORTS
from tests.helpers.speech import UserVoice

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_people_hear_their_own_answers(
    visit: OpenPage, server: Server, voice: UserVoice, transport: str
) -> None:
    first = visit(server.url, hears=said(voice, (5.0, "what time is it")), transport=transport)
    second = visit(server.url, hears=said(voice, (5.0, "what is the date")), transport=transport)
    first.start()
    second.start()
    assert first.answer(r"^it is \d+")
    assert second.answer("^today is")
    assert first.look("duplex.state.facts.id") != second.look("duplex.state.facts.id")
    for visitor in (first, second):
        assert visitor.look("duplex.captions.filter((line) => line.who === 'model').length") == 1
        assert visitor.sound_s() > 0.6


def test_ten_people_are_answered_at_the_same_time(visit: OpenPage, server: Server, voice: UserVoice) -> None:
    track = said(voice, (3.0, "what time is it"), lasts_s=12.0)
    first = visit(server.url, hears=track, once=False, transport="webrtc", reduced_motion="reduce")
    visitors = [first]
    for number in range(1, 10):
        transport = TRANSPORTS[number % len(TRANSPORTS)]
        visitors.append(visit(server.url, beside=first, transport=transport, reduced_motion="reduce"))
    for visitor in visitors:
        visitor.start(40)
    for visitor in visitors:
        assert visitor.answer(r"^it is \d+", 60)
        assert visitor.sound_s() > 0.6
    assert len({visitor.look("duplex.state.facts.id") for visitor in visitors}) == 10
    assert all(visitor.look("duplex.state.phase") == "live" for visitor in visitors)
