"""Tests of conversations by turns: what the model reads, sound by the second, old rounds, and going back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duplex_server.errors import InvalidEvent, LimitExceeded
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.chat import AnswerOptions
from duplex_server.models.minicpmo.chat_prompt import PromptEncoder
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.half_duplex import UNSPEAKABLE, HalfDuplex, TurnWindow
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.messages import Content, Message, Picture, Sound
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.vision import VisionTower

GREEDY = AnswerOptions(greedy=True, max_tokens=4)
SYSTEM = Message("system", ("Be brief.",))


@pytest.fixture(scope="session")
def prompts(
    tiny_settings: MiniCPMOConfig, tiny_checkpoint: Path, vision_tower: VisionTower, audio_encoder: AudioEncoder
) -> PromptEncoder:
    return PromptEncoder(tiny_settings, Tokenizer(tiny_checkpoint), vision_tower, audio_encoder)


class Reader:
    """What the model read: tokens as they are spelt, and how many embeddings."""

    def __init__(self, llm: Qwen3, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[int] = []
        self.n_positions = 0
        embed, forward = Qwen3.embed, Qwen3.forward

        def watched_embed(this: Qwen3, ids: Sequence[int] | Tensor) -> Tensor:
            self.ids += [int(token) for token in ids]
            return embed(this, ids)

        def watched_forward(this: Qwen3, embeds: Sequence[Tensor], *rest: object) -> list[Tensor]:
            self.n_positions += sum(map(len, embeds))
            return forward(this, embeds, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Qwen3, "embed", watched_embed)
        monkeypatch.setattr(Qwen3, "forward", watched_forward)
        self._tokenizer = tokenizer

    @property
    def text(self) -> str:
        return self._tokenizer.decode(self.ids, skip_special=False)


@pytest.fixture
def reader(tiny_llm: Qwen3, prompts: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(tiny_llm, prompts.tokenizer, monkeypatch)


def says(monkeypatch: pytest.MonkeyPatch, *tokens: int) -> None:
    """Make the model want to say these."""
    wanted = iter(tokens)
    vocabulary = torch.arange(151_748)
    monkeypatch.setattr(Qwen3, "logits", lambda _, state: (vocabulary == next(wanted)).float() * 100)


def answer(conversation: HalfDuplex, options: AnswerOptions = GREEDY, *, speak: bool = True) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return [said.token for said in conversation.answer(options, generator=generator, speak=speak)]


def sound(seconds: float, seed: int = 0) -> Sound:
    pcm = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)).astype(np.float32) * 0.1
    return Sound(pcm)


def test_turns_are_read_as_one_chat(
    tiny_llm: Qwen3, prompts: PromptEncoder, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (prompts.tokenizer.encode(word)[0] for word in ("a", "b"))
    says(monkeypatch, one, SPECIAL.tts_eos, other, SPECIAL.im_end)
    conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
    conversation.begin(SYSTEM)
    conversation.hear(["How are"])
    conversation.hear([" you?"])
    assert answer(conversation) == [one]
    conversation.hear(["Fine."])
    assert answer(conversation) == [other]
    conversation.hear(["Bye."])
    opening = "<|im_start|>assistant\n<think>\n\n</think>\n\n<|tts_bos|>"
    assert reader.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n"
        f"{opening}a<|tts_eos|><|im_end|>\n<|im_start|>user\nFine.<|im_end|>\n"
        f"{opening}b<|tts_eos|><|im_end|>\n<|im_start|>user\nBye."
    )
    assert conversation.length == reader.n_positions == len(reader.ids)


def test_an_answer_that_is_interrupted_is_closed_before_the_next_turn(
    tiny_llm: Qwen3, prompts: PromptEncoder, reader: Reader
) -> None:
    conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
    conversation.begin()
    conversation.hear(["Hello!"])
    assert len(list(islice(conversation.answer(GREEDY, generator=torch.Generator()), 2))) == 2
    conversation.hear(["Stop."])
    assert reader.text.endswith("<|tts_eos|><|im_end|>\n<|im_start|>user\nStop.")


def test_a_written_answer_has_nothing_to_do_with_speech(
    tiny_llm: Qwen3, prompts: PromptEncoder, reader: Reader
) -> None:
    conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
    conversation.begin()
    conversation.hear(["Hello!"])
    answer(conversation, speak=False)
    conversation.hear(["Bye."])
    assert "<|tts_bos|>" not in reader.text
    assert reader.text.endswith("<|im_end|>\n<|im_start|>user\nBye.")


def test_bit_by_bit_is_all_at_once(tiny_llm: Qwen3, prompts: PromptEncoder) -> None:
    picture = Picture(np.full((90, 120, 3), 99, np.uint8), 1)
    whole = sound(3)
    answers = []
    ways: tuple[Sequence[Sequence[Content]], ...] = (
        [[picture, whole, "What?"]],
        [[picture], *([Sound(whole.pcm[begin : begin + 16_000])] for begin in (0, 16_000, 32_000)), ["What?"]],
    )
    for bits in ways:
        conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
        conversation.begin(SYSTEM)
        for bit in bits:
            conversation.hear(bit)
        answers.append((answer(conversation, replace(GREEDY, max_tokens=8)), conversation.length))
    assert answers[0] == answers[1]


def test_a_second_is_ten_embeddings_between_marks_of_sound(
    tiny_llm: Qwen3, prompts: PromptEncoder, reader: Reader
) -> None:
    conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
    conversation.begin()
    conversation.hear([sound(2.3)])
    assert reader.text == "<|im_start|>user\n" + "<|audio_start|><|audio_end|>" * 3
    assert conversation.length == len(reader.ids) + 30


def test_a_turn_hears_nothing_of_the_turns_before(
    tiny_llm: Qwen3, prompts: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Tensor] = []
    stream = AudioEncoder.stream

    def watched(this: AudioEncoder, *arguments: object) -> Tensor:
        heard.append(stream(this, *arguments))  # type: ignore[arg-type]
        return heard[-1]

    monkeypatch.setattr(AudioEncoder, "stream", watched)
    conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
    conversation.begin()
    for _ in range(2):
        conversation.hear([sound(1, seed=1)])
        conversation.hear([sound(1, seed=2)])
        answer(conversation)
    first, second, again, _ = heard
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_the_oldest_rounds_are_forgotten_and_the_system_message_stays(tiny_llm: Qwen3, prompts: PromptEncoder) -> None:
    probe = HalfDuplex(tiny_llm, prompts, capacity=1000)
    probe.begin(SYSTEM)
    n_head = probe.length
    for _ in range(2):
        probe.hear(["May I ask?"])
        answer(probe)
    a_round = (probe.length - n_head) // 2 + 2  # a later round also ends the answer before it
    window = TurnWindow(high_tokens=n_head + 5 * a_round, low_tokens=n_head + 3 * a_round)
    conversation = HalfDuplex(tiny_llm, prompts, window=window, capacity=n_head + 7 * a_round)
    conversation.begin(SYSTEM)
    head = conversation._cache.layers[0].keys[0, :, : conversation.length].clone()
    lengths = []
    for _ in range(14):
        conversation.hear(["May I ask?"])
        lengths.append(conversation.length)
        answer(conversation)
    assert max(lengths) <= window.high_tokens + a_round
    dropped = [later for earlier, later in pairwise(lengths) if later < earlier]
    assert len(dropped) >= 2
    assert max(dropped) <= window.low_tokens + a_round
    assert torch.equal(conversation._cache.layers[0].keys[0, :, : head.shape[1]], head)


def test_a_guess_that_the_turn_is_over_can_be_taken_back(tiny_llm: Qwen3, prompts: PromptEncoder) -> None:
    guessed, patient = (HalfDuplex(tiny_llm, prompts, capacity=500) for _ in range(2))
    for conversation in (guessed, patient):
        conversation.begin(SYSTEM)
        conversation.hear([sound(1, seed=1)])
    mark = guessed.mark()
    answer(guessed)
    guessed.go_back(mark)
    for conversation in (guessed, patient):
        conversation.hear([sound(1, seed=2)])
    assert guessed.length == patient.length
    assert answer(guessed, replace(GREEDY, max_tokens=8)) == answer(patient, replace(GREEDY, max_tokens=8))


def test_signs_that_cannot_be_spoken_are_written_only(
    tiny_llm: Qwen3, prompts: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sign,) = prompts.tokenizer.encode("#")
    assert "#" in UNSPEAKABLE
    for speak in (True, False):
        says(monkeypatch, sign, SPECIAL.im_end)
        conversation = HalfDuplex(tiny_llm, prompts, capacity=500)
        conversation.begin()
        conversation.hear(["Number?"])
        assert (sign in answer(conversation, speak=speak)) != speak


def test_a_round_that_does_not_fit_is_refused_and_nothing_of_it_taken(tiny_llm: Qwen3, prompts: PromptEncoder) -> None:
    conversation = HalfDuplex(tiny_llm, prompts, capacity=60)
    conversation.begin(SYSTEM)
    before = conversation.length
    for too_much in (["word " * 100], [sound(5)]):
        with pytest.raises(LimitExceeded):
            conversation.hear(too_much)
        assert conversation.length == before
    unhindered = HalfDuplex(tiny_llm, prompts, capacity=60)
    unhindered.begin(SYSTEM)
    for same in (conversation, unhindered):
        same.hear([sound(1, seed=1)])
    assert answer(conversation) == answer(unhindered)


def test_a_deaf_model_refuses_sound(tiny_llm: Qwen3, prompts: PromptEncoder) -> None:
    conversation = HalfDuplex(tiny_llm, replace(prompts, audio=None), capacity=60)
    conversation.begin()
    with pytest.raises(InvalidEvent, match="ears"):
        conversation.hear([sound(1)])
    assert conversation.length == 0
