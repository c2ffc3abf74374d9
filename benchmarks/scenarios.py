"""The situations that are measured, after Full-Duplex-Bench v1.5: each is a conversation that a participant plays.

Every scenario takes a participant that has just joined, and adds figures. What a name means:

``response_s``        end of the user's last audible sample → first audible sample of the answer
``down_s``            first audible sample of an interruption → the voice was last heard less than 12 dB below before
``silent_s``          the same onset → last audible sample of the interrupted response
``hold_s``            the same onset → the server said that it suspects an interruption (``overlap.decision``)
``decided_s``         the same onset → the server said that it is one
``obeyed``            1 if the interrupted response fell silent within 2 s of the onset
``back_s``            last audible sample of what was no interruption → the voice is heard within 15 dB of before,
                      which a lowered one is not; the voice's own pauses do not count
``false_interruption`` 1 if something that was no interruption ended the response
``lost_s``            length of the response as generated less the time from its first to its last audible sample, plus
                      silence that stood for lost packets: what the listener missed of a response that was disturbed

Source: Full-Duplex-Bench v1.5, arXiv 2507.23159: user interruption, backchannel, talking to others, background speech.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from msgspec import UnsetType

from benchmarks.analysis import back_after_s, down_after_s, last_audible_s
from benchmarks.participant import Participant
from benchmarks.results import Figures
from benchmarks.scene import Span
from benchmarks.speech import RATE_HZ
from duplex_server.types import Pcm
from duplex_server.wire.events import OverlapDecision, ResponseCreated, ResponseDone

__all__ = ["Clip", "NoStory", "Play", "ask", "disturb", "endure", "interrupt", "keep_talking", "sit", "suffer_echo"]

Play = Callable[[Participant, Figures], Awaitable[None]]

_ANSWER_WITHIN_S = 4.0
"""An answer that has not begun by then has not come."""
_OBEYED_WITHIN_S = 2.0
_PAUSE_S = 0.8
"""A voice that is silent for so long has finished: longer than a speaker's pause between sentences."""
_LONGEST_ANSWER_S = 100.0
"""A story lasts over a minute."""
_STORY_ATTEMPTS = 4
_STORY_ON_S = 2.0
"""A voice that still speaks after this long is telling the story, and is loud enough to be compared with."""
_RECOVERY_S = 3.0
"""How long after a disturbance the voice is waited for."""


class NoStory(Exception):
    """The model did not tell a story although it was asked several times."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Something to say, with its name in the log."""

    name: str
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class _Story:
    """A long response that is under way."""

    began_s: float
    """When its first sample was heard."""
    concealed_ms: float
    """Silence for lost packets that had been heard until then."""


def ask(questions: Sequence[Clip]) -> Play:
    """Ask one question after another, each when the answer to the last is over."""

    async def play(someone: Participant, figures: Figures) -> None:
        for question in questions:
            span = someone.say(question.pcm, after_s=someone.dice.uniform(0.3, 0.6))
            answered_s = await someone.hear_voice(span.end_s, _ANSWER_WITHIN_S)
            figures.add("answered", answered_s is not None, question.name)
            if answered_s is not None:
                figures.add("response_s", answered_s - span.end_s, question.name)
            await someone.hear_silence(_PAUSE_S, _LONGEST_ANSWER_S)

    return play


def interrupt(request: Clip, interruptions: Sequence[Clip], group: str, policy: str = "") -> Play:
    """Have a story told, and interrupt it, once for each clip.

    Args:
        request: asks for the story.
        interruptions: what is said over it.
        group: prefix of the figures' names: ``"interruption"`` gives ``interruption_silent_s`` …
        policy: only for the log.
    """

    async def play(someone: Participant, figures: Figures) -> None:
        for clip in interruptions:
            judged = False
            while not judged:
                story = await _story(someone, request, figures)
                span = someone.say(clip.pcm, after_s=someone.dice.uniform(0.0, 2.0))
                await someone.wait_until(span.end_s + _OBEYED_WITHIN_S)
                origin = f"{policy}{clip.name} at {story.began_s:.1f} s"
                judged = _judge_interruption(someone, story, span, figures, group, origin)
                await _quiet(someone)

    return play


def disturb(request: Clip, disturbances: Sequence[Clip], group: str) -> Play:
    """Have stories told, and disturb them every three seconds with what is no interruption."""

    async def play(someone: Participant, figures: Figures) -> None:
        waiting = list(disturbances)
        while waiting:
            story = await _story(someone, request, figures)
            while waiting and await _goes_on(someone, story):
                clip = waiting.pop(0)
                span = someone.say(clip.pcm, after_s=someone.dice.uniform(0.0, 0.3))
                await someone.wait_until(span.end_s + _RECOVERY_S)
                if not _judge_disturbance(someone, story, span, figures, group, clip.name):
                    waiting.append(clip)  # the story ended by itself meanwhile: nothing was learnt
            await _finish_story(someone, story, figures, group)

    return play


def endure(request: Clip, bed: Pcm, name: str, speech_s: float) -> Play:
    """Have stories told for ``speech_s`` while a sound goes on and on; count what ends them."""

    async def play(someone: Participant, figures: Figures) -> None:
        endured_s = 0.0
        while endured_s < speech_s:
            story = await _story(someone, request, figures)
            noisy_s = someone.now_s
            someone.surround(bed)
            done = await _response_done(someone, story)
            someone.surround(None)
            ended_s = done[0] if done else someone.now_s
            endured_s += ended_s - noisy_s
            cancelled = done is not None and done[1].response.status == "cancelled"
            figures.add("noise_false_interruption", cancelled, f"{name} at {story.began_s:.1f} s")
            figures.add("noise_minutes", (ended_s - noisy_s) / 60, name)
            figures.add("noise_lowered", _times_lowered(someone, story), name)
            if not cancelled and done is not None:
                _note_loss(someone, story, done, figures, "noise", name)
            await _quiet(someone)

    return play


def sit(bed: Pcm, name: str, listening_s: float) -> Play:
    """Say nothing while a sound goes on and on and the model is silent; count what makes it speak."""

    async def play(someone: Participant, figures: Figures) -> None:
        someone.surround(bed)
        began_s = someone.now_s
        await someone.wait_until(began_s + listening_s)
        figures.add("noise_false_response", len(someone.all(ResponseCreated, began_s)), name)

    return play


def suffer_echo(request: Clip, interruption: Clip, name: str) -> Play:
    """Have a story told to its end while the loudspeaker is heard in the microphone, then another and interrupt it."""

    async def play(someone: Participant, figures: Figures) -> None:
        story = await _story(someone, request, figures)
        done = await _response_done(someone, story)
        cancelled = done is not None and done[1].response.status == "cancelled"
        figures.add("echo_false_interruption", cancelled, name)
        figures.add("echo_lowered", _times_lowered(someone, story), name)
        await _quiet(someone)
        await interrupt(request, [Clip(f"{interruption.name}, {name}", interruption.pcm)], "echo_interruption")(
            someone, figures
        )

    return play


async def keep_talking(someone: Participant, request: Clip, seconds: float) -> float:
    """Have one story told after the other until the time is over; returns how long was told, s."""
    end_s = someone.now_s + seconds
    told_s = 0.0
    while someone.now_s < end_s:
        story = await _story(someone, request, Figures())
        while someone.now_s < end_s and await _goes_on(someone, story):
            pass
        told_s += someone.now_s - story.began_s
        await someone.hear_silence(0.3, _LONGEST_ANSWER_S if someone.now_s < end_s else 0.0)
    return told_s


async def _story(someone: Participant, request: Clip, figures: Figures) -> _Story:
    """Have a story begun; returns once it is well under way."""
    for _ in range(_STORY_ATTEMPTS):
        concealed_ms = someone.player.concealed_ms
        span = someone.say(request.pcm, after_s=0.3)
        began_s = await someone.hear_voice(span.end_s, _ANSWER_WITHIN_S)
        if began_s is not None:
            await someone.wait_until(began_s + _STORY_ON_S)
            done = someone.first(ResponseDone, span.end_s)
            if done is None and last_audible_s(someone.track, RATE_HZ, someone.now_s - 0.6) is not None:
                figures.add("story_begun", 1, request.name)
                return _Story(began_s, concealed_ms)
        figures.add("story_begun", 0, request.name)
        await _quiet(someone)
    raise NoStory(f"no story after {_STORY_ATTEMPTS} requests")


async def _quiet(someone: Participant) -> None:
    """Wait until nobody speaks."""
    await someone.hear_silence(_PAUSE_S, _LONGEST_ANSWER_S)


async def _goes_on(someone: Participant, story: _Story) -> bool:
    """Wait for the next packet, and return whether the story still goes on."""
    await someone.wait_until(someone.now_s + 0.02)
    return someone.first(ResponseDone, story.began_s) is None


async def _response_done(someone: Participant, story: _Story) -> tuple[float, ResponseDone] | None:
    """Wait for the end of a story, and until its last sample was heard; returns its event with the time it came."""
    while someone.now_s < story.began_s + _LONGEST_ANSWER_S:
        done = someone.first(ResponseDone, story.began_s)
        if done is not None:
            await someone.hear_silence(0.2, 1.0)
            return done
        await someone.wait_until(someone.now_s + 0.02)
    return None


def _times_lowered(someone: Participant, story: _Story) -> int:
    return sum(event.action == "hold" for _, event in someone.all(OverlapDecision, story.began_s))


def _judge_interruption(
    someone: Participant, story: _Story, span: Span, figures: Figures, group: str, origin: str
) -> bool:
    """Judge one interruption of a story; returns False if the story ended by itself before it could be judged."""
    done = someone.first(ResponseDone, story.began_s)
    if done is not None and done[1].response.status == "completed":
        return False
    track = someone.track
    following = someone.first(ResponseCreated, span.start_s)
    end_s = following[0] if following else someone.now_s
    last_s = last_audible_s(track, RATE_HZ, span.start_s, end_s)
    silent_s = 0.0 if last_s is None else last_s - span.start_s
    obeyed = silent_s < _OBEYED_WITHIN_S
    figures.add(f"{group}_obeyed", obeyed, origin)
    for action, name in (("hold", "hold_s"), ("interrupt", "decided_s")):
        told_s = [time_s for time_s, event in someone.all(OverlapDecision, span.start_s) if event.action == action]
        if told_s and told_s[0] < end_s:
            figures.add(f"{group}_{name}", told_s[0] - span.start_s, origin)
    if obeyed:
        figures.add(f"{group}_silent_s", silent_s, origin)
        figures.add(f"{group}_down_s", down_after_s(track, RATE_HZ, span.start_s, end_s), origin)
    return True


def _judge_disturbance(
    someone: Participant, story: _Story, span: Span, figures: Figures, group: str, origin: str
) -> bool:
    """Judge one disturbance of a story; returns False if the story ended by itself before it could be judged."""
    done = someone.first(ResponseDone, story.began_s)
    cancelled = done is not None and done[1].response.status == "cancelled"
    if done is not None and not cancelled and done[0] < span.end_s + 1.0:
        return False
    figures.add(f"{group}_false_interruption", cancelled, origin)
    if not cancelled:
        until_s = done[0] if done else someone.now_s
        back_s = back_after_s(someone.track, RATE_HZ, span.start_s, span.end_s, until_s)
        figures.add(f"{group}_back_s", until_s - span.end_s if back_s is None else back_s, origin)
    return True


async def _finish_story(someone: Participant, story: _Story, figures: Figures, group: str) -> None:
    done = await _response_done(someone, story)
    if done is not None and done[1].response.status == "completed":
        _note_loss(someone, story, done, figures, group, f"story at {story.began_s:.1f} s")
    await _quiet(someone)


def _note_loss(
    someone: Participant, story: _Story, done: tuple[float, ResponseDone], figures: Figures, group: str, origin: str
) -> None:
    """Compare what was generated of a completed response with what was heard of it."""
    generated_ms = done[1].response.generated_ms
    if isinstance(generated_ms, UnsetType):
        return
    following = someone.first(ResponseCreated, done[0])
    end_s = following[0] if following else someone.now_s
    last_s = last_audible_s(someone.track, RATE_HZ, story.began_s, end_s)
    assert last_s is not None, "the story was heard"
    concealed_s = (someone.player.concealed_ms - story.concealed_ms) / 1000
    figures.add(f"{group}_lost_s", generated_ms / 1000 - (last_s - story.began_s) + concealed_s, origin)
