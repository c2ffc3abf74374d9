"""Positions added at once are those added one by one, whoever is beside them and wherever layers lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.config import LlmConfig
from duplex_server.models.minicpmo.kv import ContextFull, KvCache
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.rope import Rope, rotated, rotated_together, signed

CONFIG = LlmConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
    head_dim=32,
    rope_theta=1e6,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llm() -> Qwen3:
    torch.manual_seed(0)
    return Qwen3(CONFIG).requires_grad_(requires_grad=False)


def embeds(length: int, seed: int) -> Tensor:
    return torch.randn(length, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))


def new_cache(llm: Qwen3, way: str, rows: int, capacity: int) -> KvCache:
    replays = Replays(CPU) if way == "recorded" else None
    return llm.new_cache(rows, capacity, together=way != "row by row", replays=replays)


@pytest.mark.parametrize("way", ["row by row", "masked", "recorded"])
def test_one_forward_is_token_by_token(llm: Qwen3, way: str) -> None:
    x = embeds(12, 0)
    at_once, one_by_one = llm.new_cache(2, 20), new_cache(llm, way, 2, 20)
    (expected,) = llm.forward([x], [0], at_once)
    parts = []
    for i in range(12):
        beside = [embeds(1 + i % 3, i)] if one_by_one.lengths[1] < 17 else []
        parts.append(llm.forward([x[i : i + 1], *beside], [0, 1][: 1 + len(beside)], one_by_one)[0])
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["masked", "recorded"])
@pytest.mark.parametrize("rows", [[0, 1, 2], [7, 0], [5, 6, 3]], ids=["neighbours", "far apart", "out of order"])
def test_ragged_rows_in_one_call_are_as_alone(llm: Qwen3, rows: list[int], way: str) -> None:
    alone, together = llm.new_cache(8, 40), new_cache(llm, way, 8, 40)
    for step in range(3):
        batch = [embeds(1 + (row + step) % 4, 10 * row + step) for row in rows]
        found = llm.forward(batch, rows, together)
        for row, x, result in zip(rows, batch, found, strict=True):
            torch.testing.assert_close(result, llm.forward([x], [row], alone)[0], atol=1e-5, rtol=1e-5)
    for row in set(range(8)) - set(rows):
        assert not together.layers[0].keys[row, :, :40].any()


def test_a_row_is_recorded_to_its_last_position(llm: Qwen3) -> None:
    """What is padding is written behind it."""
    plain, recorded = llm.new_cache(2, 63), new_cache(llm, "recorded", 2, 63)
    for cache in (plain, recorded):
        llm.forward([embeds(61, 0), embeds(5, 1)], [0, 1], cache)
    batch = [embeds(2, 2), embeds(1, 3)]
    expected = llm.forward(batch, [0, 1], plain)
    for found, wanted in zip(llm.forward(batch, [0, 1], recorded), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for row, length in enumerate(recorded.lengths):
        torch.testing.assert_close(
            recorded.layers[0].keys[row, :, :length], plain.layers[0].keys[row, :, :length], atol=1e-5, rtol=1e-5
        )


def test_what_would_be_mostly_padding_is_not_recorded(llm: Qwen3) -> None:
    cache = new_cache(llm, "recorded", 8, 200)
    assert cache.steps is not None
    kept = cache.steps.replays._kept
    llm.forward([embeds(100, 0)], [7], cache)
    assert not kept, "8 rows of 128 positions for 100"
    llm.forward([embeds(150, 0)], [0], cache)
    assert not kept, "longer than anything recorded"
    llm.forward([embeds(1, 0), embeds(1, 0)], [7, 2], cache)
    assert [key[1:3] for key in kept] == [(8, 1)]  # type: ignore[index]


def test_a_full_row_changes_nothing_for_any(llm: Qwen3) -> None:
    cache = llm.new_cache(2, 5)
    llm.forward([embeds(4, 0)], [1], cache)
    with pytest.raises(ContextFull, match="row 1 has 5 positions and would need 6"):
        llm.forward([embeds(1, 1), embeds(2, 2)], [0, 1], cache)
    assert cache.lengths == [0, 4]


def test_half_precision_keeps_the_residual_in_float32(llm: Qwen3) -> None:
    """Activations beyond what float16 holds come through."""
    large = {
        name: weight * (300 if "up_proj" in name or "gate_proj" in name else 1)
        for name, weight in llm.state_dict().items()
    }
    full, half = (Qwen3(CONFIG).requires_grad_(requires_grad=False) for _ in range(2))
    full.load_state_dict(large)
    half.load_state_dict(large)
    half.half()
    x = embeds(6, 0) * 30
    largest = []
    hook = full.get_submodule("model.layers.0.mlp.down_proj").register_forward_hook(
        lambda _, inputs, __: largest.append(float(inputs[0].abs().max()))
    )
    (expected,) = full.forward([x], [0], full.new_cache(1, 8))
    hook.remove()
    (found,) = half.forward([x], [0], half.new_cache(1, 8))
    assert found.dtype is torch.float16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    assert largest[0] > torch.finfo(torch.float16).max, "the test goes beyond the range"


def test_queries_and_keys_rotated_together_are_each_rotated_to_the_bit() -> None:
    cos, sin = (part[:, None] for part in Rope(32, 1e6).cos_sin(torch.arange(7) + 90, torch.bfloat16))
    queries, keys = (torch.randn(7, heads, 32).bfloat16() for heads in (4, 2))
    for found, wanted in zip(rotated_together(queries, keys, cos, signed(sin)), (queries, keys), strict=True):
        assert torch.equal(found, rotated(wanted, cos, sin))


class TestMovedKeys:
    def test_one_rotation_is_many(self) -> None:
        rope = Rope(32, 1e6)
        keys = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
        step_by_step = keys
        for by in (-7, -40, 3, -100):
            step_by_step = rope.turned(step_by_step, by)
        torch.testing.assert_close(step_by_step, rope.turned(keys, -144), atol=1e-5, rtol=1e-5)

    def test_turned_keys_are_those_of_the_new_position(self) -> None:
        rope = Rope(32, 1e6)
        raw = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
        at = [rotated(raw, *rope.cos_sin(torch.arange(9) + start, torch.float32)) for start in (3500, 12)]
        torch.testing.assert_close(rope.turned(at[0], 12 - 3500), at[1], atol=2e-3, rtol=0)
        torch.testing.assert_close(rope.turned_officially(at[0], 3500, 12), at[1], atol=2e-3, rtol=0)

    def test_the_official_rotation_is_reproduced(self, shared_goldens: Path) -> None:
        import numpy as np

        with np.load(shared_goldens / "golden_components.npz") as arrays:
            keys, turned = torch.from_numpy(arrays["rope_in"][0]), torch.from_numpy(arrays["rope_out"][0])
        # The golden says how far, not from where; in float32 that makes no difference that can be seen.
        torch.testing.assert_close(Rope(64, 1e6).turned(keys, -33), turned, atol=1e-5, rtol=0)
        torch.testing.assert_close(Rope(64, 1e6).turned_officially(keys, 40, 7), turned, atol=1e-5, rtol=0)

    def test_our_way_rounds_less_than_the_official_one(self) -> None:
        """Bfloat16 keys after 20 drops, against the same in float32 (specification §9.2 h)."""
        rope = Rope(128, 1e6)
        raw = torch.randn(8, 16, 128, generator=torch.Generator().manual_seed(0))
        exact = rotated(raw, *rope.cos_sin(torch.arange(16) + 300, torch.float32))
        ours, official = exact.bfloat16(), exact.bfloat16()
        ours = rope.turned(ours, -260)
        for start in range(300, 40, -13):
            official = rope.turned_officially(official, start, start - 13)
        expected = rope.turned(exact, -260)
        errors = [float((keys.float() - expected).pow(2).mean().sqrt()) for keys in (ours, official)]
        assert errors[0] * 3 < errors[1]

    def test_what_is_dropped_is_gone_and_the_rest_unharmed(self, llm: Qwen3) -> None:
        """Values stay, keys turn; a row that overlaps itself while it moves is not mixed up."""
        cache = llm.new_cache(2, 30)
        llm.forward([embeds(20, 0), embeds(5, 1)], [0, 1], cache)
        values = cache.layers[0].values[0].clone()
        keys = cache.layers[1].keys.clone()
        cache.move(0, 7, 4)
        assert cache.lengths == [17, 5]
        torch.testing.assert_close(cache.layers[0].values[0, :, :17], torch.cat((values[:, :4], values[:, 7:20]), 1))
        torch.testing.assert_close(cache.layers[1].keys[0, :, 4:17], llm.rope.turned(keys[0, :, 7:20], -3))
        assert torch.equal(cache.layers[1].keys[1], keys[1])
        cache.move(0, 4, 9)
        assert cache.lengths[0] == 22
        torch.testing.assert_close(cache.layers[0].values[0, :, 9:22], values[:, 7:20])
        with pytest.raises(ContextFull):
            cache.move(0, 9, 20)
