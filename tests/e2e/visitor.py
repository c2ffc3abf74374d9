"""A person at the page: a real Chromium with a fake microphone and camera, read through ``window.duplex``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserType, Locator, Page

from tests.e2e.wire import LISTEN_IN

__all__ = ["AUDIBLE_RMS", "TRANSPORTS", "Visitor", "open_browser"]

TRANSPORTS = ("webrtc", "websocket")

AUDIBLE_RMS = 0.01
"""Loudness (-40 dB) above which the model is heard. Its speech is 20 dB louder, comfort noise 20 dB softer."""
_SLICE_S = 0.02
"""Length of the slices whose loudness the page keeps."""

_UNTIL = """
async ([condition, within_ms]) => {
  const text = (words) => words.map((word) => word.text).join("");
  const lines = (who) => duplex.captions.filter((line) => line.who === who).map((line) => ({
    text: text(line.words), status: line.status, heard: text(line.words.filter((word) => word.state === "heard")),
  }));
  const holds = () => CONDITION;
  const deadline = performance.now() + within_ms;
  for (;;) {
    const found = holds();
    if (found) return { found };
    if (performance.now() > deadline) {
      const story = duplex.events.slice(-80).map(({ t, type, session, ...rest }) =>
        `${Math.round(t)} ${type} ${Object.values(rest).join(" ")}`);
      const state = JSON.stringify({ ...duplex.state, facts: null, now: duplex.now });
      return { never: [condition, state, JSON.stringify(lines("you")), JSON.stringify(lines("model")), ...story] };
    }
    await new Promise((go) => setTimeout(go, 20));
  }
}
"""


def open_browser(kind: BrowserType, program: str, *, microphone: Path, camera: Path | None, once: bool) -> Browser:
    """Start Chromium.

    Args:
        kind: playwright's chromium.
        program: path of the browser.
        microphone: WAV file that its microphone hears, from the moment that it is opened.
        camera: Y4M file that its camera sees.
        once: whether the sound is played once, and not over and over.
    """
    sees = [f"--use-file-for-fake-video-capture={camera}"] if camera else []
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}{'%noloop' if once else ''}",
        *sees,
    ]
    return kind.launch(executable_path=program, chromium_sandbox=False, args=arguments)


class Visitor:
    """One page in a browser."""

    def __init__(self, browser: Browser, url: str, *, on_error: Callable[[str], None], **options: Any) -> None:
        """
        Args:
            browser: that shows the page.
            url: of the page.
            on_error: told of everything that a developer would see in red.
            options: ``transport`` and other preferences of the page, and of playwright's ``new_context``.
        """
        names = ("transport", "policy", "language", "cameraMode")
        chosen = {name: options.pop(name) for name in names if name in options}
        script = options.pop("script", "")
        context = browser.new_context(**options)
        context.grant_permissions(["microphone", "camera"])
        wishes = json.dumps(json.dumps(chosen))
        context.add_init_script(f"localStorage['duplex.preferences'] ??= {wishes};{LISTEN_IN}{script}")
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: on_error(str(error)))
        self.page.on("console", lambda message: on_error(message.text) if message.type == "error" else None)
        self.page.goto(url)

    def button(self, name: str) -> Locator:
        """Find a button by the name that it has for everybody."""
        return self.page.get_by_role("button", name=name, exact=True)

    def start(self, within_s: float = 20.0) -> None:
        """Press Start and wait for the conversation to begin."""
        self.button("Start").click()
        self.until("duplex.state.phase === 'live'", within_s)

    def until(self, condition: str, within_s: float = 20.0) -> Any:
        """Wait until a JavaScript expression is true; return its value. It may call ``heard(item)`` and ``lines(who)``.

        ``lines(who)`` lists captions as ``{text, status, heard}``.
        """
        body = _UNTIL.replace("CONDITION", condition)
        outcome = self.page.evaluate(body, [condition, within_s * 1000])
        if "found" in outcome:
            return outcome["found"]
        raise AssertionError("this never came true: " + "\n".join(outcome["never"]))

    def look(self, expression: str) -> Any:
        """Return the value of a JavaScript expression now."""
        return self.page.evaluate(f"() => ({expression})")

    def answer(self, pattern: str, within_s: float = 20.0) -> str:
        """Wait until the model has said, and the person heard to its end, something like a regular expression."""
        heard = f"lines('model').find((line) => line.status === 'done' && /{pattern}/i.test(line.heard))"
        found = self.until(f"{heard} && !duplex.state.audible && {heard}.text", within_s)
        assert isinstance(found, str)
        return found

    def sound_s(self, from_ms: float = 0.0, to_ms: float = float("inf")) -> float:
        """Return how long the model was audible between two times of the page's clock."""
        levels = self.look("duplex.levels.model")
        loud = [level for level in levels if level["rms"] >= AUDIBLE_RMS and from_ms <= level["t"] < to_ms]
        return len(loud) * _SLICE_S

    def times(self, kind: str) -> list[float]:
        """Return when events of a type came, on the page's clock."""
        return [event["t"] for event in self.look("duplex.events") if event["type"] == kind]
