from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import msgspec

from duplex_server.wire.client_items import MAX_TEXT_CHARS
from duplex_server.wire.events import ClientEvent, ServerEvent
from duplex_server.wire.history import MAX_ITEMS, MAX_PICTURES
from duplex_server.wire.live_events import LiveClientEvent, LiveServerEvent
from duplex_server.wire.reference import page
from duplex_server.wire.session_object import OPT_IN_NAMES, Session, SessionPatch
from tests.helpers.openai_schema import known_types
from tests.helpers.wire_oracle import EXTENSIONS

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")

PAGE_OF_KEYS = Path(__file__).parents[2] / "docs" / "events.md"


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def _first_cells(section: str) -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_client_event_is_documented() -> None:
    assert _first_cells(_section("What clients send")) == {kind.__struct_config__.tag for kind in get_args(ClientEvent)}


def test_every_server_event_is_documented() -> None:
    assert _first_cells(_section("What the server sends")) == {
        kind.__struct_config__.tag for kind in get_args(ServerEvent)
    }


def test_the_page_of_every_key_is_what_the_classes_say() -> None:
    shown = PAGE_OF_KEYS.read_text(encoding="utf-8")
    assert shown == page(), "run: duplex-server schema --page > docs/events.md"


def test_every_event_of_the_live_api_is_documented() -> None:
    kinds = (*get_args(LiveClientEvent), *get_args(LiveServerEvent))
    assert _first_cells(_section("OpenAI Live")) == {kind.__struct_config__.tag for kind in kinds}


def test_extensions_are_told_from_the_standard() -> None:
    standard, extensions = _section("What the server sends").split("\nExtensions, sent only")
    assert _first_cells(extensions) == EXTENSIONS
    assert _first_cells(standard) <= known_types()


def test_every_setting_of_the_session_is_documented() -> None:
    named = {name.split(".")[0] for name in _first_cells(_section("The session"))}
    shown = {field.name for field in msgspec.structs.fields(Session)}
    taken = {field.name for field in msgspec.structs.fields(SessionPatch)}
    assert shown | taken <= named


def test_every_error_code_is_documented() -> None:
    package = Path(__file__).parents[2] / "duplex_server"
    sources = [*(package / "wire").glob("*.py"), *(package / "session").glob("*.py"), package / "errors.py"]
    codes = {
        code
        for path in sources
        for code in re.findall(r"\bcode(?:: ClassVar\[str\])? ?= ?\"([a-z_]+)\"", path.read_text(encoding="utf-8"))
    }
    elsewhere = {"invalid_configuration", "invalid_api_key", "server_overloaded"}  # before any session
    assert codes - elsewhere == _first_cells(_section("Errors")) - {"code"}  # the table's head


def test_the_limits_are_those_of_the_code() -> None:
    assert f"at most {MAX_TEXT_CHARS:,} characters".replace(",", " ") in PAGE
    assert f"newest {MAX_ITEMS} items" in PAGE
    assert f"pictures the newest {MAX_PICTURES}" in PAGE
    for name in OPT_IN_NAMES:
        assert f"`{name}`" in PAGE


def test_examples_in_python_are_python() -> None:
    page_of_clients = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page_of_clients, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        compile(block, "clients.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
