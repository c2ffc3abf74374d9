"""The next token: the official filters exactly, and ours where they were meant differently."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.sampling import Choice, Sampler, SamplingOptions, top_k_top_p
from duplex_server.models.minicpmo.tokens import SPECIAL

VOCABULARY = 151_748
GREEDY = SamplingOptions(greedy=True)


def scores(**by_id: float) -> Tensor:
    """Return scores of −20 for all but the tokens named ``t<id>`` or as in SPECIAL, ``[1, vocabulary]``."""
    found = torch.full((1, VOCABULARY), -20.0)
    for name, score in by_id.items():
        found[0, int(name[1:]) if name[1:].isdigit() else getattr(SPECIAL, name)] = score
    return found


def choose(logits: Tensor, history: list[int] | None = None, *, official: bool, **options: object) -> int:
    sampler = Sampler(replace(GREEDY, **options), [13], official=official)  # type: ignore[arg-type]
    return sampler.choose(logits, [Choice(history or [], torch.Generator().manual_seed(0))])[0]


def test_filters_are_the_official_ones(shared_goldens: Path) -> None:
    with np.load(shared_goldens / "golden_components.npz") as arrays:
        given, expected = torch.from_numpy(arrays["filt_in"]), torch.from_numpy(arrays["filt_k20_p08"])
    torch.testing.assert_close(top_k_top_p(given / 0.7, 20, 0.8), expected)


def test_ties_at_the_last_place_are_all_kept() -> None:
    assert torch.isfinite(top_k_top_p(torch.tensor([[3.0, 1, 1, 1, 0]]), 2, 1.0)).tolist() == [
        [True, True, True, True, False]
    ]


@pytest.mark.parametrize("official", [True, False])
def test_forbidden_tokens_are_never_chosen(official: bool) -> None:
    assert choose(scores(t13=5, tts_pad=4, t700=3), official=official) == 700


@pytest.mark.parametrize("official", [True, False])
def test_barred_tokens_are_not_chosen_this_time(official: bool) -> None:
    sampler = Sampler(GREEDY, [], official=official)
    choice = Choice([], torch.Generator(), barred={SPECIAL.chunk_eos, SPECIAL.listen})
    assert sampler.choose(scores(chunk_eos=5, listen=4, t700=3), [choice]) == [700]


@pytest.mark.parametrize("official", [True, False])
def test_ending_a_turn_is_less_likely_than_it_scores(official: bool) -> None:
    assert choose(scores(turn_eos=3.2, t700=3), official=official) == 700
    assert choose(scores(turn_eos=3.4, t700=3), official=official) == SPECIAL.turn_eos


def test_a_conversation_may_prefer_listening_and_another_not() -> None:
    sampler = Sampler(GREEDY, [])
    logits = scores(listen=2.9, t700=3).repeat(2, 1)
    eager, patient = (Choice([], torch.Generator(), listen_scale=scale) for scale in (1.0, 1.2))
    assert sampler.choose(logits, [eager, patient]) == [700, SPECIAL.listen]


class TestDifferences:
    """Specification §9.2 a, b and j: each shown both ways."""

    def test_listening_is_made_likelier_by_its_own_token(self) -> None:
        logits = scores(listen=2.9, im_end=2.0, t700=3)
        assert choose(logits, official=True, listen_scale=2.0) == SPECIAL.im_end
        assert choose(logits, official=False, listen_scale=2.0) == SPECIAL.listen

    def test_listening_when_among_the_likeliest_is_about_its_own_token(self) -> None:
        logits = scores(listen=2.0, im_end=1.0, t700=3)
        assert choose(logits, official=True, listen_top_k=3) == SPECIAL.im_end
        assert choose(logits, official=False, listen_top_k=3) == SPECIAL.listen
        assert choose(logits, official=False, listen_top_k=1) == 700

    def test_a_repeated_token_is_less_likely_whatever_its_sign(self) -> None:
        logits = scores(t700=-3.0, t800=-3.1)
        assert choose(logits, [700], official=True) == 700
        assert choose(logits, [700], official=False) == 800

    def test_listening_again_is_no_repetition(self) -> None:
        logits = scores(listen=3.1, t700=3)
        assert choose(logits, [SPECIAL.listen], official=True) == 700
        assert choose(logits, [SPECIAL.listen], official=False) == SPECIAL.listen

    def test_ending_a_unit_is_one_choice_among_the_others(self) -> None:
        """Officially a draw of its own, at temperature 1 and before all filters, decides."""
        logits = scores(**{f"t{700 + i}": 2.0 for i in range(4)}, chunk_eos=0.5)
        counts = {}
        for official in (True, False):
            sampler = Sampler(SamplingOptions(top_p=0.5), [], official=official)
            generator = torch.Generator().manual_seed(1)
            counts[official] = Counter(sampler.choose(logits, [Choice([], generator)])[0] for _ in range(200))
        assert 0 < counts[True][SPECIAL.chunk_eos] < 40
        assert counts[False][SPECIAL.chunk_eos] == 0


class TestDrawing:
    def test_frequencies_are_the_filtered_probabilities(self) -> None:
        logits = scores(t700=1.4, t701=0.7, t702=0.0, t703=-5)
        sampler = Sampler(SamplingOptions(temperature=0.7, top_k=3, top_p=0.95), [])
        generator = torch.Generator().manual_seed(0)
        n = 2000
        counts = Counter(sampler.choose(logits, [Choice([], generator)])[0] for _ in range(n))
        weights = {700: math.exp(2), 701: math.exp(1), 702: 1.0}
        assert set(counts) == set(weights)
        for token, weight in weights.items():
            assert counts[token] / n == pytest.approx(weight / sum(weights.values()), abs=0.03)

    def test_each_row_draws_from_its_own_numbers(self) -> None:
        logits = scores(**{f"t{700 + i}": 1.0 for i in range(20)}).repeat(4, 1)
        sampler = Sampler(SamplingOptions(top_p=1.0), [])

        def choices(seeds: list[int]) -> list[Choice]:
            return [Choice([701] * seed, torch.Generator().manual_seed(seed)) for seed in seeds]

        together = sampler.choose(logits, choices([0, 1, 2, 3]))
        assert len(set(together)) > 1
        assert sampler.choose(logits, choices([3, 1, 0, 2])) == [together[seed] for seed in (3, 1, 0, 2)]
        assert [sampler.choose(logits[:1], choices([seed]))[0] for seed in range(4)] == together

    def test_scores_are_left_as_they_were(self) -> None:
        logits = scores(t700=1)
        before = logits.clone()
        for official in (True, False):
            choose(logits, [700, 800], official=official)
        assert torch.equal(logits, before)
