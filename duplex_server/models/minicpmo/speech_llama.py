"""The Llama body of the speech-token decoder over rows; everything but attention runs over their packed positions.

Knows nothing about codes or turns. Parameter names are the official ones below ``tts.model.``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.config import TtsConfig
from duplex_server.models.minicpmo.kv import KvCache, LayerCache, Ragged
from duplex_server.models.minicpmo.llm import RmsNorm
from duplex_server.models.minicpmo.recorded_steps import RecordedSteps
from duplex_server.models.minicpmo.rectangle import Rectangle
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.rope import Rope, rotated_together, signed

__all__ = ["LlamaBody"]

NORM_EPS = 1e-6
ROPE_THETA = 10_000.0
"""Both are not in the checkpoint's configuration. Source: the official class (specification §1.2)."""


class LlamaBody(nn.Module):
    """Layers and the last norm; embeddings come from outside."""

    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, NORM_EPS)
        self.rope = Rope(config.head_dim, ROPE_THETA)
        self._config = config

    def new_cache(self, rows: int, capacity: int, *, together: bool = False, replays: Replays | None = None) -> KvCache:
        """Return an empty cache beside the weights, see :class:`KvCache`."""
        weight, config = self.norm.weight, self._config
        cache = KvCache(
            [weight.device] * len(self.layers),
            rows,
            config.num_key_value_heads,
            config.head_dim,
            capacity,
            dtype=weight.dtype,
            rope=self.rope,
            together=together,
            recorded=replays is not None,
        )
        if replays is not None:
            cache.steps = RecordedSteps(
                cache,
                replays,
                lambda x, where: self.through(x, where, cache),
                width=config.hidden_size,
                group=config.num_attention_heads // config.num_key_value_heads,
            )
        return cache

    def forward(self, embeds: Sequence[Tensor], rows: Sequence[int], cache: KvCache) -> Tensor:
        """Add positions to some rows.

        Args:
            embeds: of each row, ``[T_i, width]``, T_i at least 1.
            rows: whose they are, each row once.
            cache: grows by them.

        Returns:
            The state of each row's last position ``[B, width]``, after the last norm.

        Raises:
            ContextFull: a row is too short; nothing has been changed.
        """
        ragged = cache.reserve(rows, [len(part) for part in embeds])
        x = torch.cat(list(embeds))
        states = cache.steps.run(x, ragged) if cache.steps is not None else None
        if states is None:
            states = self.through(x, ragged, cache)
        cache.commit(ragged)
        return states[ragged.lasts]

    def through(self, x: Tensor, where: Ragged | Rectangle, cache: KvCache) -> Tensor:
        """Take positions ``[n, width]`` through all layers and the last norm; their keys and values are stored."""
        _, positions = where.index(x.device)
        cos, sin = self.rope.cos_sin(positions, x.dtype)
        cos, sin = cos[:, None], signed(sin)[:, None]
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x = layer(x, cos, sin, layer_cache, where)
        out: Tensor = self.norm(x)
        return out


class _Attention(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self._head_dim = config.head_dim
        queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, where: Ragged | Rectangle) -> Tensor:
        per_head = (-1, self._head_dim)
        queries, keys = (of(x).unflatten(-1, per_head) for of in (self.q_proj, self.k_proj))  # [S, heads, head_dim]
        queries, keys = rotated_together(queries, keys, cos, sin)
        values = self.v_proj(x).unflatten(-1, per_head)
        out: Tensor = self.o_proj(cache.attend(queries, keys, values, where))
        return out


class _Mlp(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class _Layer(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, NORM_EPS)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, NORM_EPS)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, where: Ragged | Rectangle) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, where)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
