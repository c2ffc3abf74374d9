"""What the embedded model says, in each of its languages. Knows nothing about when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

__all__ = ["Phrases", "of"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_MOSTLY = 0.35
"""Share of the picture's middle from which its colour is named without doubt."""
_DARK, _BRIGHT = 0.25, 0.65
"""Mean luma below which it is called dark, and above which bright."""


class Phrases(Protocol):
    """Everything that is said in one language."""

    stop: str
    okay: str
    greeting: tuple[str, ...]
    misunderstood: str
    nothing_said: str
    nothing_to_continue: str
    no_picture: str
    cannot_count: str
    language_chosen: str
    at_limit: str
    watching: str
    watching_blind: str
    watching_stopped: str
    how_are_you: str
    who_are_you: str
    welcome: str

    def changed(self, setting: str) -> str: ...
    def sum(self, operation: str, first: int, second: int) -> str: ...
    def spelling(self, word: str) -> str: ...
    def colour(self, colour: str, share: float) -> str: ...
    def light(self, light: float) -> str: ...
    def people(self, faces: int) -> str: ...
    def time(self, now: datetime) -> str: ...
    def date(self, now: datetime) -> str: ...
    def help(self, examples: Sequence[str]) -> tuple[str, ...]: ...
    def hello(self, name: str) -> str: ...
    def goodbye(self, name: str) -> str: ...
    def nice_to_meet(self, name: str) -> str: ...
    def your_name(self, name: str) -> str: ...


def _result(operation: str, first: int, second: int) -> int:
    return {"add": first + second, "subtract": first - second, "multiply": first * second}[operation]


class _English:
    stop: str = "."
    okay: str = "Okay."
    greeting: tuple[str, ...] = ("Hello!", "Say: what can you do.")
    misunderstood: str = "Sorry, I did not understand. Say: what can you do."
    nothing_said: str = "I have not said anything yet."
    nothing_to_continue: str = "There is nothing to continue."
    no_picture: str = "I have no picture. Please switch the camera on."
    cannot_count: str = "I cannot count people here, because the optional face finder is not installed."
    language_chosen: str = "I speak English now."
    at_limit: str = "That is as far as I can go."
    watching: str = "I am watching. I will tell you what changes."
    watching_blind: str = "I will tell you what changes, as soon as the camera is on."
    watching_stopped: str = "I have stopped watching."
    how_are_you: str = "I am fine, thank you. I hope you are too."
    who_are_you: str = (
        "I am the embedded model of duplex server. I am small, I know a few commands, and you may interrupt me."
    )
    welcome: str = "You are welcome."

    def changed(self, setting: str) -> str:
        return f"{setting.capitalize()}."

    def sum(self, operation: str, first: int, second: int) -> str:
        word = {"add": "plus", "subtract": "minus", "multiply": "times"}[operation]
        result = _result(operation, first, second)
        return f"{first} {word} {second} is {f'minus {-result}' if result < 0 else result}."

    def spelling(self, word: str) -> str:
        return ", ".join(word.upper()) + "."

    def colour(self, colour: str, share: float) -> str:
        return f"It looks {colour}." if share >= _MOSTLY else f"I see many colours, most of all {colour}."

    def light(self, light: float) -> str:
        if light < _DARK:
            return "Yes, it is rather dark." if light < _DARK / 2 else "It is a little dark."
        return "It is bright." if light > _BRIGHT else "The light is good, neither dark nor very bright."

    def people(self, faces: int) -> str:
        if not faces:
            return "I see no face."
        return "I see one face." if faces == 1 else f"I see {faces} faces."

    def time(self, now: datetime) -> str:
        hour, half = now.hour % 12 or 12, "AM" if now.hour < 12 else "PM"
        return f"It is {hour}:{now.minute:02} {half}." if now.minute else f"It is {hour} {half}."

    def date(self, now: datetime) -> str:
        return f"Today is {_DAYS[now.weekday()]}, {_MONTHS[now.month - 1]} {now.day}."

    def help(self, examples: Sequence[str]) -> tuple[str, ...]:
        return ("You can say, for example:", *examples, "And you can interrupt me at any time.")

    def hello(self, name: str) -> str:
        return f"Hello, {name}!" if name else "Hello! How can I help you?"

    def goodbye(self, name: str) -> str:
        return f"Goodbye, {name}." if name else "Goodbye."

    def nice_to_meet(self, name: str) -> str:
        return f"Nice to meet you, {name}."

    def your_name(self, name: str) -> str:
        return f"Your name is {name}." if name else "I do not know your name. Say: my name is, and your name."


class _Chinese:
    stop: str = "。"
    okay: str = "好的。"
    greeting: tuple[str, ...] = ("你好！", "请用英语说：What can you do.")
    misunderstood: str = "对不起，我没听懂。我只听得懂英语的命令。"
    nothing_said: str = "我还什么都没说呢。"
    nothing_to_continue: str = "没有什么可以继续的。"
    no_picture: str = "我没有画面，请打开摄像头。"
    cannot_count: str = "我在这里数不了人，因为没有安装人脸识别的软件包。"
    language_chosen: str = "好的，我现在说中文。不过，我只听得懂英语的命令。"
    at_limit: str = "已经到头了。"
    watching: str = "我在看着。有变化我就告诉你。"
    watching_blind: str = "摄像头打开以后，有变化我就告诉你。"
    watching_stopped: str = "好的，我不看了。"
    how_are_you: str = "我很好，谢谢。希望你也很好。"
    who_are_you: str = "我是一个很小的内置模型，只懂几条命令。你可以随时打断我。"
    welcome: str = "不客气。"

    def changed(self, setting: str) -> str:
        return {"louder": "大声一点。", "softer": "小声一点。", "faster": "快一点。", "slower": "慢一点。"}[setting]

    def sum(self, operation: str, first: int, second: int) -> str:
        word = {"add": "加", "subtract": "减", "multiply": "乘以"}[operation]
        result = _result(operation, first, second)
        return f"{first}{word}{second}等于{f'负{-result}' if result < 0 else result}。"

    def spelling(self, word: str) -> str:
        return "，".join(word.upper()) + "。"

    def colour(self, colour: str, share: float) -> str:
        name = dict(
            zip(
                (
                    "red",
                    "orange",
                    "yellow",
                    "green",
                    "cyan",
                    "blue",
                    "purple",
                    "pink",
                    "brown",
                    "white",
                    "grey",
                    "black",
                ),
                "红橙黄绿青蓝紫粉棕白灰黑",
                strict=True,
            )
        )[colour]
        return f"看起来是{name}色。" if share >= _MOSTLY else f"颜色很多，最多的是{name}色。"

    def light(self, light: float) -> str:
        if light < _DARK:
            return "是的，很暗。" if light < _DARK / 2 else "有点暗。"
        return "很亮。" if light > _BRIGHT else "光线正好，不暗也不太亮。"

    def people(self, faces: int) -> str:
        return f"我看到{'两' if faces == 2 else faces}张脸。" if faces else "我没有看到人脸。"

    def time(self, now: datetime) -> str:
        part = ("凌晨", "上午", "下午", "晚上")[now.hour // 6]
        minute = f"{'零' if now.minute < 10 else ''}{now.minute}分" if now.minute else "整"
        return f"现在是{part}{now.hour % 12 or 12}点{minute}。"

    def date(self, now: datetime) -> str:
        return f"今天是{now.month}月{now.day}日，星期{'一二三四五六日'[now.weekday()]}。"

    def help(self, examples: Sequence[str]) -> tuple[str, ...]:
        return ("我只听得懂英语。比如，你可以说：", *examples, "你可以随时打断我。")

    def hello(self, name: str) -> str:
        return f"你好，{name}！" if name else "你好！有什么可以帮你的吗？"

    def goodbye(self, name: str) -> str:
        return f"再见，{name}。" if name else "再见。"

    def nice_to_meet(self, name: str) -> str:
        return f"很高兴认识你，{name}。"

    def your_name(self, name: str) -> str:
        return f"你叫{name}。" if name else "我还不知道你的名字。"


_PHRASES: dict[str, Phrases] = {"en": _English(), "zh": _Chinese()}


def of(language: str) -> Phrases:
    """Return what is said in a language; English where there is no other."""
    return _PHRASES.get(language, _PHRASES["en"])
