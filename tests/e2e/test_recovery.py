"""What the page does when it may not enter, when there is no place, and when the connection is lost."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server
from tests.e2e.visitor import TRANSPORTS, Visitor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

_GONE = "ERR_CONNECTION|WebSocket"
"""What a browser says of a server that has gone away before the page."""

_KEEP_THE_CALL = """
const Plain = RTCPeerConnection;
window.RTCPeerConnection = class extends Plain {
  constructor(settings) {
    super(settings);
    window.call = this;
  }
};
"""

_KEEP_THE_SOCKET = """
const Plain = WebSocket;
window.WebSocket = class extends Plain {
  constructor(url, protocols) {
    super(url, protocols);
    window.socket = this;
  }
};
"""

_LOSE_THE_CALL = """
() => {
  window.lost = window.call;
  const plain = window.fetch;
  window.fetch = (url, init) => {
    if (!/rtc_[0-9a-f]+$/.test(url)) return plain(url, init);
    window.fetch = plain;
    return Promise.resolve(new Response("{}", { status: 404 }));
  };
  for (const receiver of lost.getReceivers()) receiver.track.enabled = false;
  Object.defineProperty(lost, "connectionState", { value: "failed", configurable: true });
  lost.onconnectionstatechange();
  delete lost.connectionState;
}
"""
"""As if no ICE restart could help: the network and the server's answer to one are the browser's affair."""

_UNTIL_NOBODY_IS_IN = """
async () => {
  for (let look = 0; look < 80; look += 1) {
    const { sessions } = await (await fetch("/readyz")).json();
    if (sessions === 0) return true;
    await new Promise((go) => setTimeout(go, 50));
  }
  return false;
}
"""


def _type(visitor: Visitor, text: str) -> None:
    visitor.page.get_by_label("Type a message").fill(text)
    visitor.page.keyboard.press("Enter")


def _sessions(server: Server) -> int:
    with urllib.request.urlopen(server.url + "readyz") as answer:
        sessions = json.load(answer)["sessions"]
    assert isinstance(sessions, int)
    return sessions


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reloaded_page_gives_its_place_back_and_starts_again(visit: OpenPage, chromium: str, transport: str) -> None:
    assert chromium
    with Server() as server:
        visitor = visit(server.url, transport=transport, forgive=_GONE)
        visitor.start()
        assert _sessions(server) == 1
        visitor.page.reload()
        visitor.until("duplex.state.view === 'idle'")
        left = visitor.page.evaluate(_UNTIL_NOBODY_IS_IN)
        assert left, "the place is free long before the server would notice a vanished peer"
        visitor.start()
        _type(visitor, "what is two plus three")
        visitor.answer("is 5")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_crashed_is_found_again_and_the_captions_stay(
    visit: OpenPage, chromium: str, transport: str
) -> None:
    assert chromium
    with Server() as first:
        # The server that came back knows neither the call that the page tries to mend nor its session.
        visitor = visit(first.url, transport=transport, forgive=f"404|410|{_GONE}")
        visitor.start()
        _type(visitor, "what is two plus three")
        visitor.answer("is 5")
        first.crash()
        visitor.until("duplex.state.view === 'reconnecting'", 30)
    with Server(port=first.port):
        visitor.until("duplex.state.view === 'listening'", 60)
        assert visitor.look("duplex.captions.some((line) => line.who === 'note')")
        assert visitor.look("duplex.captions.find((line) => line.who === 'model').status") == "done"
        _type(visitor, "what is three plus four")
        visitor.answer("is 7")


def test_a_websocket_that_breaks_is_made_again_and_the_conversation_goes_on(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url, transport="websocket", script=_KEEP_THE_SOCKET)
    visitor.start()
    session = visitor.look("duplex.state.facts.id")
    _type(visitor, "what is two plus three")
    visitor.page.evaluate("() => { window.broken = window.socket; broken.close(4001); }")
    visitor.until("duplex.state.view === 'reconnecting'")
    visitor.until("socket !== broken && socket.readyState === 1 && !duplex.state.stalled")
    visitor.answer("is 5")
    _type(visitor, "what is three plus four")
    visitor.answer("is 7")
    assert visitor.look("duplex.state.facts.id") == session
    assert not visitor.look("duplex.captions.some((line) => line.who === 'note')"), "it is the same conversation"


def test_a_call_moves_to_another_network_path_and_goes_on(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url, transport="webrtc", script=_KEEP_THE_CALL)
    visitor.start()
    session = visitor.look("duplex.state.facts.id")
    visitor.page.evaluate(
        """() => {
          const was = call.localDescription.sdp;
          window.moved = () => call.localDescription.sdp.match(/ice-ufrag:(.*)/)[1] !== was.match(/ice-ufrag:(.*)/)[1];
          Object.defineProperty(call, "connectionState", { value: "disconnected", configurable: true });
          call.onconnectionstatechange();
        }"""
    )
    visitor.until("duplex.state.view === 'reconnecting'")
    visitor.until("moved()")
    visitor.page.evaluate("() => { delete call.connectionState; call.onconnectionstatechange(); }")
    visitor.until("call.connectionState === 'connected' && duplex.state.view === 'listening'")
    _type(visitor, "what is two plus three")
    visitor.answer("is 5")
    assert visitor.look("duplex.state.facts.id") == session


def test_a_call_past_mending_is_followed_by_another_one_in_the_same_conversation(
    visit: OpenPage, server: Server
) -> None:
    visitor = visit(server.url, transport="webrtc", script=_KEEP_THE_CALL)
    visitor.start()
    session = visitor.look("duplex.state.facts.id")
    _type(visitor, "what is two plus three")
    visitor.page.evaluate(_LOSE_THE_CALL)
    visitor.until("duplex.state.view === 'reconnecting'")
    visitor.until("call !== lost && call.connectionState === 'connected' && !duplex.state.stalled")
    visitor.answer("is 5")
    _type(visitor, "what is three plus four")
    visitor.answer("is 7")
    visitor.until("lost.connectionState === 'closed'")
    assert visitor.look("duplex.state.facts.id") == session
    assert not visitor.look("duplex.captions.some((line) => line.who === 'note')"), "it is the same conversation"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_with_a_key_asks_for_it(visit: OpenPage, chromium: str, transport: str) -> None:
    assert chromium
    with Server("--api-keys", "correct-horse-battery") as server:
        visitor = visit(server.url, transport=transport, forgive=f"401|{_GONE}")
        visitor.button("Start").click()
        visitor.until("duplex.state.view === 'error'")
        key = visitor.page.get_by_label("API key")
        for attempt in ("wrong-key-entirely", "correct-horse-battery"):
            key.wait_for()
            key.fill(attempt)
            visitor.page.keyboard.press("Enter")
            visitor.until("!['error', 'connecting'].includes(duplex.state.view) || duplex.state.attempt > 0")
            visitor.until("duplex.state.view === 'error' || duplex.state.phase === 'live'")
        visitor.until("duplex.state.phase === 'live'")
        _type(visitor, "what is two plus three")
        visitor.answer("is 5")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_waits_in_line_sees_the_place_and_comes_in(visit: OpenPage, chromium: str, transport: str) -> None:
    assert chromium
    with Server("--max-sessions", "1") as server:
        first = visit(server.url, transport=transport, forgive=_GONE)
        first.start()
        second = visit(server.url, beside=first, transport=transport, forgive=_GONE)
        second.button("Start").click()
        second.page.get_by_role("heading", name="You are next").wait_for()
        third = visit(server.url, beside=first, transport=transport, language="zh", forgive=_GONE)
        third.button("开始").click()
        third.page.get_by_role("heading", name="排队中，第 2 位").wait_for()
        first.button("End").click()
        second.until("duplex.state.phase === 'live'", 60)
        third.page.get_by_role("heading", name="下一位就是你").wait_for()
        _type(second, "what is two plus three")
        second.answer("is 5")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_whose_line_is_full_too_is_tried_again(visit: OpenPage, chromium: str, transport: str) -> None:
    assert chromium
    with Server("--max-sessions", "1", "--queue-max", "0") as server:
        first = visit(server.url, transport=transport, forgive=_GONE)
        first.start()
        second = visit(server.url, beside=first, transport=transport, forgive=f"503|{_GONE}")
        second.button("Start").click()
        second.until("duplex.state.view === 'reconnecting' && duplex.state.loss.reason === 'full'")
        second.page.get_by_role("heading", name="All places are taken").wait_for()
        first.button("End").click()
        second.until("duplex.state.phase === 'live'", 60)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_transport_can_be_changed_while_talking(visit: OpenPage, server: Server, transport: str) -> None:
    other = next(name for name in TRANSPORTS if name != transport)
    visitor = visit(server.url, transport=transport)
    visitor.start()
    visitor.button("Settings").click()
    visitor.page.get_by_role("radio", name={"webrtc": "WebRTC", "websocket": "WebSocket"}[other]).check()
    visitor.page.keyboard.press("Escape")
    visitor.until(f"duplex.state.phase === 'live' && duplex.state.kind === '{other}'")
    _type(visitor, "what is two plus three")
    visitor.answer("is 5")
