"""Tests of what can be seen: pictures made here, from a black frame to a face that a few ellipses suggest."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from duplex_server.models.embedded.faces import FaceCounter
from duplex_server.models.embedded.sight import COLOURS, Change, Look, Scene, Sight, comment, describe

Rgb = npt.NDArray[np.uint8]

CARDS = {
    "red": (200, 20, 30),
    "orange": (250, 130, 20),
    "yellow": (240, 220, 30),
    "green": (30, 160, 50),
    "cyan": (30, 210, 220),
    "blue": (30, 60, 200),
    "purple": (130, 40, 190),
    "pink": (250, 150, 190),
    "brown": (120, 70, 30),
    "white": (235, 235, 235),
    "grey": (125, 125, 125),
    "black": (12, 12, 12),
}
DARK_COVER = np.full((448, 448, 3), 6, np.uint8)


def has_opencv_4() -> bool:
    try:
        FaceCounter()
    except ImportError:
        return False
    return True


with_faces = pytest.mark.skipif(not has_opencv_4(), reason="OpenCV 4 is not installed (extra `faces`)")


def room(light: float = 1.0, *, moved_px: int = 0, seed: int = 1) -> Rgb:
    """Draw something with walls, furniture and a person-sized thing that can be moved aside."""
    generator = np.random.default_rng(7)
    picture = np.full((448, 448, 3), 150.0)
    for _ in range(40):
        top, left = generator.integers(0, 380, 2)
        height, width = generator.integers(20, 120, 2)
        picture[top : top + height, left : left + width] = generator.integers(40, 240, 3)
    left = 120 + moved_px
    picture[150:448, left : left + 160] = (180, 140, 110)
    picture[280:448, left : left + 160] = (40, 60, 120)
    noise = np.random.default_rng(seed).normal(0, 3, picture.shape)
    return np.clip(picture * light + noise, 0, 255).astype(np.uint8)


def card(colour: str, light: float = 1.0) -> Rgb:
    """Hold a coloured card in front of the middle of the room."""
    picture = room(light)
    picture[120:330, 120:330] = np.asarray(CARDS[colour]) * light
    return picture


def cover(level: int = 8) -> Rgb:
    """Cover the lens: dark, with the noise that a sensor has."""
    noise = np.random.default_rng(level).normal(0, 2, (448, 448, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def drawn_face(faces: int = 1) -> Rgb:
    """Draw faces that a detector of faces takes for some: hair, brows, eyes, nose, mouth."""
    size = 448
    y, x = np.mgrid[:size, :size].astype(np.float64)
    picture = np.full((size, size), 150.0)

    def ellipse(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], wide: float, high: float, grey: float) -> None:
        picture[(u / wide) ** 2 + (v / high) ** 2 < 1] = grey

    for number in range(faces):
        radius = 100 if faces == 1 else 70
        u, v = (x - size * (number + 1) / (faces + 1)) / radius, (y - size / 2) / radius
        ellipse(u, v + 0.25, 1.05, 1.45, 50)
        ellipse(u, v, 0.82, 1.15, 195)
        for side in (-1, 1):
            ellipse(u - side * 0.36, v + 0.2, 0.22, 0.10, 60)
            ellipse(u - side * 0.36, v + 0.42, 0.27, 0.06, 70)
        ellipse(u, v - 0.02, 0.12, 0.3, 215)
        ellipse(u, v - 0.6, 0.34, 0.09, 100)
    return np.repeat(picture.astype(np.uint8)[..., None], 3, axis=2)


def watch(pictures: Iterable[Rgb], *, every_s: float = 1.0, sight: Sight | None = None) -> list[tuple[float, Scene]]:
    """Show pictures at a steady pace, from the time 0; returns what happened and when."""
    sight = sight or Sight(count_faces=False)
    shown = ((index * every_s, picture) for index, picture in enumerate(pictures))
    return [(at_s, event) for at_s, picture in shown for event in sight.look(picture, at_s).events]


def changes(events: Sequence[tuple[float, Scene]]) -> list[Change]:
    return [event.change for _, event in events]


def still(light: float, times: int) -> list[Rgb]:
    return [room(light, seed=seed) for seed in range(times)]


def test_a_black_frame_is_covered_and_dark() -> None:
    look = Sight(count_faces=False).look(np.zeros((448, 448, 3), np.uint8))
    assert look.covered
    assert look.light == 0
    assert look.colour == "black"


def test_a_dark_room_is_dark_and_not_covered() -> None:
    look = Sight(count_faces=False).look(room(0.15))
    assert not look.covered
    assert look.light < 0.12


def test_light_is_the_mean_luma() -> None:
    grey = np.full((448, 448, 3), 51, np.uint8)
    assert Sight(count_faces=False).look(grey).light == pytest.approx(0.2, abs=0.001)
    green = np.zeros((448, 448, 3), np.uint8)
    green[..., 1] = 255
    assert Sight(count_faces=False).look(green).light == pytest.approx(0.587, abs=0.001)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("light", [1.0, 0.8])
def test_a_card_in_the_middle_has_its_colour(colour: str, light: float) -> None:
    look = Sight(count_faces=False).look(card(colour, light))
    assert look.colour == colour
    assert look.colour_share > 0.9


@pytest.mark.parametrize("colour", [colour for colour in COLOURS if colour != "black"])
def test_a_card_that_fills_the_picture_is_not_a_covered_lens(colour: str) -> None:
    picture = np.broadcast_to(np.asarray(CARDS[colour], np.uint8), (448, 448, 3))
    look = Sight(count_faces=False).look(picture)
    assert look.colour == colour
    assert not look.covered


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (63, 64), (336, 448), (448, 252), (1080, 1920)])
def test_pictures_of_any_size_are_seen(size: tuple[int, int]) -> None:
    sight = Sight(count_faces=False)
    picture = np.full((*size, 3), CARDS["green"], np.uint8)
    assert sight.look(picture).colour == "green"
    assert sight.look(picture).motion == 0


def test_covering_and_uncovering_the_lens_are_one_event_each() -> None:
    events = watch([*still(1, 4), *[cover()] * 5, *still(1, 5)])
    assert changes(events) == [Change.COVERED, Change.UNCOVERED]
    assert events[0][0] == 5, "the second covered frame makes it certain"
    assert events[1][0] == 10


def test_a_hand_that_lets_light_through_covers_too() -> None:
    assert changes(watch([*still(1, 4), *[cover(60)] * 3])) == [Change.COVERED]


def test_a_blink_is_no_event() -> None:
    assert watch([*still(1, 4), cover(), *still(1, 4), cover(), *still(1, 4)]) == []


def test_a_camera_that_starts_black_and_finds_its_exposure_causes_no_event() -> None:
    assert watch([DARK_COVER, room(0.3), room(0.7), *still(1, 8)], every_s=0.5) == []


def test_a_camera_that_stays_covered_from_the_start_is_reported_once() -> None:
    assert changes(watch([DARK_COVER] * 10)) == [Change.COVERED]


@pytest.mark.parametrize(("before", "after", "change"), [(1, 0.4, Change.DARKER), (0.4, 1, Change.BRIGHTER)])
def test_a_lamp_is_one_event(before: float, after: float, change: Change) -> None:
    events = watch([*still(before, 4), *still(after, 20)])
    assert changes(events) == [change]
    assert events[0][0] == 5


def test_a_flickering_lamp_is_one_event_in_ten_seconds() -> None:
    pictures = [*still(1, 4), *(room(light, seed=index) for index in range(20) for light in (0.4, 0.4, 1, 1))]
    at_s = [at_s for at_s, event in watch(pictures) if event.change in (Change.DARKER, Change.BRIGHTER)]
    assert len(at_s) >= 1
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(at_s))


def test_dusk_is_no_event() -> None:
    assert watch(room(light, seed=index) for index, light in enumerate(np.linspace(1, 0.3, 90))) == []


def test_a_bright_thing_in_part_of_the_picture_is_not_more_light() -> None:
    pictures = still(0.5, 12)
    for picture in pictures[4:]:
        picture[100:300, 100:300] = 250
    assert not {Change.BRIGHTER, Change.DARKER} & set(changes(watch(pictures)))


def test_movement_after_stillness_is_one_event() -> None:
    moving = [room(moved_px=40 * (index % 4)) for index in range(10)]
    events = watch([*still(1, 12), *moving])
    assert changes(events) == [Change.MOTION_STARTED]
    assert 12 <= events[0][0] <= 14


def test_movement_from_the_start_is_no_event() -> None:
    assert watch(room(moved_px=40 * (index % 4)) for index in range(20)) == []


def test_motion_is_the_share_that_moved_and_noise_is_none() -> None:
    sight = Sight(count_faces=False)
    sight.look(room(seed=1), 0.0)
    assert sight.look(room(seed=2), 1.0).motion < 0.01
    assert sight.look(room(seed=3, moved_px=60), 2.0).motion > 0.1


def test_a_change_of_light_is_not_motion() -> None:
    sight = Sight(count_faces=False)
    sight.look(room(1), 0.0)
    assert sight.look(room(0.7), 1.0).motion < 0.03


def test_a_fast_video_gives_the_same_events_as_stills() -> None:
    lamp = [*still(1, 5), *still(0.4, 5)]
    assert changes(watch((picture for picture in lamp for _ in range(25)), every_s=0.04)) == [Change.DARKER]


def test_frames_in_quick_succession_repeat_the_last_look_without_its_events() -> None:
    sight = Sight(count_faces=False)
    for second in range(4):
        sight.look(room(seed=second), float(second))
    sight.look(DARK_COVER, 4.0)
    certain = sight.look(DARK_COVER, 5.0)
    assert certain.events
    again = sight.look(room(), 5.1)
    assert again.covered
    assert again.events == ()


def test_what_a_camera_shows_after_a_pause_is_new_and_no_change() -> None:
    sight = Sight(count_faces=False)
    for second in range(4):
        sight.look(room(1, seed=second), float(second))
    later = [sight.look(room(0.4, seed=second), 60.0 + second) for second in range(6)]
    assert [look.events for look in later] == [()] * 6


def test_two_cameras_share_nothing() -> None:
    first, second = Sight(count_faces=False), Sight(count_faces=False)
    for at_s in range(4):
        first.look(room(seed=at_s), float(at_s))
        second.look(room(0.4, seed=at_s), float(at_s))
    assert [first.look(cover(), at_s).events for at_s in (4.0, 5.0)] == [(), (Scene(Change.COVERED),)]
    assert [second.look(room(0.4), at_s).events for at_s in (4.0, 5.0)] == [(), ()]


def test_without_opencv_faces_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert Sight().look(drawn_face()).faces is None


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed (extra `faces`)")
def test_opencv_without_cascades_counts_no_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.delattr(cv2, "data", raising=False)
    assert Sight().look(drawn_face()).faces is None


@with_faces
def test_faces_are_counted() -> None:
    assert Sight().look(room()).faces == 0
    assert Sight().look(drawn_face(1)).faces == 1
    assert Sight().look(drawn_face(2)).faces == 2


@with_faces
def test_a_face_that_stays_is_one_event_with_the_new_number() -> None:
    events = watch([*[drawn_face(1)] * 6, *[drawn_face(2)] * 8], sight=Sight())
    assert [event for _, event in events if event.change is Change.FACES_CHANGED] == [
        Scene(Change.FACES_CHANGED, faces=2)
    ]


def look_of(**fields: object) -> Look:
    values: dict[str, object] = {
        "light": 0.5,
        "covered": False,
        "motion": 0.0,
        "colour": "red",
        "colour_share": 0.9,
        "faces": None,
    }
    return Look(**(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("look", "english", "chinese"),
    [
        (look_of(), "The light is good. In the middle I see mostly red.", "光线很好。画面中间主要是红色。"),
        (
            look_of(light=0.05, colour="blue", colour_share=0.4, motion=0.3),
            "It is very dark. In the middle I see some blue. Something is moving.",
            "光线很暗。画面中间有一些蓝色。有东西在动。",
        ),
        (
            look_of(light=1.0, colour_share=0.2, faces=2),
            "It is very bright. In the middle I see many colours. I see 2 faces.",
            "光线很亮。画面中间有很多颜色。我看到两张脸。",
        ),
        (
            look_of(covered=True, faces=1),
            "I cannot see anything. It is pitch dark, or something covers the camera.",
            "我什么也看不见。可能太黑了，也可能摄像头被挡住了。",
        ),
    ],
)
def test_a_look_is_described(look: Look, english: str, chinese: str) -> None:
    assert describe(look, "en-GB") == english
    assert describe(look, "zh-CN") == chinese


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("faces", [0, 1, 2, 5])
def test_every_event_has_a_comment_in_both_languages(change: Change, faces: int) -> None:
    event = Scene(change, faces)
    assert comment(event, "en").isascii()
    assert comment(event, "en").endswith(".")
    assert not comment(event, "zh").isascii()
    assert comment(event, "zh").endswith("。")
    assert comment(event, "fr") == comment(event, "en")
