"""The Qwen3 body over rows: everything but attention runs once over the packed positions of all rows.

Parameter names are the official ones below ``llm.``. Knows nothing about what the positions mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.config import LlmConfig
from duplex_server.models.minicpmo.embeddings import empty_embedding
from duplex_server.models.minicpmo.kv import KvCache, Ragged
from duplex_server.models.minicpmo.recorded_steps import RecordedSteps
from duplex_server.models.minicpmo.rectangle import Rectangle
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.rope import Rope, rotated_together, signed

__all__ = ["Qwen3", "RmsNorm"]

_HALF_MLP_SCALE = 1 / 64
"""In float16 the input of the last linear layer of each MLP is made so much smaller, its output larger again in
float32. Qwen3's few very large activations are products of two factors and go beyond 65 504; powers of two lose nothing
but what lies near the smallest numbers."""


class RmsNorm(nn.Module):
    """``x / rms(x) · weight`` over the last dimension, accumulated in float32; the result has the weight's type."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``[..., size]``."""
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self._eps).to(self.weight.dtype)


class _Attention(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self._head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_size, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RmsNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RmsNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[S, heads, head_dim]``, keys and values ``[S, kv_heads, head_dim]``."""
        per_head = (-1, self._head_dim)
        queries = self.q_norm(self.q_proj(x).unflatten(-1, per_head))
        keys = self.k_norm(self.k_proj(x).unflatten(-1, per_head))
        queries, keys = rotated_together(queries, keys, cos, sin)
        return queries, keys, self.v_proj(x).unflatten(-1, per_head)


class _Mlp(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if x.dtype is torch.float16:
            scaled = functional.silu(gate.float()) * up.float() * _HALF_MLP_SCALE
            down: Tensor = self.down_proj(scaled.half())
            return down.float() / _HALF_MLP_SCALE
        out: Tensor = self.down_proj(functional.silu(gate) * up)
        return out


class _Layer(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _Mlp(config)

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before attention: queries, keys and values."""
        found: tuple[Tensor, Tensor, Tensor] = self.self_attn(self.input_layernorm(x), cos, sin)
        return found

    def after(self, x: Tensor, seen: Tensor) -> Tensor:
        """What comes after attention."""
        x = x + self.self_attn.o_proj(seen)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _Body(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.embed_tokens = empty_embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(nn.Module):
    """The language model. Its layers may lie on different devices; embedding and head where they were put.

    In float16 the residual stream is kept in float32, since sums of 36 layers leave the range of float16.
    """

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rope = Rope(config.head_dim, config.rope_theta)

    @property
    def dtype(self) -> torch.dtype:
        """Type of keys, values and of what :meth:`forward` returns."""
        return self.model.norm.weight.dtype

    @property
    def devices(self) -> list[torch.device]:
        """Device of each layer."""
        return [layer.input_layernorm.weight.device for layer in self._layers]

    def new_cache(self, rows: int, capacity: int, *, together: bool = False, replays: Replays | None = None) -> KvCache:
        """Return an empty cache on the layers' devices, see :class:`KvCache`; several record nothing."""
        config = self.config
        recorded = replays is not None and len(set(self.devices)) == 1
        cache = KvCache(
            self.devices,
            rows,
            config.num_key_value_heads,
            config.head_dim,
            capacity,
            dtype=self.dtype,
            rope=self.rope,
            together=together,
            recorded=recorded,
        )
        if replays is not None and recorded:
            cache.steps = RecordedSteps(
                cache,
                replays,
                lambda x, where: self._run(x, where, cache),
                width=config.hidden_size,
                group=config.num_attention_heads // config.num_key_value_heads,
            )
        return cache

    @torch.inference_mode()
    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Return the embeddings of token ids ``[T]``, ``[T, hidden]``, on the first layer's device."""
        weight = self.model.embed_tokens.weight
        found: Tensor = self.model.embed_tokens(torch.as_tensor(ids, dtype=torch.int64).to(weight.device))
        return found.to(self.devices[0], non_blocking=True)

    @torch.inference_mode()
    def forward(self, embeds: Sequence[Tensor], rows: Sequence[int], cache: KvCache) -> list[Tensor]:
        """Add positions to some rows.

        Args:
            embeds: of each row, ``[T_i, hidden]``, T_i at least 1.
            rows: whose they are, each row once.
            cache: grows by them.

        Returns:
            Of each row ``[T_i, hidden]``, after the final norm, on the last layer's device.

        Raises:
            ContextFull: a row is too short; nothing has been changed.
        """
        ragged = cache.reserve(rows, [len(part) for part in embeds])
        x = torch.cat([part.to(self.dtype) for part in embeds])
        hidden = cache.steps.run(x, ragged) if cache.steps is not None else None
        if hidden is None:
            hidden = self._run(x, ragged, cache)
        cache.commit(ragged)
        return list(hidden.split(list(ragged.counts)))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token ``[..., vocabulary]`` for ``hidden`` ``[..., hidden]``."""
        scores: Tensor = self.lm_head(hidden.to(self.lm_head.weight.device))
        return scores

    def _run(self, x: Tensor, where: Ragged | Rectangle, cache: KvCache) -> Tensor:
        if self.dtype is torch.float16:
            x = x.float()
        angles: dict[torch.device, tuple[Tensor, Tensor]] = {}
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            device = layer_cache.device
            if device not in angles:
                _, positions = where.index(device)
                cos, sin = self.rope.cos_sin(positions, self.dtype)
                angles[device] = (cos[:, None], signed(sin)[:, None])  # [S, 1, head_dim], the same for all heads
            x = x.to(device)
            x = layer.after(x, layer_cache.attend(*layer.before(x, *angles[device]), where))
        out: Tensor = self.model.norm(x.to(self.model.norm.weight.device))
        return out

    @property
    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.model.layers if isinstance(layer, _Layer)]
