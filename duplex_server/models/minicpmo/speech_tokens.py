"""The speech-token decoder: what the language model says in a unit becomes up to 25 codes, rows in lock-step.

Knows nothing about sound. Parameter names are the official ones below ``tts.``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.config import TtsConfig
from duplex_server.models.minicpmo.embeddings import empty_embedding
from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.speech_llama import LlamaBody
from duplex_server.models.minicpmo.speech_steps import SpeechSteps, UnitStart

__all__ = ["CODES_PER_UNIT", "SpeechDecoder", "SpeechSampling", "SpeechState", "penalised", "waiting_times"]

CODES_PER_UNIT = 25
"""One second of speech (specification §5.2)."""


@dataclass(frozen=True, slots=True)
class SpeechSampling:
    """How a code is chosen. Defaults are the official ones for duplex, where nothing is cut off by rank or share."""

    greedy: bool = False
    """Take the likeliest instead of drawing; the official code cannot. For comparison with recorded runs."""
    temperature: float = 0.8
    repetition_penalty: float = 1.05
    """To the power of how often a code was among the newest."""
    repetition_window: int = 16
    """Newest codes that count: of the turn; officially, of the unit."""


@dataclass(slots=True)
class _Row:
    """What is known of a row's turn besides its cache."""

    begun: bool = False
    """Whether a unit of the turn has been decoded."""
    codes: list[int] = field(default_factory=list)
    """Newest codes of the turn."""
    unfed: int | None = None
    """Last code, which is not in the cache yet: it goes in with the next unit's condition."""


class SpeechState:
    """What the decoder remembers of each row's turn. Only one thread uses it.

    Args:
        cache: empty, one row for each conversation.
    """

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        self.rows = [_Row() for _ in cache.lengths]

    def reset(self, row: int) -> None:
        """Forget a row's turn: it has ended, or was given up."""
        self.cache.truncate(row, 0)
        self.rows[row] = _Row()

    def make_room(self, row: int, positions: int) -> None:
        """Forget the oldest of a turn that has grown too long; the newest half stays, keys turned to new positions.

        The official code goes on beyond the 4096 positions that the decoder was trained for.
        """
        length = self.cache.lengths[row]
        if length + positions > self.cache.capacity:
            try:
                self.cache.move(row, length - min(length, self.cache.capacity // 2), 0)
            except torch.OutOfMemoryError:  # half of it may have been moved
                self.cache.truncate(row, 0)


class SpeechDecoder(nn.Module):
    """Tensors below ``tts.``, but for the two dead ones.

    Args:
        config: sizes.
        sampling: how codes are chosen.
        strict: as the official code does: draw one number more than codes, and forget at each unit which codes were
            said before.
    """

    def __init__(self, config: TtsConfig, *, sampling: SpeechSampling | None = None, strict: bool = False) -> None:
        super().__init__()
        self.config, self.sampling, self.strict = config, sampling or SpeechSampling(), strict
        self.emb_text = empty_embedding(config.num_text_tokens, config.hidden_size)
        self.emb_code = nn.ModuleList([empty_embedding(config.num_audio_tokens, config.hidden_size)])
        self.projector_semantic = _Projector(config.llm_dim, config.hidden_size)
        self.model = LlamaBody(config)
        self.head_code = nn.ModuleList([nn.Linear(config.hidden_size, config.num_audio_tokens, bias=False)])

    def new_state(
        self, rows: int, capacity: int | None = None, *, together: bool = False, replays: Replays | None = None
    ) -> SpeechState:
        """Return the state of ``rows`` conversations that do not speak.

        Args:
            rows: how many.
            capacity: positions of each, about 33 per second of a turn; the decoder's limit if left out.
            together: see :class:`~duplex_server.models.minicpmo.kv.LayerCache`.
            replays: recordings of the decoder's device; None: nothing is recorded, and the host asks for each code.
        """
        capacity = min(capacity or self.config.max_position_embeddings, self.config.max_position_embeddings)
        return SpeechState(self.model.new_cache(rows, capacity, together=together, replays=replays))

    @torch.inference_mode()
    def rehearse(self, state: SpeechState, most_said: int) -> None:
        """Record all steps that may come, where steps are recorded.

        Args:
            state: of all rows.
            most_said: tokens of a unit.
        """
        if state.cache.steps is not None and not self.strict:
            state.cache.steps.rehearse([1, most_said + 2])
            self._steps.rehearse(state.cache)

    @torch.inference_mode()
    def conditions(self, said: Sequence[tuple[Sequence[int], Tensor]]) -> list[Tensor]:
        """Turn what was said into what speech is decoded from.

        Args:
            said: of each row the ids and their hidden states ``[n, llm_dim]``; n may be 0.

        Returns:
            of each row ``[n + 1, width]``: the last is the beginning of audio.
        """
        weight = self.emb_text.weight
        ids = [[*row, self.config.audio_bos_token_id] for row, _ in said]
        texts = self.emb_text(torch.tensor([token for row in ids for token in row], device=weight.device))
        hidden = torch.cat([states.to(weight) for _, states in said])
        meant = functional.normalize(self.projector_semantic(hidden), dim=-1).split([len(row) for row, _ in said])
        conditions = []
        for text, meaning in zip(texts.split([len(row) for row in ids]), meant, strict=True):
            conditions.append(torch.cat([text[:-1] + meaning, text[-1:]]))
        return conditions

    def decode_unit(
        self,
        rows: Sequence[int],
        said: Sequence[tuple[Sequence[int], Tensor]],
        ends: Sequence[bool],
        state: SpeechState,
        generators: Sequence[torch.Generator],
    ) -> list[list[int]]:
        """Decode a unit of speech for each of some rows.

        Args:
            rows: each once.
            said: see :meth:`conditions`.
            ends: whether the row's turn ends with this unit; its state is reset then.
            state: of all rows.
            generators: one per row, on the CPU.

        Returns:
            codes of each row: 25, or fewer where speech ends in the first or last unit of a turn.

        Raises:
            torch.OutOfMemoryError: all rows, and their random numbers, are as before.
        """
        return self.decode(rows, self.conditions(said), ends, state, generators)

    @torch.inference_mode()
    def decode(
        self,
        rows: Sequence[int],
        conditions: Sequence[Tensor],
        ends: Sequence[bool],
        state: SpeechState,
        generators: Sequence[torch.Generator],
    ) -> list[list[int]]:
        """As :meth:`decode_unit`, from conditions ``[n + 1, width]``."""
        for row, condition in zip(rows, conditions, strict=True):
            state.make_room(row, len(condition) + (state.rows[row].unfed is not None) + CODES_PER_UNIT)
        lengths = [state.cache.lengths[row] for row in rows]
        drawn = [generator.get_state() for generator in generators]
        try:
            codes, unfed = self._decoded(rows, conditions, ends, state, generators)
        except torch.OutOfMemoryError:
            for row, length, generator, numbers in zip(rows, lengths, generators, drawn, strict=True):
                state.cache.truncate(row, length)
                generator.set_state(numbers)
            raise
        for row, new, last, end in zip(rows, codes, unfed, ends, strict=True):
            if end:
                state.reset(row)
                continue
            known = state.rows[row]
            known.begun = True
            known.codes = [*known.codes, *new][-self.sampling.repetition_window :]
            known.unfed = last
        return codes

    def _decoded(
        self,
        rows: Sequence[int],
        conditions: Sequence[Tensor],
        ends: Sequence[bool],
        state: SpeechState,
        generators: Sequence[torch.Generator],
    ) -> tuple[list[list[int]], list[int | None]]:
        """Return the codes of each row, and of each the one that is to be fed with its next unit."""
        steps = CODES_PER_UNIT + self.strict  # officially the last number drawn is thrown away
        may_stop = [end or not state.rows[row].begun for row, end in zip(rows, ends, strict=True)]
        seeds = self._seeds(generators)
        hidden = self._begin(rows, conditions, state)
        if state.cache.steps is not None and not self.strict:
            starts = [
                UnitStart(row, state.rows[row].codes, may, seed)
                for row, may, seed in zip(rows, may_stop, seeds.tolist(), strict=True)
            ]
            drawn = self._steps.run(starts, hidden, state.cache)
            return drawn, [said[-1] if len(said) == CODES_PER_UNIT else None for said in drawn]
        codes: list[list[int]] = [[] for _ in rows]
        going = list(range(len(rows)))
        for step in range(steps):
            recent = [self._recent(state.rows[rows[place]], codes[place]) for place in going]
            scores = self._scores(hidden, recent, [may_stop[place] for place in going])
            chosen = self._chosen(scores, seeds[going], step, [generators[place] for place in going])
            kept = [i for i, code in enumerate(chosen) if code != self.config.eos_code]
            going = [going[i] for i in kept]
            if step < CODES_PER_UNIT:
                for place, i in zip(going, kept, strict=True):
                    codes[place].append(chosen[i])
            if step == steps - 1 or not going:
                break
            embeds = self.emb_code[0](torch.tensor([codes[place][-1] for place in going], device=hidden.device))
            hidden = self.model(embeds.split(1), [rows[place] for place in going], state.cache)
        return codes, [codes[place][-1] if place in going and not self.strict else None for place in range(len(rows))]

    @property
    def _steps(self) -> SpeechSteps:
        options = self.sampling
        return SpeechSteps(
            self.model,
            embed=self.emb_code[0],
            scores=lambda states: self.head_code[0](states).float() / options.temperature,
            choose=self._chosen_on_device,
            eos=self.config.eos_code,
            penalty=options.repetition_penalty,
            window=options.repetition_window,
            count=CODES_PER_UNIT,
        )

    def _begin(self, rows: Sequence[int], conditions: Sequence[Tensor], state: SpeechState) -> Tensor:
        """Feed the conditions, each behind what the unit before left over: states of their ends ``[B, width]``."""
        embeds = []
        for row, condition in zip(rows, conditions, strict=True):
            unfed = state.rows[row].unfed
            if unfed is not None:
                code = self.emb_code[0](torch.tensor([unfed], device=condition.device))
                condition = torch.cat([code, condition])
            embeds.append(condition)
        hidden: Tensor = self.model(embeds, rows, state.cache)
        return hidden

    def _recent(self, row: _Row, codes: Sequence[int]) -> Sequence[int]:
        said = codes if self.strict else [*row.codes, *codes]
        return said[-self.sampling.repetition_window :]

    def _scores(self, hidden: Tensor, recent: Sequence[Sequence[int]], may_stop: Sequence[bool]) -> Tensor:
        """Scores of the next codes ``[B, codes]`` float32."""
        scores: Tensor = self.head_code[0](hidden).float() / self.sampling.temperature
        scores = penalised(scores, recent, self.sampling.repetition_penalty)
        must_go_on = torch.tensor([not may for may in may_stop], device=scores.device)
        scores[:, self.config.eos_code].masked_fill_(must_go_on, -math.inf)
        return scores

    def _seeds(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw one number for each row's unit, int64 ``[B]``."""
        if self.strict or self.sampling.greedy:
            return torch.zeros(len(generators), dtype=torch.int64)
        drawn = [torch.randint(2**62, (1,), generator=generator) for generator in generators]
        return torch.cat(drawn).to(self.emb_text.weight.device)

    def _chosen(self, scores: Tensor, seeds: Tensor, step: int, generators: Sequence[torch.Generator]) -> list[int]:
        if self.strict and not self.sampling.greedy:
            shares = scores.softmax(dim=1).cpu()
            return [int(torch.multinomial(row, 1, generator=g)) for row, g in zip(shares, generators, strict=True)]
        found: list[int] = self._chosen_on_device(scores, seeds, step).tolist()
        return found

    def _chosen_on_device(self, scores: Tensor, seeds: Tensor, step: int | Tensor) -> Tensor:
        if self.sampling.greedy:
            return scores.argmax(dim=1)
        # Exponential numbers race: the first to arrive is code i with probability softmax(scores)[i]. The numbers come
        # from a hash of the row's seed, so that one call draws for all rows, and for none differently.
        return (scores - waiting_times(seeds, step, scores.shape[1]).log()).argmax(dim=1)


def waiting_times(seeds: Tensor, step: int | Tensor, count: int) -> Tensor:
    """Draw exponential numbers that depend on nothing but seed, step and place.

    Args:
        seeds: int64 ``[B]``, below 2⁶².
        step: which draw of these seeds, ``[]`` if a tensor.
        count: numbers for each.

    Returns:
        float32 ``[B, count]``
    """
    place = torch.arange(count, device=seeds.device) + step * count
    low, high = seeds & _WORD, seeds >> 32
    mixed = _mixed(_mixed(place ^ low[:, None]) ^ high[:, None])
    return -torch.log(((mixed >> 8).float() + 0.5) / 2**24)  # as many bits as a float32 holds: never 0, never 1


_WORD = 0xFFFF_FFFF


def _mixed(x: Tensor) -> Tensor:
    """Scatter 32-bit words, held in int64. Source: the finalizer of MurmurHash3 by Austin Appleby (public domain)."""
    x = ((x ^ (x >> 16)) * 0x85EB_CA6B) & _WORD
    x = ((x ^ (x >> 13)) * 0xC2B2_AE35) & _WORD
    return x ^ (x >> 16)


def penalised(scores: Tensor, recent: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Make codes less likely by ``penalty`` to the power of how often they are among the newest.

    Args:
        scores: ``[B, codes]`` float32; changed in place.
        recent: newest codes of each row.
        penalty: above 1.
    """
    counts = [Counter(row) for row in recent]
    longest = max(map(len, counts), default=0)
    if not longest:
        return scores
    # Filled up with an entry of the row itself, written twice with one value, or with one that changes nothing.
    entries = [[*count.items()] or [(0, 0)] for count in counts]
    padded = torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in entries], device=scores.device)
    ids, times = padded.unbind(dim=2)
    found = scores.take_along_dim(ids, 1)
    factor = torch.pow(torch.tensor(penalty, device=scores.device), times)
    return scores.scatter_(1, ids, torch.where(found < 0, found * factor, found / factor))


class _Projector(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, out)
        self.linear2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(functional.relu(self.linear1(x)))
        return out
