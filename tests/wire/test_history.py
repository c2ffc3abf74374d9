from __future__ import annotations

from duplex_server.wire import history as limits
from duplex_server.wire.history import Given, History, Spoken
from duplex_server.wire.objects import InputImagePart, InputTextPart, MessageItem


def _words(text: str = "hello") -> Given:
    return Given(MessageItem(role="user", content=[InputTextPart(text=text)]))


def _picture() -> Given:
    return Given(MessageItem(role="user", content=[InputImagePart()]), is_picture=True)


def _ids(history: History) -> list[str]:
    return list(history._order)


def test_the_oldest_items_go_when_there_are_too_many() -> None:
    history = History()
    for n in range(limits.MAX_ITEMS + 3):
        history.add(f"i{n}", _words())
    assert len(_ids(history)) == limits.MAX_ITEMS
    assert _ids(history)[0] == "i3"
    assert history.was_forgotten("i2")
    assert not history.was_forgotten("i3")


def test_the_oldest_items_go_when_there_is_too_much_text() -> None:
    history = History()
    for n in range(5):
        history.add(f"i{n}", _words("x" * (limits.MAX_CHARS // 3)))
    assert _ids(history) == ["i2", "i3", "i4"]


def test_speech_counts_as_text() -> None:
    history = History()
    spoken = Spoken("s")
    spoken.add_text("x" * limits.MAX_CHARS, 0)
    history.add("s", spoken)
    assert _ids(history) == ["s"]
    history.add("i", _words())
    assert _ids(history) == ["i"]


def test_an_item_put_first_is_not_the_first_to_go() -> None:
    history = History()
    for n in range(limits.MAX_ITEMS):
        history.add(f"i{n}", _words())
    history.add("new", _words(), first=True)
    assert _ids(history)[:2] == ["new", "i1"]


def test_only_the_newest_pictures_are_kept() -> None:
    history = History()
    for n in range(6):
        history.add(f"p{n}", _picture())
        history.add(f"i{n}", _words())
    assert [item_id for item_id in _ids(history) if item_id.startswith("p")] == ["p2", "p3", "p4", "p5"]
    assert len([item_id for item_id in _ids(history) if item_id.startswith("i")]) == 6


def test_the_memory_of_forgotten_ids_is_bounded() -> None:
    history = History()
    for n in range(limits.MAX_FORGOTTEN + limits.MAX_PICTURES + 10):
        history.add(f"p{n}", _picture())
    assert not history.was_forgotten("p9")
    assert history.was_forgotten("p10")


def test_the_item_before_is_told() -> None:
    history = History()
    assert history.add("a", _words()) is None
    assert history.add("b", _words()) == "a"
    assert history.add("c", _words(), after="a") == "a"
    assert _ids(history) == ["a", "c", "b"]


def test_removing_tells_whether_there_was_anything() -> None:
    history = History()
    history.add("a", _words())
    assert history.remove("a")
    assert not history.remove("a")
