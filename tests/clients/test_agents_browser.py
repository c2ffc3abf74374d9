"""``@openai/agents-realtime`` over WebRTC in Chromium, unmodified, as it is bundled, from a page of another origin."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, sync_playwright

from tests.clients.conftest import KEY, ORIGIN
from tests.clients.running import PROGRAMS
from tests.e2e.serving import Server
from tests.helpers.wire_witness import Witness

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

_FLAGS = [
    "--autoplay-policy=no-user-gesture-required",
    "--disable-features=LocalNetworkAccessChecks",  # the page comes from no address, and may still call this machine
]
_LISTEN_IN = """
const create = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...details) {
  const channel = create.apply(this, details);
  const heard = [];
  window.wire.push(heard);
  channel.addEventListener("message", ({ data }) => heard.push(data));
  return channel;
};
"""


def _secret(server: Server) -> str:
    """Ask for a client secret, as an application's own server does."""
    asked = urllib.request.Request(
        f"{server.url}v1/realtime/client_secrets",
        data=json.dumps({"session": {"type": "realtime"}}).encode(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked) as answer:
        return str(json.load(answer)["value"])


def _open(page: Page, package: Path, clips_folder: Path) -> None:
    """Open the application's page; its files come from here, not from the server."""
    bundle = package / "dist" / "bundle"
    types = {".mjs": "text/javascript", ".pcm": "application/octet-stream"}

    def serve(route: Route) -> None:
        folder, _, name = route.request.url.removeprefix(f"{ORIGIN}/").partition("/")
        if not name:
            route.fulfill(body="<!doctype html><title>Application</title>", content_type="text/html")
            return
        file = {"bundle": bundle, "clips": clips_folder, "programs": PROGRAMS}[folder] / name
        route.fulfill(body=file.read_bytes(), content_type=types[file.suffix])

    page.route(f"{ORIGIN}/**", serve)
    page.add_init_script(f"window.wire = []; {_LISTEN_IN}")
    page.goto(f"{ORIGIN}/")


def _talk(page: Page, *arguments: Any) -> list[list[str]]:
    """Hold the conversation; returns what came over each data channel."""
    error = page.evaluate(
        """async (given) => {
          const { talk } = await import("/programs/agents_page.mjs");
          try { await talk(...given); } catch (error) { return error.stack; }
          return "";
        }""",
        list(arguments),
    )
    assert not error, error
    wire = page.evaluate("window.wire")
    assert isinstance(wire, list)
    return wire


def test_it_speaks_and_is_spoken_to(server: Server, chromium: str, clips_folder: Path, agents_realtime: Path) -> None:
    picture = f"data:image/jpeg;base64,{base64.b64encode((clips_folder / 'black.jpg').read_bytes()).decode()}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=_FLAGS)
        page = browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        _open(page, agents_realtime, clips_folder)
        url = f"{server.url}v1/realtime/calls"
        channels = _talk(page, url, [_secret(server), _secret(server)], picture)
        browser.close()
    assert not complaints
    assert len(channels) == 2
    for messages in channels:
        witness = Witness(media_track=True)
        for message in messages:
            witness.hear(message)
        witness.verdict()
