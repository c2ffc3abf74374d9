"""A server, a browser, and people who speak to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from duplex_server.types import Pcm
from tests.e2e.clips import microphone_file
from tests.e2e.serving import Server
from tests.e2e.visitor import Visitor, open_browser
from tests.e2e.wire import judge
from tests.helpers.speech import silence

OpenPage = Callable[..., Visitor]
"""``visit(url, hears=track, sees=film, once=True, **options)`` opens a page in a browser of its own; ``beside=visitor``
opens it in the browser of another. What the browser's console says in red fails the test, unless it matches
``forgive``."""


@pytest.fixture(scope="module")
def server(chromium: str) -> Iterator[Server]:
    """A server for all tests of a file; without a browser it is not even started."""
    assert chromium
    with Server() as started:
        yield started


@pytest.fixture
def visit(chromium: str, tmp_path: Path) -> Iterator[OpenPage]:
    """Open pages; at the end no page may have complained, or heard what no client takes."""
    complaints: list[str] = []
    visitors: list[Visitor] = []
    with sync_playwright() as playwright, ExitStack() as opened:

        def open_page(
            url: str,
            *,
            hears: Pcm | None = None,
            sees: Path | None = None,
            once: bool = True,
            beside: Visitor | None = None,
            forgive: str = "",
            **options: object,
        ) -> Visitor:
            browser = beside.page.context.browser if beside else None
            if browser is None:
                track = silence(1.0) if hears is None else hears
                file = microphone_file(tmp_path / f"microphone-{len(list(tmp_path.iterdir()))}.wav", track)
                browser = open_browser(playwright.chromium, chromium, microphone=file, camera=sees, once=once)
                opened.callback(browser.close)

            def complain(text: str) -> None:
                if not (forgive and re.search(forgive, text)):
                    complaints.append(text)

            visitors.append(Visitor(browser, url, on_error=complain, **options))
            return visitors[-1]

        yield open_page
        for visitor in visitors:
            judge(visitor.page)
    assert not complaints
