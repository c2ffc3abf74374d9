"""The page itself: it fits every screen, speaks both languages, and can be used by keyboard and by ear."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

_SIZES = [(360, 640), (768, 1024), (1280, 720), (1920, 1080)]
_UNNAMED = """
[...document.querySelectorAll("button, input, select, [role=meter], canvas[role=img]")]
  .filter((element) => element.checkVisibility())
  .filter((element) => !(element.labels?.length || element.ariaLabel || element.textContent.trim()))
  .map((element) => element.outerHTML)
"""


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize(("width", "height"), _SIZES)
def test_nothing_is_cut_off_at_any_size(visit: OpenPage, server: Server, width: int, height: int, locale: str) -> None:
    visitor = visit(server.url, viewport={"width": width, "height": height}, locale=locale)
    assert visitor.look("document.documentElement.scrollWidth <= innerWidth")
    visitor.page.locator("#settings-open").click()
    assert visitor.look("document.querySelector('#settings').scrollWidth <= innerWidth")
    visitor.page.keyboard.press("Escape")
    visitor.page.locator("#start").click()
    visitor.until("duplex.state.phase === 'live'")
    assert visitor.look("document.documentElement.scrollWidth <= innerWidth")
    for control in ("#start", "#mute", "#camera", "#message"):
        box = visitor.page.locator(control).bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_every_control_has_a_name(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    assert visitor.look(_UNNAMED) == []
    visitor.button("Settings").click()
    assert visitor.look(_UNNAMED) == []


def test_a_conversation_is_held_by_keyboard_alone(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.page.keyboard.press("s")
    visitor.until("duplex.state.phase === 'live'")
    visitor.page.keyboard.press("Space")
    visitor.until("duplex.state.muted")
    visitor.page.keyboard.press("t")
    visitor.until("document.activeElement.matches('input, textarea')")
    visitor.page.keyboard.type("what is two plus three")
    visitor.page.keyboard.press("Enter")
    visitor.answer("is 5")
    assert visitor.look("duplex.state.muted"), "the space bar writes spaces in a text field"
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("s")
    visitor.until("duplex.state.phase === 'idle'")


def test_screen_readers_are_told_what_happened(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.start()
    status = visitor.page.locator("#announce-state")
    visitor.until("document.querySelector('#announce-state').textContent === 'Connected. Listening.'")
    visitor.page.get_by_label("Type a message").fill("what is two plus three")
    visitor.page.keyboard.press("Enter")
    visitor.answer("is 5")
    visitor.until("/Duplex: .*is 5/.test(document.querySelector('#announce-lines').textContent)")
    assert status.get_attribute("role") == "status"


def test_the_language_changes_at_once_and_stays(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.page.get_by_role("button", name="切换到中文").click()
    visitor.button("开始").wait_for()
    visitor.page.reload()
    visitor.button("开始").wait_for()
    visitor.page.get_by_role("button", name="Switch to English").click()
    visitor.button("Start").wait_for()


def test_an_example_is_said_by_a_click(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.start()
    visitor.button("Who are you?").click()
    visitor.answer("embedded model")


def test_the_page_loads_nothing_from_elsewhere(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.start()
    origins = visitor.look("[...new Set(performance.getEntriesByType('resource').map((e) => new URL(e.name).origin))]")
    assert origins == [server.url.rstrip("/")]
