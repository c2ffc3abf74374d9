"""Tests of docs/models.md: what it quotes is what is there, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duplex_server.models.base import Model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text()
SOURCES = {
    "echo.py": (ROOT / "duplex_server" / "models" / "echo.py").read_text(),
    "test_echo.py": (ROOT / "tests" / "models" / "test_echo.py").read_text(),
}
QUOTES = re.findall(r"<!-- (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_piece_of_python_says_where_it_is_from() -> None:
    assert len(QUOTES) == PAGE.count("```python") >= 5


@pytest.mark.parametrize(("source", "quote"), QUOTES, ids=[quote.split("\n")[0].strip() for _, quote in QUOTES])
def test_what_is_quoted_is_in_the_file(source: str, quote: str) -> None:
    assert quote in SOURCES[source]


@pytest.mark.parametrize("method", [name for name in vars(Model) if not name.startswith("_")])
def test_every_method_of_the_protocol_is_explained(method: str) -> None:
    assert f"| `{method}(" in PAGE


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:duplex_server|tests)/[\w/]+\.py)`", PAGE))))
def test_files_that_are_named_exist(path: str) -> None:
    assert (ROOT / path).is_file()
