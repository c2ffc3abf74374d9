from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from duplex_server.cli import main
from duplex_server.wire.reference import page, schema
from tests.helpers.wire_goldens import FOLDER, read

SCHEMA = schema()


def validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})


def definition_of(type_: str, surface: str, side: str) -> str:
    """Return the name of the definition of an event."""
    for choice in SCHEMA["surfaces"][surface][side]["oneOf"]:
        name: str = choice["$ref"].rsplit("/", 1)[1]
        if SCHEMA["$defs"][name]["properties"]["type"]["enum"] == [type_]:
            return name
    raise AssertionError(f"{type_} is not in the schema")


def test_it_is_a_schema_in_which_every_reference_leads_somewhere() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    references = [part.split('"')[0] for part in json.dumps(SCHEMA).split("#/$defs/")[1:]]
    assert references and set(references) <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_sessions_are_valid(path: Any) -> None:
    sides = {"server": "server", "client": "client"}
    for line in read(path):
        for key, side in sides.items():
            event = line.get(key)
            if isinstance(event, dict) and (side == "server" or "type" in event):
                if side == "client" and not is_sound(event):
                    continue
                validator(definition_of(event["type"], "realtime", side)).validate(event)


def is_sound(event: dict[str, Any]) -> bool:
    """Whether an event is of a known type; recorded sessions hold wrong ones too."""
    return any(
        SCHEMA["$defs"][choice["$ref"].rsplit("/", 1)[1]]["properties"]["type"]["enum"] == [event["type"]]
        and validator(choice["$ref"].rsplit("/", 1)[1]).is_valid(event)
        for choice in SCHEMA["surfaces"]["realtime"]["client"]["oneOf"]
    )


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("ConversationItemTruncate", {"type": "conversation.item.truncate", "item_id": "a"}),
        ("LiveStart", {"type": "session.start", "session": {"instructions": 1}}),
        ("ResponseDone", {"type": "response.done", "response": {"status": "listening"}}),
    ],
)
def test_what_is_wrong_is_not_valid(kind: str, wrong: dict[str, Any]) -> None:
    assert not validator(kind).is_valid(wrong)


def test_keys_are_explained_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    append = SCHEMA["$defs"]["InputAudioBufferAppend"]["properties"]
    assert "half a sample" in append["audio"]["description"]
    assert "own name" in append["event_id"]["description"], "inherited keys too"
    assert "half a sample" in page()
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert main(["schema", "--page"]) == 0
    assert capsys.readouterr().out == page()
