from __future__ import annotations

from typing import Any

from duplex_server.types import ModelSpec, Refusal
from duplex_server.wire.requests import Configure
from tests.helpers.wire_driver import WireDriver, types_of
from tests.wire.test_voice_reference import wav

CLONER = ModelSpec(name="cloner", unit_ms=40, voices=("calm", "bright"), clones_voices=True)


class Refusing:
    """A conversation with a model that refuses some set-ups, as a client sees it."""

    def __init__(self, spec: ModelSpec | None = None) -> None:
        self.driver = WireDriver(spec=spec) if spec else WireDriver()

    def update(self, event_id: str = "", **session: Any) -> Configure:
        self.driver.client("session.update", session=session, event_id=event_id)
        (request,) = self.asked()
        return request

    def asked(self) -> list[Configure]:
        requests = [request for request in self.driver.requests if isinstance(request, Configure)]
        self.driver.requests.clear()
        return requests

    def refuse(self, revision: int | None, param: str = "session.instructions") -> list[dict[str, Any]]:
        reply = self.driver.dialogue.setups.refused(Refusal("It is too long.", param, revision))
        self.driver.requests += reply.requests
        return self.driver.tell(reply.events)


def test_what_held_before_holds_again() -> None:
    client = Refusing()
    assert client.update(instructions="Be brief.").setup.revision == 1
    refused = client.update("ev_7", instructions="x" * 9000, audio={"output": {"voice": "bright"}})
    error, updated = client.refuse(refused.setup.revision)
    assert error["type"] == "error" and error["error"]["event_id"] == "ev_7"
    assert (error["error"]["code"], error["error"]["param"]) == ("invalid_value", "session.instructions")
    assert updated["type"] == "session.updated" and updated["session"]["instructions"] == "Be brief."
    assert updated["session"]["audio"]["output"]["voice"] == "calm", "an update is applied whole or not at all"
    (again,) = client.asked()
    assert (again.setup.instructions, again.setup.voice, again.setup.revision) == ("Be brief.", "calm", 3)


def test_what_the_model_was_opened_with_is_the_last_resort() -> None:
    """Set-ups between two units are one to a model: it may refuse one for what came with another."""
    client = Refusing()
    for n in range(3):
        client.update(instructions=f"no. {n}")
    for revision in (3, 4, 5):
        client.refuse(revision)
    held = [request.setup.instructions for request in client.asked()]
    assert held == ["no. 1", "no. 0", ""]
    assert client.driver.dialogue.session.instructions == ""


def test_only_the_newest_is_gone_back_from() -> None:
    client = Refusing()
    client.update(instructions="too long")
    client.update(instructions="short")
    assert types_of(client.refuse(1)) == ["error"]
    assert client.driver.dialogue.session.instructions == "short" and client.asked() == []
    client.refuse(2)
    assert client.driver.dialogue.session.instructions == "", "not the one that was refused before"


def test_other_settings_stay() -> None:
    client = Refusing()
    update = client.update(instructions="too long", extra_body={"language": "zh"}, output_modalities=["text"])
    _, updated = client.refuse(update.setup.revision)
    assert updated["session"]["output_modalities"] == ["text"]
    assert updated["session"]["extra_body"]["language"] == "zh"


def test_a_recording_that_is_no_voice_is_given_up() -> None:
    client = Refusing(CLONER)
    update = client.update(ref_audio=wav())
    assert update.reference is not None
    error, updated = client.refuse(update.setup.revision, "session.ref_audio")
    assert error["error"]["param"] == "session.ref_audio"
    assert updated["session"]["audio"]["output"]["voice"] == "calm"
    (again,) = client.asked()
    assert again.reference is None


def test_what_is_no_set_up_changes_none() -> None:
    client = Refusing()
    client.update(instructions="Be brief.")
    assert types_of(client.refuse(None, "item.content")) == ["error"]
    assert types_of(client.refuse(99)) == ["error"]
    assert client.driver.dialogue.session.instructions == "Be brief." and client.asked() == []


def test_what_is_kept_is_bounded() -> None:
    client = Refusing()
    for n in range(1000):
        client.update(instructions=f"no. {n}")
    assert len(client.driver.dialogue.setups._asked) == 17
    client.refuse(1000)
    assert client.driver.dialogue.session.instructions == "no. 998"
