from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.openai_schema import validate
from tests.helpers.wire_goldens import FOLDER, read, replay
from tests.helpers.wire_oracle import EXTENSIONS, check

GOLDENS = sorted(FOLDER.glob("*.jsonl"))


def test_there_are_goldens() -> None:
    assert len(GOLDENS) == 7


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_session_goes_as_it_went(path: Path) -> None:
    recorded = read(path)
    for was, now in zip(recorded, replay(recorded), strict=True):
        assert was == now


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_is_legal(path: Path) -> None:
    lines = read(path)
    events = [line["server"] for line in lines if "server" in line]
    check(events, media_track=bool(lines[0]["open"].get("media_track")), opted_in=True)
    assert all(validate(event) or event["type"] in EXTENSIONS for event in events)
