"""What can be seen without a neural network: light, a covered lens, movement, the colour in the middle, faces.

Knows nothing about conversations; whoever owns a :class:`Sight` decides what is said aloud, and when.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from duplex_server.models.embedded.faces import FaceCounter

__all__ = ["COLOURS", "Change", "Look", "Scene", "Sight", "comment", "describe"]

Rgb = npt.NDArray[np.uint8]
_Grey = npt.NDArray[np.float32]
_Value = TypeVar("_Value")

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "grey", "black")

_LUMA: _Grey = np.array([0.299, 0.587, 0.114], np.float32) / np.float32(255)
"""Source: Rec. 601, the luma of JPEG and of webcams."""
_SIDE_PX = 64
"""Side of the grey miniature that light and movement are judged on."""
_MIN_INTERVAL_S = 0.25
"""Frames that come faster are not looked at: four looks a second find all there is to find, and cost 4 ms of CPU."""
_GAP_S = 5.0
"""After a longer pause the camera was off; what it shows now is new and not a change."""

_SMOOTH = 6 / 255
"""Spread of luma (one standard deviation) below which a picture shows nothing: a lens cap with noise has 1 to 4."""
_DARK = 0.16
"""Mean of the brightest channel below which a smooth picture is a covered lens and not a coloured card."""
_DIMMED = 0.5
"""Share of the former light below which a smooth picture is a covered lens: a hand lets some light through."""
_LIGHT_STEP = 0.13
"""Change of luma over most of the picture that is worth a word; a lamp switched on or off changes 0.15 to 0.5."""
_ADAPTATION_S = 10.0
"""Time constant with which the light is got used to: dusk is no event."""
_CHANGED = 0.6
"""Change of a pixel, in standard deviations of the picture, that is movement and not noise."""
_MIN_SPREAD = 8 / 255
"""Standard deviation assumed for flat pictures, whose noise would otherwise look like movement."""
_MOVING, _STILL = 0.08, 0.03
"""Shares of the picture that change from look to look: more is movement, less is stillness, between nothing changes."""

_HOLD_S = 0.4
"""How long, and over at least two looks, a change must last to be believed."""
_STILL_S = 6.0
"""Stillness must last this long before new movement is worth a word."""
_SETTLE_S = 2.0
"""Cameras start dark and hunt for the exposure: nothing is a change right after a start or a sudden light."""
_LIGHT_PAUSE_S, _MOTION_PAUSE_S = 10.0, 20.0
"""At most one remark of a kind in this time."""

_FACES_EVERY_S = 2.0
"""Counting takes 5 to 30 ms, in a thread that other conversations share."""


class Change(enum.Enum):
    """Kinds of things that can happen in front of a camera."""

    COVERED = "covered"
    UNCOVERED = "uncovered"
    DARKER = "darker"
    BRIGHTER = "brighter"
    MOTION_STARTED = "motion_started"
    FACES_CHANGED = "faces_changed"


@dataclass(frozen=True, slots=True)
class Scene:
    """Something that happened; it lasted long enough to be believed, and was not just reported."""

    change: Change
    faces: int = 0
    """How many there are now, for ``FACES_CHANGED``."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame shows."""

    light: float
    """Mean luma, 0 (black) .. 1 (white)."""
    covered: bool
    """Nothing can be seen: the lens is covered, or it is pitch dark."""
    motion: float
    """Share of the picture that changed since the look before, 0..1."""
    colour: str
    """The most frequent of :data:`COLOURS` in the middle ninth of the picture."""
    colour_share: float
    """The share of the middle that has it, 0..1."""
    faces: int | None
    """How many there are; None where they cannot be counted."""
    events: tuple[Scene, ...] = ()
    """What this frame made certain, in no particular order; each is reported once."""


class _Believed(Generic[_Value]):
    """A value that follows its observations only when they last."""

    def __init__(self, value: _Value) -> None:
        self.value = value
        self._candidate = value
        self._since_s = 0.0

    def observe(self, value: _Value, at_s: float, hold_s: float = _HOLD_S) -> bool:
        """Take an observation; returns whether the value changed."""
        if value != self._candidate:
            self._candidate = value
            self._since_s = at_s
        elif value != self.value and at_s - self._since_s >= hold_s:
            self.value = value
            return True
        return False

    def assume(self, value: _Value) -> None:
        """Take a value over at once."""
        self.value = self._candidate = value


class Sight:
    """One camera's pictures, in order. Used by one thread; 1 ms per look without faces."""

    def __init__(self, *, count_faces: bool = True) -> None:
        """Args: count_faces: whether to count them where OpenCV 4 is installed, 5 to 30 ms every two seconds."""
        self._face_counter = _face_counter() if count_faces else None
        self._last: Look | None = None
        self._last_s = 0.0
        self._miniature: _Grey = np.zeros((_SIDE_PX, _SIDE_PX), np.float32)
        self._usual: _Grey = self._miniature
        self._settled_s = 0.0
        self._light_pause_s = self._motion_pause_s = self._faces_s = float("-inf")
        self._covered = _Believed(False)
        self._light = _Believed(0)
        self._moving = _Believed(True)
        self._faces: _Believed[int | None] = _Believed(None)

    def look(self, rgb: Rgb, captured_s: float | None = None) -> Look:
        """Look at the next frame.

        Args:
            rgb: uint8 ``[height, width, 3]`` of any size.
            captured_s: when it was taken, on any clock that does not run backwards; if None, one second after the
                frame before. A frame within a quarter of a second of the last look gives that look, without events.
        """
        at_s = self._last_s + 1.0 if captured_s is None else captured_s
        if self._last is not None and at_s - self._last_s < _MIN_INTERVAL_S:
            return _without_events(self._last)
        small = _shrink(rgb)  # [64, 64, 3]
        miniature = _grey(small)
        if self._last is None or at_s - self._last_s > _GAP_S:
            self._forget(miniature, at_s)
        elapsed_s = at_s - self._last_s
        covered = self._is_covered(small, miniature)
        motion = 0.0 if covered else _motion(self._miniature, miniature)
        events = self._changes(miniature, covered, motion, at_s, elapsed_s)
        colour, share = _middle_colour(rgb)
        if self._face_counter is not None and at_s - self._faces_s >= _FACES_EVERY_S:
            self._faces_s = at_s
            faces = 0 if covered else self._face_counter.count(rgb)
            events += self._face_changes(faces, covered, at_s)
        self._miniature, self._last_s = miniature, at_s
        self._last = Look(float(miniature.mean()), covered, motion, colour, share, self._faces.value, tuple(events))
        return self._last

    def _forget(self, miniature: _Grey, at_s: float) -> None:
        self._miniature = self._usual = miniature
        self._last_s = at_s
        self._settled_s = at_s + _SETTLE_S
        self._light.assume(0)
        self._moving.assume(True)

    def _is_covered(self, small: _Grey, miniature: _Grey) -> bool:
        if float(miniature.std()) >= _SMOOTH:
            return False
        brightest = float(small.max(axis=2).mean()) / 255
        return brightest < _DARK or float(miniature.mean()) < _DIMMED * float(self._usual.mean())

    def _changes(self, miniature: _Grey, covered: bool, motion: float, at_s: float, elapsed_s: float) -> list[Scene]:
        settled = at_s >= self._settled_s
        if not settled and not covered:
            self._covered.assume(False)
        elif settled and self._covered.observe(covered, at_s):
            if covered:
                return [Scene(Change.COVERED)]
            self._forget(miniature, at_s)
            return [Scene(Change.UNCOVERED)]
        if covered or self._covered.value:
            return []
        if not settled:
            self._usual = miniature
            return []
        return self._light_changes(miniature, at_s, elapsed_s) + self._motion_changes(motion, at_s)

    def _light_changes(self, miniature: _Grey, at_s: float, elapsed_s: float) -> list[Scene]:
        # The median: something bright that comes into a part of the picture is not a change of light.
        shift = float(np.median(miniature - self._usual))
        direction = 0 if abs(shift) < _LIGHT_STEP else 1 if shift > 0 else -1
        if self._light.observe(direction, at_s) and direction:
            self._forget(miniature, at_s)
            if at_s >= self._light_pause_s:
                self._light_pause_s = at_s + _LIGHT_PAUSE_S
                return [Scene(Change.BRIGHTER if direction > 0 else Change.DARKER)]
        elif not direction:
            share = np.float32(min(1.0, elapsed_s / _ADAPTATION_S))
            self._usual = self._usual + share * (miniature - self._usual)
        return []

    def _motion_changes(self, motion: float, at_s: float) -> list[Scene]:
        if self._moving.value:
            self._moving.observe(motion > _STILL, at_s, _STILL_S)
        elif self._moving.observe(motion > _MOVING, at_s) and at_s >= self._motion_pause_s:
            self._motion_pause_s = at_s + _MOTION_PAUSE_S
            return [Scene(Change.MOTION_STARTED)]
        return []

    def _face_changes(self, count: int, covered: bool, at_s: float) -> list[Scene]:
        before = self._faces.value
        if before is None:
            self._faces.assume(count)
        elif self._faces.observe(count, at_s) and not covered:
            return [Scene(Change.FACES_CHANGED, faces=count)]
        return []


def _face_counter() -> FaceCounter | None:
    try:
        return FaceCounter()
    except ImportError:
        return None


def _without_events(look: Look) -> Look:
    return Look(look.light, look.covered, look.motion, look.colour, look.colour_share, look.faces)


def _grey(small: _Grey) -> _Grey:
    """Return luma 0..1: float32 ``[64, 64, 3]`` → ``[64, 64]``."""
    luma: _Grey = small @ _LUMA
    return luma


def _shrink(rgb: Rgb) -> _Grey:
    """Return the picture as float32 ``[64, 64, 3]``, 0..255, each pixel the mean of four."""
    height, width = rgb.shape[:2]
    places = (np.arange(2 * _SIDE_PX) + 0.5) / (2 * _SIDE_PX)
    rows, columns = (places * height).astype(np.intp), (places * width).astype(np.intp)
    picked: _Grey = rgb[rows[:, None], columns].astype(np.float32)  # [128, 128, 3]
    shrunk: _Grey = (picked[::2, ::2] + picked[1::2, ::2] + picked[::2, 1::2] + picked[1::2, 1::2]) * np.float32(0.25)
    return shrunk


def _motion(before: _Grey, now: _Grey) -> float:
    """Return the share of pixels that changed, 0..1, whatever the light did."""
    standardised = ((grey - grey.mean()) / max(float(grey.std()), _MIN_SPREAD) for grey in (before, now))
    return float((np.abs(next(standardised) - next(standardised)) > _CHANGED).mean())


def _middle_colour(rgb: Rgb) -> tuple[str, float]:
    """Return the most frequent colour of the middle ninth, and its share there."""
    height, width = rgb.shape[:2]
    rows = np.linspace(height // 3, max(height // 3, 2 * height // 3 - 1), 32).astype(np.intp)
    columns = np.linspace(width // 3, max(width // 3, 2 * width // 3 - 1), 32).astype(np.intp)
    names = _colour_indices(rgb[rows[:, None], columns].reshape(-1, 3))
    counts = np.bincount(names, minlength=len(COLOURS))
    most = int(counts.argmax())
    return COLOURS[most], float(counts[most] / counts.sum())


def _colour_indices(rgb: Rgb) -> npt.NDArray[np.intp]:
    """Name pixels: uint8 ``[n, 3]`` → indices of :data:`COLOURS` ``[n]``."""
    red, green, blue = (rgb.astype(np.float32) / 255).T
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1e-6)
    saturation = chroma / np.maximum(value, 1e-6)
    sector = np.select(
        [value == red, value == green],
        [((green - blue) / divisor) % 6, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    hue = sector * 60  # degrees
    # Hues at which people change the name, for lights and dyes that a webcam delivers.
    edges = np.array([14, 42, 68, 165, 195, 255, 290, 345])
    names = np.searchsorted(edges, hue, side="right") % len(edges)
    names = np.where((hue >= 14) & (hue < 45) & (value < 0.62), COLOURS.index("brown"), names)
    reddish = (hue >= 345) | (hue < 14)
    names = np.where(reddish & (saturation < 0.5) & (value > 0.7), COLOURS.index("pink"), names)
    grey = np.select(
        [value > 0.62, value > 0.22], [COLOURS.index("white"), COLOURS.index("grey")], COLOURS.index("black")
    )
    named: npt.NDArray[np.intp] = np.where((saturation < 0.18) | (value < 0.13), grey, names)
    return named


_LIGHT_WORDS = {
    "en": (
        (0.12, "It is very dark."),
        (0.3, "The light is dim."),
        (0.7, "The light is good."),
        (1.1, "It is very bright."),
    ),
    "zh": ((0.12, "光线很暗。"), (0.3, "光线有点暗。"), (0.7, "光线很好。"), (1.1, "光线很亮。")),
}
"""What to say of light below each level."""
_COLOUR_WORDS = {
    "en": {colour: colour for colour in COLOURS},
    "zh": dict(
        zip(COLOURS, ("红", "橙", "黄", "绿", "青", "蓝", "紫", "粉", "棕", "白", "灰", "黑"), strict=True),
    ),
}
_BLIND_WORDS = {
    "en": "I cannot see anything. It is pitch dark, or something covers the camera.",
    "zh": "我什么也看不见。可能太黑了，也可能摄像头被挡住了。",
}
_MOSTLY, _PARTLY = 0.6, 0.35
"""Shares of the middle from which a colour is called the main one, or one that is there at all."""
_MIDDLE_WORDS = {
    "en": ("In the middle I see mostly {}.", "In the middle I see some {}.", "In the middle I see many colours."),
    "zh": ("画面中间主要是{}色。", "画面中间有一些{}色。", "画面中间有很多颜色。"),
}
_MOVING_WORDS = {"en": "Something is moving.", "zh": "有东西在动。"}
_COMMENTS = {
    "en": {
        Change.COVERED: "Oh, I cannot see anything any more.",
        Change.UNCOVERED: "Ah, now I can see again.",
        Change.DARKER: "It just got darker.",
        Change.BRIGHTER: "It just got brighter.",
        Change.MOTION_STARTED: "I see something moving.",
    },
    "zh": {
        Change.COVERED: "哎呀，我什么也看不见了。",
        Change.UNCOVERED: "啊，我又能看见了。",
        Change.DARKER: "光线变暗了。",
        Change.BRIGHTER: "光线变亮了。",
        Change.MOTION_STARTED: "我看到有东西在动。",
    },
}


def describe(look: Look, language: str) -> str:
    """Say in a few short sentences what a look shows; in English where the language is not Chinese."""
    key = _language(language)
    if look.covered:
        return _BLIND_WORDS[key]
    sentences = [next(words for level, words in _LIGHT_WORDS[key] if look.light < level)]
    mostly, partly, many = _MIDDLE_WORDS[key]
    middle = mostly if look.colour_share >= _MOSTLY else partly if look.colour_share >= _PARTLY else many
    sentences.append(middle.format(_COLOUR_WORDS[key][look.colour]))
    if look.motion > _MOVING:
        sentences.append(_MOVING_WORDS[key])
    if look.faces:
        sentences.append(_faces_words(look.faces, key))
    return ("" if key == "zh" else " ").join(sentences)


def comment(event: Scene, language: str) -> str:
    """Say in one short sentence what happened; in English where the language is not Chinese."""
    key = _language(language)
    if event.change is Change.FACES_CHANGED:
        return _faces_words(event.faces, key)
    return _COMMENTS[key][event.change]


def _language(language: str) -> str:
    return "zh" if language.lower().split("-")[0] == "zh" else "en"


def _faces_words(faces: int, key: str) -> str:
    if key == "zh":
        return f"我看到{'两' if faces == 2 else faces}张脸。" if faces else "我看不到人脸了。"
    if not faces:
        return "I see nobody now."
    return "I see one face." if faces == 1 else f"I see {faces} faces."
