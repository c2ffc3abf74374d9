"""The witness believes what OpenAI's models believe, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.wire_driver import WireDriver
from tests.helpers.wire_oracle import OrderError
from tests.helpers.wire_witness import LONGEST_BYTES, Witness, check_shape

CREATED = WireDriver().sent[0]
OF_EXTENSION = {"type": "session.heartbeat_ack", "event_id": "event_h"}


def _with(path: str, value: Any) -> str:
    event: Any = json.loads(json.dumps(CREATED))
    *steps, last = path.split(".")
    target = event
    for step in steps:
        target = target[step]
    target[last] = value
    return json.dumps(event)


FAULTS = {
    "a rate of its own": _with("session.audio.input.format.rate", 16_000),
    "a turn detection of its own": _with("session.audio.input.turn_detection", {"type": "model"}),
    "a modality that is none": _with("session.output_modalities", ["video"]),
    "an event that is none": json.dumps({"type": "response.sing", "event_id": "event_s"}),
    "no object": "[]",
    "no JSON": "{",
    "not a number": '{"type": "session.heartbeat_ack", "event_id": NaN}',
    "a key twice": '{"type": "session.heartbeat_ack", "event_id": "event_h", "event_id": "event_h"}',
    "too long": json.dumps({**OF_EXTENSION, "x": "x" * LONGEST_BYTES}),
    "binary": b"\0\0",
}


@pytest.mark.parametrize("message", FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_shape_is_noticed(message: str | bytes) -> None:
    witness = Witness(ordered=False)
    witness.hear(json.dumps(CREATED))
    witness.hear(message)
    with pytest.raises(OrderError):
        witness.verdict()


def test_what_is_right_passes() -> None:
    witness = Witness(opted_in=True)
    for event in (CREATED, OF_EXTENSION):
        witness.hear(json.dumps(event))
    witness.verdict()
    assert check_shape(json.dumps(CREATED)) == CREATED


def test_the_first_fault_is_the_one_that_is_told() -> None:
    witness = Witness()
    for message in (json.dumps(OF_EXTENSION), "{"):
        witness.hear(message)
    with pytest.raises(OrderError, match=r"session\.created is first"):
        witness.verdict()
