from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.requests import AddText, AppendAudio, AppendImage
from tests.helpers.wire_driver import WireDriver, types_of

JPEG = b"\xff\xd8\xff\xe0picture"
DATA_URL = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()


def _message(text: str = "hello", role: str = "user", **fields: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}


def _create(driver: WireDriver, item: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return driver.client("conversation.item.create", event_id="c1", item=item, **fields)


def _error(events: list[dict[str, Any]]) -> tuple[str, str]:
    (event,) = events
    assert event["type"] == "error"
    assert event["error"]["event_id"] == "c1"
    return event["error"]["code"], event["error"]["param"]


def test_a_typed_message_is_handed_on_under_the_clients_id() -> None:
    driver = WireDriver()
    added, done = _create(driver, _message("What time is it?", id="mine", status="in_progress"))
    assert types_of((added, done)) == ["conversation.item.added", "conversation.item.done"]
    assert added["item"] == done["item"]
    assert added["item"] == {
        "type": "message",
        "role": "user",
        "id": "mine",
        "object": "realtime.item",
        "status": "completed",
        "content": [{"type": "input_text", "text": "What time is it?"}],
    }
    assert driver.take_requests() == [AddText("What time is it?")]


def test_items_without_an_id_get_one() -> None:
    driver = WireDriver()
    ids = [_create(driver, _message())[0]["item"]["id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(item_id.startswith("item_") for item_id in ids)


def test_a_made_up_id_of_ours_does_not_clash() -> None:
    driver = WireDriver()
    first = _create(driver, _message())[0]["item"]["id"]
    guessed = f"{first[:-1]}{int(first[-1]) + 1}"
    _create(driver, _message(id=guessed))
    assert _create(driver, _message())[0]["item"]["id"] not in (first, guessed)


@pytest.mark.parametrize(
    ("role", "requests"), [("user", [AddText("hello")]), ("system", [AddText("hello")]), ("assistant", [])]
)
def test_what_the_model_is_told_depends_on_the_role(role: str, requests: list[Any]) -> None:
    driver = WireDriver()
    _create(driver, _message(role=role))
    assert driver.take_requests() == requests


def test_pictures_and_audio_are_handed_on_and_not_sent_back() -> None:
    driver = WireDriver()
    pcm = np.array([0, 16384], "<i2").tobytes()
    content = [
        {"type": "input_image", "image_url": DATA_URL, "detail": "low"},
        {"type": "input_audio", "audio": base64.b64encode(pcm).decode()},
        {"type": "input_text", "text": "  "},
    ]
    added, _ = _create(driver, {"type": "message", "role": "user", "content": content})
    assert added["item"]["content"] == [
        {"type": "input_image"},
        {"type": "input_audio", "transcript": None},
        {"type": "input_text", "text": "  "},
    ]
    image, audio = driver.take_requests()
    assert image == AppendImage(JPEG, None, "c1")
    assert isinstance(audio, AppendAudio)
    assert (audio.pcm.tolist(), audio.rate_hz) == ([0, 0.5], 24_000)


def test_tool_items_are_kept() -> None:
    driver = WireDriver()
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c", "id": "call"}
    output = {"type": "function_call_output", "call_id": "c", "output": "42", "id": "output"}
    for item in (call, output):
        added, _ = _create(driver, item)
        assert added["item"] == {**item, "object": "realtime.item", "status": "completed"}
    assert driver.requests == []


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        (_message(id=""), "invalid_value", "item.id"),
        (_message(id="x" * 129), "invalid_value", "item.id"),
        (_message("x" * 65_537), "invalid_value", "item.content[0].text"),
        ({**_message(), "role": "assistant"}, "invalid_value", "item.content[0].type"),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_image"}]},
            "missing_required_parameter",
            "item.content[0].image_url",
        ),
        *(
            (
                {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]},
                "invalid_value",
                "item.content[0].image_url",
            )
            for url in (
                "https://example.org/cat.jpg",
                "data:image/jpeg;base64,%%%",
                "data:image/jpeg;base64,",
                "data:text/html;base64,AAAA",
                "data:image/jpeg,AAAA",
                "data:image/jpeg;base64,é",
            )
        ),
        (
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 12_000_000}],
            },
            "limit_exceeded",
            "item.content[0].image_url",
        ),
        ({"type": "function_call_output", "call_id": "c", "output": "x" * 65_537}, "invalid_value", "item.output"),
        (
            {"type": "function_call", "name": "f", "arguments": "x" * 65_537, "call_id": "c"},
            "invalid_value",
            "item.arguments",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(item: dict[str, Any], code: str, param: str) -> None:
    driver = WireDriver()
    assert _error(_create(driver, item)) == (code, param)
    assert driver.requests == []


def test_an_item_that_is_wrong_in_its_last_part_asks_for_nothing() -> None:
    driver = WireDriver()
    item = _message()
    item["content"].append({"type": "input_image", "image_url": "data:image/png;base64,?"})
    assert _error(_create(driver, item))[1] == "item.content[1].image_url"
    assert driver.requests == []


def test_an_id_is_used_once() -> None:
    driver = WireDriver()
    _create(driver, _message(id="mine"))
    assert _error(_create(driver, _message(id="mine"))) == ("item_create_duplicate_item_id", "item.id")
    (started,) = driver.tell(driver.dialogue.speech_started(5))
    announced = started["item_id"]
    assert _error(_create(driver, _message(id=announced)))[0] == "item_create_duplicate_item_id"
    driver.client("conversation.item.delete", item_id="mine")
    assert types_of(_create(driver, _message(id="mine")))[0] == "conversation.item.added"


def test_items_can_be_put_anywhere() -> None:
    driver = WireDriver()
    for item_id, after, previous in (
        ("a", None, None),
        ("b", None, "a"),
        ("c", "a", "a"),
        ("d", "root", None),
        ("e", None, "b"),
    ):
        added, done = _create(driver, _message(id=item_id), previous_item_id=after)
        assert added["previous_item_id"] == done["previous_item_id"] == previous
    assert _error(_create(driver, _message(), previous_item_id="x")) == ("invalid_value", "previous_item_id")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("retrieve", "item_retrieve_invalid_item_id"),
        ("delete", "item_delete_invalid_item_id"),
        ("truncate", "item_truncate_invalid_item_id"),
    ],
)
def test_an_unknown_item_is_refused_with_the_code_that_clients_wait_for(kind: str, code: str) -> None:
    driver = WireDriver()
    fields = {"audio_end_ms": 5, "content_index": 0} if kind == "truncate" else {}
    answer = driver.client(f"conversation.item.{kind}", event_id="c1", item_id="item_x", **fields)
    assert _error(answer) == (code, "item_id")


def _truncate(driver: WireDriver, item_id: str, end_ms: float, index: int = 0) -> list[dict[str, Any]]:
    return driver.client(
        "conversation.item.truncate", event_id="c1", item_id=item_id, content_index=index, audio_end_ms=end_ms
    )


def _transcript(driver: WireDriver, item_id: str) -> Any:
    (shown,) = driver.client("conversation.item.retrieve", item_id=item_id)
    return shown["item"]["content"][0]["transcript"]


@pytest.mark.parametrize(
    ("asked", "end_ms", "transcript"),
    [(0, 0, ""), (-7, 0, ""), (1, 1, "It is "), (150.7, 150, "It is "), (201, 200, "It is "), (10**9, 200, "It is ")],
)
@pytest.mark.parametrize("running", [False, True])
def test_truncation_is_clamped_and_acknowledged(asked: float, end_ms: int, transcript: str, running: bool) -> None:
    driver = WireDriver()
    driver.speak()
    item_id = driver.sent[2]["item"]["id"]
    if not running:
        driver.tell(driver.dialogue.end_response(1, Outcome.INTERRUPTED, 100))
    (truncated,) = _truncate(driver, item_id, asked)
    assert truncated["type"] == "conversation.item.truncated"
    assert (truncated["audio_end_ms"], truncated["content_index"]) == (end_ms, 0)
    assert _transcript(driver, item_id) == transcript


def test_truncating_again_never_brings_words_back() -> None:
    driver = WireDriver()
    driver.speak()
    item_id = driver.sent[2]["item"]["id"]
    ends = [_truncate(driver, item_id, end_ms)[0]["audio_end_ms"] for end_ms in (150, 0, 200)]
    assert ends == [150, 0, 0]
    assert _transcript(driver, item_id) == ""


def test_truncation_does_not_change_what_was_streamed() -> None:
    driver = WireDriver()
    driver.speak()
    item_id = driver.sent[2]["item"]["id"]
    _truncate(driver, item_id, 0)
    closing = driver.tell(driver.dialogue.end_response(1, Outcome.INTERRUPTED, 0))
    assert closing[1]["transcript"] == "It is noon."


def test_only_what_the_assistant_said_is_truncated() -> None:
    driver = WireDriver()
    _create(driver, _message(id="users"))
    _create(driver, _message(id="restored", role="assistant"))
    assert _error(_truncate(driver, "users", 5)) == ("unsupported_content_type", "item_id")
    assert _truncate(driver, "restored", 5)[0]["audio_end_ms"] == 0
    driver.speak()
    item_id = next(event["item_id"] for event in driver.sent if "item_id" in event and "part" in event)
    assert _error(_truncate(driver, item_id, 5, index=1)) == ("invalid_value", "content_index")


def test_a_deleted_item_is_gone() -> None:
    driver = WireDriver()
    _create(driver, _message(id="mine"))
    assert types_of(driver.client("conversation.item.delete", item_id="mine")) == ["conversation.item.deleted"]
    answer = driver.client("conversation.item.retrieve", event_id="c1", item_id="mine")
    assert _error(answer)[0] == "item_retrieve_invalid_item_id"


def test_deleting_an_item_that_is_being_spoken_does_not_stop_it() -> None:
    driver = WireDriver()
    driver.speak()
    driver.client("conversation.item.delete", item_id=driver.sent[2]["item"]["id"])
    driver.tell(driver.dialogue.text(1, " Sharp.", 200))
    closing = driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    assert closing[1]["transcript"] == "It is noon. Sharp."


def test_a_camera_does_not_fill_the_history() -> None:
    driver = WireDriver()
    _create(driver, _message(id="words"))
    frame = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": DATA_URL}]}
    ids = [_create(driver, frame)[0]["item"]["id"] for _ in range(10)]
    kept = [item_id for item_id in ["words", *ids] if item_id in driver.dialogue._history]
    assert kept == ["words", *ids[-4:]]
    # What clients may still say of one that had to go is no error.
    assert types_of(_create(driver, _message(), previous_item_id=ids[0]))[0] == "conversation.item.added"
    assert types_of(_truncate(driver, ids[0], 5)) == ["conversation.item.truncated"]
    assert types_of(driver.client("conversation.item.delete", item_id=ids[0])) == ["conversation.item.deleted"]
