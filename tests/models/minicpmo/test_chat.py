"""Tests of chat: the official prompt and answer, and what can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.errors import InvalidEvent, LimitExceeded
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.chat import AnswerOptions, Chat
from duplex_server.models.minicpmo.chat_prompt import PromptEncoder, count_audio_embeddings
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.mel import offline_mel
from duplex_server.models.minicpmo.messages import Message, Picture, Sound, render
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import Layout, embedded
from duplex_server.models.minicpmo.vision import VisionTower

GREEDY = AnswerOptions(greedy=True, max_tokens=12)
QUESTION = Message("user", ("What is this?",))


@pytest.fixture(scope="session")
def prompts(
    tiny_settings: MiniCPMOConfig, tiny_checkpoint: Path, vision_tower: VisionTower, audio_encoder: AudioEncoder
) -> PromptEncoder:
    return PromptEncoder(tiny_settings, Tokenizer(tiny_checkpoint), vision_tower, audio_encoder)


@pytest.fixture(scope="session")
def chat(tiny_llm: Qwen3, prompts: PromptEncoder) -> Chat:
    return Chat(tiny_llm, prompts)


def answer(chat: Chat, *messages: Message, options: AnswerOptions = GREEDY, seed: int = 0) -> list[int]:
    return [said.token for said in chat.answer(messages, options, seed=seed)]


def official_chat(folder: Path) -> list[Message]:
    inputs = np.load(folder / "inputs_components.npz")
    before, after = (
        "Clone the voice in the provided audio prompt.",
        "As an assistant, you will speak using this voice style.",
    )
    return [
        Message("system", (before, Sound(inputs["chat_system_audio"]), after)),
        Message("user", (Picture(inputs["chat_image"], 2), "What is in the image?", Sound(inputs["chat_audio"]))),
    ]


def test_the_answer_is_that_of_the_official_code(shared_goldens: Path, prompts: PromptEncoder, tiny_llm: Qwen3) -> None:
    golden = np.load(shared_goldens / "golden_components.npz")
    strict = replace(prompts, strict_parity=True)
    messages = official_chat(shared_goldens)
    (embeds,) = embedded([strict.encode(render(messages, omni=True))], tiny_llm.embed)
    assert np.abs(embeds.numpy() - golden["chat_embeds"]).max() < 1e-5
    found = list(Chat(tiny_llm, strict).answer(messages, GREEDY, omni=True))
    assert [said.token for said in found] == golden["chat_ids"].tolist()


def test_officially_the_end_of_a_recording_depends_on_the_longest_of_the_chat(
    shared_goldens: Path, prompts: PromptEncoder
) -> None:
    """Its last block hears the padding; by default it is heard as if it were alone."""
    _, asked = official_chat(shared_goldens)
    (sound,) = [item for item in asked.content if isinstance(item, Sound)]
    encoder = prompts.audio
    assert encoder is not None
    alone = encoder.encode(sound.pcm)
    long = np.zeros(32_000, np.float32)
    _, default = encoder.encode_all([long, sound.pcm])
    _, strict = encoder.encode_all([long, sound.pcm], strict_parity=True)
    assert torch.allclose(default, alone, atol=1e-5, rtol=0)
    assert torch.allclose(strict[:10], alone[:10], atol=1e-5, rtol=0)
    assert (strict[10:] - alone[10:]).abs().amax(dim=1).min() > 0.1


def test_an_answer_has_at_most_max_tokens(chat: Chat) -> None:
    assert len(answer(chat, QUESTION)) == GREEDY.max_tokens
    assert not {SPECIAL.im_end, SPECIAL.endoftext} & set(answer(chat, QUESTION))


def test_a_seed_repeats_an_answer(chat: Chat) -> None:
    options = AnswerOptions(temperature=3, top_p=1, max_tokens=8)
    first, again, other = (answer(chat, QUESTION, options=options, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_text_comes_in_whole_characters(chat: Chat, prompts: PromptEncoder) -> None:
    found = list(chat.answer([QUESTION], AnswerOptions(temperature=3, top_p=1, max_tokens=30), seed=3))
    whole = prompts.tokenizer.decode([said.token for said in found])
    assert "".join(said.text for said in found) == whole.rstrip("�")


def test_an_answer_goes_on_only_while_it_is_asked_for(chat: Chat) -> None:
    assert [said.token for said in islice(chat.answer([QUESTION], GREEDY), 3)] == answer(chat, QUESTION)[:3]


def test_spelling_out_the_placeholder_puts_nothing_in_its_place(prompts: PromptEncoder) -> None:
    layout = prompts.encode(render([Message("user", ("<unk>", Picture(np.zeros((448, 448, 3), np.uint8))))]))
    ids = [index for part in layout.parts if isinstance(part, list) for index in part]
    assert ids.count(SPECIAL.unk) == 1
    assert sum(len(part) for part in layout.parts if not isinstance(part, list)) == 64


def placed(layout: Layout) -> list[str]:
    """Name what stands where: markers, and how many embeddings."""
    names = {
        SPECIAL.image_id: "#",
        SPECIAL.image: "<image>",
        SPECIAL.slice: "<slice>",
        SPECIAL.audio_start: "<audio>",
        SPECIAL.listen: "listen",
    }
    found: list[str] = []
    for part in layout.parts:
        if isinstance(part, list):
            found += [names[token] for token in part if token in names]
        else:
            found.append(str(len(part)))
    return found


def test_pictures_are_numbered_and_seconds_are_kept_together_but_in_a_stream(prompts: PromptEncoder) -> None:
    rendered = render(
        [Message("user", (Picture(np.zeros((400, 800, 3), np.uint8)), Sound(np.zeros(24_000, np.float32))))]
    )
    seen = ["<image>", "64", "<slice>", "64", "<slice>", "64"]
    assert placed(prompts.encode(rendered)) == ["#", *seen, "<audio>", "15"]
    assert placed(prompts.encode(rendered, streaming=True)) == [*seen, "<audio>", "10", "<audio>", "5"]


def test_rows_of_slices_stand_on_lines_of_their_own(prompts: PromptEncoder) -> None:
    layout = prompts.encode(render([Message("user", (Picture(np.zeros((900, 900, 3), np.uint8), 4),))]))
    (newline,) = prompts.tokenizer.encode("\n")
    flat = [token for part in layout.parts for token in (part if isinstance(part, list) else ["*"])]
    first = flat.index(SPECIAL.image)
    picture = [SPECIAL.image, "*", SPECIAL.image_end]
    piece = [SPECIAL.slice, "*", SPECIAL.slice_end]
    assert flat[first : first + 16] == [*picture, *piece, *piece, newline, *piece, *piece]


def test_recordings_of_a_message_are_heard_as_one(prompts: PromptEncoder) -> None:
    """A video's sound comes second by second, with pictures between."""
    pcm = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * 0.1
    seconds = [Sound(pcm[begin : begin + 16_000]) for begin in (0, 16_000, 32_000)]
    layout = prompts.encode(render([Message("user", (seconds[0], "and", seconds[1], seconds[2]))], omni=True))
    heard = [part for part in layout.parts if isinstance(part, torch.Tensor)]
    assert [len(part) for part in heard] == [10, 10, 10]
    assert prompts.audio is not None
    assert torch.equal(torch.cat(heard), prompts.audio.encode(pcm))


def test_the_token_of_listening_is_struck_from_what_is_written(prompts: PromptEncoder) -> None:
    assert placed(prompts.encode(render([Message("user", ("a <|listen|> b",))]))) == []


@given(st.integers(0, 100_000))
def test_embeddings_are_counted_without_hearing(n_samples: int) -> None:
    frames = sum((piece.shape[1] + 1) // 2 // 5 for piece in offline_mel(np.zeros(n_samples, np.float32)))
    assert count_audio_embeddings(n_samples) == frames


@pytest.mark.parametrize(
    ("content", "missing"),
    [(Picture(np.zeros((9, 9, 3), np.uint8)), "eyes"), (Sound(np.zeros(16_000, np.float32)), "ears")],
)
def test_what_the_model_has_no_part_for_is_refused(
    tiny_llm: Qwen3, prompts: PromptEncoder, content: Picture | Sound, missing: str
) -> None:
    blind_and_deaf = replace(prompts, vision=None, audio=None)
    with pytest.raises(InvalidEvent, match=missing):
        answer(Chat(tiny_llm, blind_and_deaf), Message("user", (content,)))
    assert answer(Chat(tiny_llm, blind_and_deaf), QUESTION)


def test_a_chat_beyond_the_context_is_refused(chat: Chat, tiny_settings: MiniCPMOConfig) -> None:
    words: Sequence[str] = ["word"] * tiny_settings.llm.max_position_embeddings
    with pytest.raises(LimitExceeded, match="can hold 40959"):
        answer(chat, Message("user", (" ".join(words),)))


@pytest.mark.parametrize("stop", [SPECIAL.im_end, SPECIAL.endoftext])
def test_an_answer_ends_where_the_model_ends_it(chat: Chat, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    wanted = iter([100, 101, stop])
    vocabulary = torch.arange(151_748)
    monkeypatch.setattr(Qwen3, "logits", lambda _, state: (vocabulary == next(wanted)).float())
    assert answer(chat, QUESTION) == [100, 101]


def test_a_chat_without_memory_is_refused(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(chat._llm, "new_cache", exhausted)
    with pytest.raises(LimitExceeded, match="no memory for this chat and 12 tokens"):
        answer(chat, QUESTION)
