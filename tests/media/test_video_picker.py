from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.video_picker import (
    ASK_AGAIN_S,
    IGNORED_ASKS,
    MAX_CHAIN_BYTES,
    MAX_PX_PER_S,
    SHORT_CHAIN,
    Choice,
    PicturePicker,
)
from duplex_server.media.video_picture import CodedPicture, VideoCodec

VGA = 640, 480


def picture(
    *, key: bool = False, size_px: tuple[int, int] = VGA, disposable: bool = False, n_bytes: int = 3
) -> CodedPicture:
    return CodedPicture(VideoCodec.VP8, bytes(n_bytes), key, disposable, size_px if key else None)


class Filming:
    """A sender with a clock, and the picker that looks at what it sends.

    Attributes:
        choices: what was chosen, with the time.
    """

    def __init__(
        self, *, per_s: float, every_s: float = 1.0, answers_after_s: float | None = 0.1, size_px: tuple[int, int] = VGA
    ) -> None:
        self.picker = PicturePicker(every_s, 10_000_000)
        self.per_s, self.answers_after_s, self.size_px = per_s, answers_after_s, size_px
        self.choices: list[tuple[float, Choice]] = []
        self.now_s = 100.0
        self.n_sent = 0
        self.intact = True
        self._asked: list[float] = []

    def film(self, seconds: float) -> list[tuple[float, Choice]]:
        """Send for a while; returns what was chosen meanwhile."""
        before = len(self.choices)
        for _ in range(round(seconds * self.per_s)):
            next_s = self.now_s + 1 / self.per_s
            while (deadline_s := self.picker.deadline_s) is not None and deadline_s < next_s:
                self.now_s = deadline_s
                self.choose()
            self.now_s = next_s
            due = [
                s for s in self._asked if self.answers_after_s is not None and self.now_s >= s + self.answers_after_s
            ]
            key = not self.n_sent or bool(due)
            self._asked = [s for s in self._asked if s not in due]
            self.intact |= key
            if self.intact:
                self.picker.put(picture(key=key, size_px=self.size_px))
            self.n_sent += 1
            self.choose()
        return self.choices[before:]

    def choose(self) -> None:
        choice = self.picker.choose(self.now_s, intact=self.intact)
        if choice.ask:
            self._asked.append(self.now_s)
        if choice != Choice():
            self.choices.append((self.now_s, choice))
        if choice.pictures:
            self.picker.done(decoded=True)


def looks(choices: list[tuple[float, Choice]]) -> list[tuple[float, int]]:
    return [(at_s, len(choice.pictures)) for at_s, choice in choices if choice.pictures]


@pytest.mark.parametrize("per_s", [30, 15, 10])
def test_of_a_fast_camera_one_key_picture_a_look_is_decoded(per_s: float) -> None:
    chosen = Filming(per_s=per_s).film(20)
    seen = looks(chosen)
    assert {n for _, n in seen} == {1}
    assert all(choice.pictures[0].is_key for _, choice in chosen if choice.pictures)
    assert len(seen) == pytest.approx(20, abs=1)
    assert sum(choice.ask for _, choice in chosen) == len(seen) - 1, "the first comes by itself"


@pytest.mark.parametrize(("per_s", "every_s"), [(2, 1.0), (2, 0.5), (3, 1.0), (1, 1.0), (0.5, 0.5)])
def test_of_a_slow_camera_all_is_decoded_and_nothing_asked_for(per_s: float, every_s: float) -> None:
    sender = Filming(per_s=per_s, every_s=every_s)
    chosen = sender.film(20)
    assert not any(choice.ask for _, choice in chosen)
    assert sum(n for _, n in looks(chosen)) >= sender.n_sent - SHORT_CHAIN


def test_looks_keep_their_pace_although_each_waits_for_its_key_picture() -> None:
    seen = looks(Filming(per_s=30, answers_after_s=0.3).film(60))
    assert len(seen) == pytest.approx(60, abs=1)
    assert all(later - earlier > 0.5 for (earlier, _), (later, _) in itertools.pairwise(seen))


def test_the_first_picture_is_seen_at_once() -> None:
    sender = Filming(per_s=30)
    assert looks(sender.film(1 / 30)) == [(sender.now_s, 1)]


def test_of_a_sender_that_does_not_answer_all_is_decoded_at_once() -> None:
    sender = Filming(per_s=20, answers_after_s=None)
    seen = looks(sender.film(30))
    assert len(seen) == pytest.approx(30, abs=3)
    assert sum(n for _, n in seen) == pytest.approx(sender.n_sent, abs=40), "nothing may be left out"


def test_a_sender_that_does_not_answer_is_soon_asked_less() -> None:
    sender = Filming(per_s=20, answers_after_s=None)
    asked = [at_s for at_s, choice in sender.film(60) if choice.ask]
    assert len(asked) <= IGNORED_ASKS + 60 / ASK_AGAIN_S + 1
    sender.answers_after_s = 0.1
    sender.film(ASK_AGAIN_S + 2)
    assert {n for _, n in looks(sender.film(10))} == {1}, "and trusted again when it does"


def test_after_a_loss_a_key_picture_is_asked_for_once_a_look_until_it_comes() -> None:
    sender = Filming(per_s=2, answers_after_s=None)
    sender.film(4)
    sender.intact = False
    asked = sum(choice.ask for _, choice in sender.film(30))
    assert 15 <= asked <= 30
    sender.answers_after_s = 0.0
    assert len(looks(sender.film(4))) >= 3
    assert sender.intact


def test_before_a_loss_was_asked_about_what_came_before_it_is_not_shown_as_new() -> None:
    sender = Filming(per_s=30, answers_after_s=0.2)
    sender.film(0.5)
    sender.intact = False
    (_, ask), (_, look) = sender.film(1.2)
    assert ask.ask
    assert look.pictures[0].is_key


def test_what_came_before_a_loss_is_shown_when_no_key_picture_comes() -> None:
    sender = Filming(per_s=30, answers_after_s=None)
    sender.film(0.1)
    assert sender.picker.deadline_s is not None
    sender.intact = False
    seen = looks(sender.film(2))
    assert [n for _, n in seen] == [2]


def test_nothing_new_is_nothing_to_see() -> None:
    sender = Filming(per_s=30)
    sender.film(1 / 30)
    sender.now_s += 10
    sender.choose()
    assert len(sender.choices) == 1
    assert sender.picker.deadline_s is None


def test_the_last_pictures_of_a_camera_that_stops_are_seen_too() -> None:
    sender = Filming(per_s=30, answers_after_s=None)
    sender.film(0.5)
    for _ in range(2):
        deadline_s = sender.picker.deadline_s
        assert deadline_s is not None
        sender.now_s = deadline_s
        sender.choose()
    assert sender.choices[-2][1].ask
    assert looks(sender.choices[-1:]) == [(sender.now_s, 14)]
    assert sender.picker.deadline_s is None


def test_while_pictures_are_decoded_no_others_are_chosen() -> None:
    picker = PicturePicker(1.0, 10**6)
    picker.put(picture(key=True))
    assert picker.choose(0.0, intact=True).pictures
    picker.put(picture(key=True))
    assert picker.choose(5.0, intact=True) == Choice()
    assert picker.deadline_s is None
    picker.done(decoded=True)
    assert picker.choose(5.0, intact=True).pictures


def test_after_a_corrupt_picture_a_key_picture_must_come() -> None:
    picker = PicturePicker(1.0, 10**6)
    picker.put(picture(key=True))
    picker.choose(0.0, intact=True)
    picker.put(picture())
    picker.done(decoded=False)
    picker.put(picture())
    assert picker.choose(2.0, intact=True) == Choice(ask=True)
    picker.put(picture(key=True))
    (chosen,) = picker.choose(2.1, intact=True).pictures
    assert chosen.is_key


def test_a_key_picture_that_came_meanwhile_is_not_given_up_with_a_corrupt_one() -> None:
    picker = PicturePicker(1.0, 10**6)
    picker.put(picture(key=True))
    picker.choose(0.0, intact=True)
    picker.put(picture(key=True))
    picker.done(decoded=False)
    assert len(picker.choose(2.0, intact=True).pictures) == 1


def test_a_picture_that_no_other_needs_is_decoded_only_as_the_newest() -> None:
    picker = PicturePicker(1.0, 10**6)
    picker.put(picture(key=True))
    for disposable in (True, True, False, True):
        picker.put(picture(disposable=disposable))
    chosen = picker.choose(0.0, intact=True).pictures
    assert [p.disposable for p in chosen] == [False, False, True]
    assert picker.n_dropped == 2


def test_too_large_a_picture_is_told_once_and_its_sender_not_asked_for_more() -> None:
    picker = PicturePicker(1.0, VGA[0] * VGA[1])
    large = picture(key=True, size_px=(641, 480))
    assert picker.put(large) == (641, 480)
    assert picker.put(large) is None
    assert picker.put(picture()) is None
    assert [picker.choose(now_s, intact=True) for now_s in (0.0, 1.0, 2.0, 5.0)] == [Choice()] * 4
    assert picker.put(picture(key=True)) is None
    assert len(picker.choose(6.0, intact=True).pictures) == 1
    assert picker.put(large) == (641, 480), "again too large is news"


def test_a_parameter_set_that_makes_a_later_picture_too_large_is_refused() -> None:
    picker = PicturePicker(1.0, VGA[0] * VGA[1])
    picker.put(picture(key=True))
    grown = CodedPicture(VideoCodec.H264, b"x", is_key=False, disposable=False, size_px=(16_000, 16_000))
    assert picker.put(grown) == (16_000, 16_000)
    assert picker.choose(5.0, intact=True) == Choice()


@pytest.mark.parametrize("per_s", [15, 60])
def test_pixels_are_bounded_whatever_is_sent(per_s: float) -> None:
    for size_px, answers_after_s in itertools.product([(3840, 2160), (1280, 720), (64, 48)], [None, 0.05]):
        sender = Filming(per_s=per_s, every_s=0.25, size_px=size_px, answers_after_s=answers_after_s)
        n_px = sum(n for _, n in looks(sender.film(30))) * size_px[0] * size_px[1]
        assert n_px <= 32 * MAX_PX_PER_S


def test_what_is_kept_is_bounded() -> None:
    for size_px, n_bytes in (((64, 64), 3), ((64, 64), 300_000), (VGA, 3)):
        picker = PicturePicker(1.0, 10**7)
        picker.put(picture(key=True, size_px=size_px))
        for _ in range(1000):
            picker.put(picture(n_bytes=n_bytes))
            assert sum(len(p.coded) for p in picker._chain) == picker._chain_bytes <= MAX_CHAIN_BYTES
        assert not picker._chain
        assert picker.n_dropped > 900
        assert [picker.choose(now_s, intact=True) for now_s in (0.0, 0.6, 1.2)] == [
            Choice(),
            Choice(),
            Choice(ask=True),
        ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["key", "inter", "spare", "large", "huge", "choose", "choose", "decoded", "failed"]),
            st.floats(0, 0.4),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_whatever_happens_what_is_chosen_can_be_decoded(happenings: list[tuple[str, float, bool]]) -> None:
    picker = PicturePicker(0.5, 5_000_000)
    now_s, asked_s = 50.0, -1.0
    order: list[CodedPicture] = []
    decoded_to: int | None = None  # index in order of the picture that the decoder saw last
    chosen: tuple[CodedPicture, ...] = ()
    for what, elapsed_s, intact in happenings:
        now_s += elapsed_s
        if what in ("decoded", "failed"):
            if chosen:
                picker.done(decoded=what == "decoded")
                decoded_to = next(i for i, p in enumerate(order) if p is chosen[-1]) if what == "decoded" else None
                chosen = ()
        elif what == "choose":
            choice = picker.choose(now_s, intact=intact)
            assert not (choice.pictures and chosen)
            if choice.ask:
                assert now_s >= asked_s + 0.25
                asked_s = now_s
            if choice.pictures:
                chosen = choice.pictures
                at = [next(i for i, p in enumerate(order) if p is one) for one in chosen]
                if chosen[0].is_key:
                    at = at[1:] if len(at) > 1 else []
                    previous = next(i for i, p in enumerate(order) if p is chosen[0])
                else:
                    assert decoded_to is not None
                    previous = decoded_to
                for index in at:
                    assert all(p.disposable for p in order[previous + 1 : index])
                    previous = index
            assert picker.deadline_s is None or picker.deadline_s > now_s
        else:
            size_px = {"large": (2000, 2000), "huge": (5000, 5000)}.get(what, VGA)
            one = picture(key=what not in ("inter", "spare"), size_px=size_px, disposable=what == "spare")
            order.append(one)
            assert (picker.put(one) is None) or what == "huge"
