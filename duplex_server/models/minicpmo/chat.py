"""Chat: messages with text, pictures and sound in, an answer out, token by token (specification §7.1).

Knows nothing about speech or terminals. One answer at a time: where many conversations share a device, duplex rows do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duplex_server.errors import LimitExceeded
from duplex_server.models.minicpmo.chat_prompt import PromptEncoder
from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.messages import Message, Segment, render
from duplex_server.models.minicpmo.sampling import less_likely, top_k_top_p
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import embedded

__all__ = ["AnswerOptions", "AnswerToken", "Chat", "choose_token"]

_STOPS = frozenset({SPECIAL.im_end, SPECIAL.endoftext})


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How an answer is chosen. Defaults are the official ones, but for beams: there is one."""

    greedy: bool = False
    """Take the likeliest instead of drawing."""
    temperature: float = 0.7
    top_k: int = 100
    top_p: float = 0.8
    repetition_penalty: float = 1.02
    """On every token of the answer so far that :attr:`repetition_window` reaches."""
    repetition_window: int = 4096
    max_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class AnswerToken:
    """A token of an answer."""

    token: int
    text: str
    """The characters that it completes; special tokens have none."""
    hidden: Tensor
    """State after it, ``[hidden]``: what speech is made from."""


class Chat:
    """Answers chats with one model.

    Args:
        llm: the language model.
        prompts: turns chats into positions, with the encoders that are loaded.
    """

    def __init__(self, llm: Qwen3, prompts: PromptEncoder) -> None:
        self._llm = llm
        self._prompts = prompts

    @torch.inference_mode()
    def answer(
        self,
        messages: Sequence[Message],
        options: AnswerOptions | None = None,
        *,
        seed: int = 0,
        omni: bool = False,
        speak: bool = False,
        think: bool = False,
    ) -> Iterator[AnswerToken]:
        """Yield an answer as it is made; to stop early, stop asking.

        Args:
            messages: see :func:`~duplex_server.models.minicpmo.messages.render`, as for the next arguments.
            options: how tokens are chosen.
            seed: of what is drawn; equal seeds give equal answers on one machine.
            omni: see there.
            speak: see there.
            think: see there.

        Raises:
            InvalidEvent: the messages cannot be answered: their order, or something to see or hear without the part of
                the model for it.
            LimitExceeded: they are longer than the model's context, or than memory has room for.
        """
        options = options or AnswerOptions()
        rendered = render(messages, omni=omni, speak=speak, think=think)
        try:
            state, cache, room = self._read(rendered, options.max_tokens)
        except torch.OutOfMemoryError as error:
            raise LimitExceeded(
                f"There is no memory for this chat and {options.max_tokens} tokens of an answer: fewer of them, fewer "
                "or smaller pictures, or less sound may fit.",
                limit="memory",
                value=f"{options.max_tokens} tokens",
            ) from error
        generator = torch.Generator().manual_seed(seed)
        text = self._prompts.tokenizer.stream()
        said: list[int] = []
        for _ in range(room):
            token = choose_token(self._llm.logits(state), said, options, generator)
            if token in _STOPS:
                break
            said.append(token)
            state = self._llm.forward([self._llm.embed([token])], [0], cache)[0][-1]
            yield AnswerToken(token, text.feed([token]), state)

    def _read(self, rendered: Sequence[str | Segment], most_answer: int) -> tuple[Tensor, KvCache, int]:
        """Take a chat in: its last state, what is remembered of it, and for how many tokens more there is room."""
        layout = self._prompts.encode(rendered)
        most = self._llm.config.max_position_embeddings
        if layout.length >= most:
            raise LimitExceeded(
                f"The chat has {layout.length} tokens, of which the model can hold {most - 1}.",
                limit="max_position_embeddings",
                value=f"{most} tokens",
            )
        room = min(most_answer, most - layout.length)
        cache = self._llm.new_cache(1, layout.length + room)
        (prompt,) = embedded([layout], self._llm.embed)
        return self._llm.forward([prompt], [0], cache)[0][-1], cache, room


def choose_token(
    scores: Tensor,
    said: Sequence[int],
    options: AnswerOptions,
    generator: torch.Generator,
    forbidden: Tensor | None = None,
) -> int:
    """Choose the next token of an answer.

    Args:
        scores: ``[vocabulary]``, unchanged.
        said: the answer so far.
        options: how.
        generator: of what is drawn, on the CPU.
        forbidden: ids that are never chosen, int64, on the scores' device.
    """
    scores = scores.float()
    if forbidden is not None:
        scores = scores.index_fill(0, forbidden, -math.inf)
    if recent := set(said[-options.repetition_window :]):
        ids = torch.tensor(sorted(recent), device=scores.device)
        scores = scores.index_copy(0, ids, less_likely(scores[ids], options.repetition_penalty))
    if options.greedy:
        return int(scores.argmax())
    kept = top_k_top_p((scores / options.temperature)[None], options.top_k, options.top_p)[0]
    return int(torch.multinomial(kept.softmax(dim=-1).cpu(), 1, generator=generator))
