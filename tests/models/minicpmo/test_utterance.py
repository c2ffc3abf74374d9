"""Tests of speech codes outside duplex: the official codes in four ways to remember, and what is remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.speech_memory import SpeechMemory
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder, penalised
from duplex_server.models.minicpmo.utterance import AttentionMode, Utterance, UtteranceOptions

GREEDY = UtteranceOptions(greedy=True, window_positions=40, most_codes=40)
"""As in the goldens, but for the way to remember."""


def random_numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(decoder: SpeechDecoder, n: int, length: int = 10) -> list[Tensor]:
    return list(torch.randn(n, length, decoder.config.hidden_size, generator=random_numbers(1)) * 0.5)


@pytest.mark.parametrize("mode", AttentionMode)
def test_codes_are_those_of_the_official_code(
    shared_goldens: Path, speech_decoder: SpeechDecoder, mode: AttentionMode
) -> None:
    """Three chunks of ten tokens, at most 40 codes for each, of which the first 100 are known."""
    golden = np.load(shared_goldens / "golden_components.npz")
    config, table = speech_decoder.config, speech_decoder.emb_text.weight
    utterance = Utterance(speech_decoder, replace(GREEDY, attention=mode), random_numbers(), strict_parity=True)
    found: list[int] = []
    for chunk in range(3):
        ending = [table[config.text_eos_token_id]] if chunk == 2 else []
        rows = [*torch.from_numpy(golden[f"tts_sc_cond{chunk}"][0]), *ending, table[config.audio_bos_token_id]]
        found += utterance.speak_from(torch.stack(rows))
    assert found[:100] == golden[f"tts_stream_{mode.value}"].tolist()


def test_officially_the_last_code_of_a_chunk_is_forgotten(speech_decoder: SpeechDecoder) -> None:
    spoken = {}
    for strict in (False, True):
        utterance = Utterance(speech_decoder, GREEDY, random_numbers(), strict_parity=strict)
        spoken[strict] = [utterance.speak_from(condition) for condition in conditions(speech_decoder, 2)]
    assert spoken[False][0] == spoken[True][0]
    assert spoken[False][1] != spoken[True][1]


def test_a_chunk_in_full_attention_is_part_of_the_whole(speech_decoder: SpeechDecoder) -> None:
    """What a second chunk is spoken from is everything before, as if it had been fed in one go."""
    first, second = conditions(speech_decoder, 2)
    utterance = Utterance(speech_decoder, GREEDY, random_numbers())
    codes = utterance.speak_from(first)
    with torch.inference_mode():
        whole = SpeechMemory(speech_decoder.model, 4096)
        state = whole.add(torch.cat([first, speech_decoder.emb_code[0](torch.tensor(codes)), second]))
    assert utterance.speak_from(second)[0] == int(_penalised_greedy(speech_decoder, state, codes, GREEDY.temperature))


def _penalised_greedy(decoder: SpeechDecoder, state: Tensor, codes: list[int], temperature: float) -> int:
    with torch.inference_mode():
        return int(penalised(decoder.head_code[0](state).float() / temperature, [codes[-16:]], 1.05).argmax())


def test_recomputing_remembers_one_chunk(speech_decoder: SpeechDecoder) -> None:
    """What was said two chunks ago has no part in it, but for what the repetition penalty sees."""
    options = replace(GREEDY, attention=AttentionMode.SLIDING_RECOMPUTE)
    a, b, c, d = conditions(speech_decoder, 4)
    one, other = (Utterance(speech_decoder, options, random_numbers()) for _ in range(2))
    for condition in (a, b):
        one.speak_from(condition)
    other.speak_from(d)
    other._chunks[-1] = one._chunks[-1]
    other._codes = list(one._codes)
    assert one.speak_from(c) == other.speak_from(c)


def test_reindexing_keeps_the_first_and_the_last_chunk_together(speech_decoder: SpeechDecoder) -> None:
    utterance = Utterance(speech_decoder, replace(GREEDY, attention=AttentionMode.REINDEX), random_numbers())
    lengths = []
    for condition in conditions(speech_decoder, 6):
        utterance.speak_from(condition)
        lengths.append((len(utterance._memory), utterance._memory.next_position))
    # A chunk is ten positions and 40 codes, of which the last goes in with the next.
    assert lengths == [(49, 49), (99, 99), (149, 149), (149, 149), (149, 149), (149, 149)]


def test_a_window_holds_the_newest_positions(speech_decoder: SpeechDecoder) -> None:
    options = replace(GREEDY, attention=AttentionMode.SLIDING_WINDOW)
    utterance = Utterance(speech_decoder, options, random_numbers())
    for condition in conditions(speech_decoder, 3):
        utterance.speak_from(condition)
        assert len(utterance._memory) == 40


def test_a_long_utterance_forgets_its_older_half(speech_decoder: SpeechDecoder) -> None:
    with torch.inference_mode():
        memory = SpeechMemory(speech_decoder.model, 64)
        for condition in conditions(speech_decoder, 20):
            assert memory.add(condition).isfinite().all()
            assert len(memory) <= 64 and memory.next_position <= 64
    assert len(memory) > 20


def test_what_is_moved_is_seen_as_if_it_had_always_stood_there(speech_decoder: SpeechDecoder) -> None:
    a, b, c = conditions(speech_decoder, 3)
    with torch.inference_mode():
        plain, shifted = SpeechMemory(speech_decoder.model, 64), SpeechMemory(speech_decoder.model, 64)
        plain.add(a)
        for _ in range(7):
            shifted.skip_position()
        shifted.add(a)
        shifted.cut_out(0, 7)
        assert shifted.next_position == plain.next_position
        assert torch.allclose(shifted.add(b), plain.add(b), atol=1e-5)
        for memory in (plain, shifted):
            memory.keep_newest(10)
        assert torch.allclose(shifted.add(c), plain.add(c), atol=1e-5)


def test_speech_ends_only_after_the_least_codes(speech_decoder: SpeechDecoder) -> None:
    eager = replace(UtteranceOptions(), least_codes=30, most_codes=60, temperature=5.0, top_p=1.0, top_k=6562)
    lengths = [
        len(Utterance(speech_decoder, eager, random_numbers(seed)).speak_from(conditions(speech_decoder, 1)[0]))
        for seed in range(3)
    ]
    assert all(30 <= length <= 60 for length in lengths)


def test_a_seed_repeats_an_utterance(speech_decoder: SpeechDecoder, tiny_settings: MiniCPMOConfig) -> None:
    options = replace(UtteranceOptions.of(tiny_settings.tts), most_codes=20)
    assert options.attention is AttentionMode.FULL
    hidden = torch.randn(4, tiny_settings.llm.hidden_size, generator=random_numbers())
    first, again, other = (
        Utterance(speech_decoder, options, random_numbers(seed)).speak([1, 2, 3, 4], hidden, last=True)
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(0 <= code < speech_decoder.config.eos_code for code in first)
