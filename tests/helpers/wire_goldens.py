"""Recorded sessions on the wire: one JSON object a line, inputs and what they led to.

An input is ``{"open": …}`` (first line), ``{"client": event}``, ``{"text": bytes of a client that are no event}`` or
``{"session": [method of Dialogue, *arguments]}``; outputs are ``{"server": event}`` and ``{"request": …}``.
``python -m tests.helpers.wire_goldens`` plays the inputs of every golden again and writes down what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from duplex_server.types import Heard
from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.requests import Request
from tests.helpers.wire_driver import WireDriver, ramp

__all__ = ["FOLDER", "is_input", "read", "replay"]

FOLDER = Path(__file__).parent.parent / "goldens" / "wire"

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """Read a golden."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_input(line: Line) -> bool:
    """Whether a line is something that was done, and not what came of it."""
    return not line.keys() & {"server", "request"}


def replay(lines: Iterable[Line]) -> Iterator[Line]:
    """Play the inputs among ``lines``; yields them with their outputs."""
    driver: WireDriver | None = None
    for line in filter(is_input, lines):
        yield line
        if driver is None:
            driver = WireDriver(**line["open"])
            outputs = driver.sent
        elif "client" in line:
            outputs = driver.client_text(json.dumps(line["client"]))
        elif "text" in line:
            outputs = driver.client_text(line["text"])
        else:
            method, *arguments = line["session"]
            outputs = driver.session(method, *map(_argument, arguments))
        yield from ({"server": event} for event in outputs)
        yield from ({"request": _shown(request)} for request in driver.take_requests())


def _argument(value: Any) -> Any:
    if isinstance(value, dict) and "ramp" in value:
        return ramp(value["ramp"])
    if isinstance(value, dict) and "heard" in value:
        return Heard(*value["heard"])
    if value in Outcome.__members__:
        return Outcome[value]
    return value


def _shown(request: Request) -> Line:
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    return {"kind": type(request).__name__, **{name: _value(value) for name, value in values.items()}}


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"samples": len(value), "sum": round(float(value.sum()), 4)}
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    return value if isinstance(value, str | int | float | None) else repr(value)


def _record() -> None:
    for path in sorted(FOLDER.glob("*.jsonl")):
        lines = list(replay(read(path)))
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _record()
