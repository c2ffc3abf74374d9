"""Showing something to the embedded model at the page, in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.clips import camera_file
from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

_WAYS = [("webrtc", "stills"), ("webrtc", "track"), ("websocket", "stills")]


@pytest.mark.parametrize(("transport", "camera_mode"), _WAYS)
def test_a_picture_that_turns_dark_is_commented_upon(
    visit: OpenPage, server: Server, tmp_path: Path, transport: str, camera_mode: str
) -> None:
    film = camera_file(tmp_path / "room.y4m", [(10.0, 0.85), (60.0, 0.08)])
    visitor = visit(server.url, sees=film, transport=transport, cameraMode=camera_mode)
    visitor.start()
    visitor.button("Camera").click()
    visitor.until("!document.querySelector('#preview').hidden")
    comment = visitor.answer("dark|cannot see", 40)
    assert comment
    assert visitor.sound_s() > 0.5
    visitor.button("Camera off").click()
    visitor.until("document.querySelector('#preview').hidden")


def test_without_a_camera_it_says_so(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url)
    visitor.start()
    visitor.page.get_by_label("Type a message").fill("what do you see")
    visitor.page.keyboard.press("Enter")
    visitor.answer("camera")
