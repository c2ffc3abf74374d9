"""The sizes of a flow model, read from the shapes of its tensors, so that ``flow.yaml`` need not be believed.

Knows nothing about tensors' values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FlowShape"]


@dataclass(frozen=True, slots=True)
class FlowShape:
    """Widths and depths; what is not here is fixed by the family (specification §6)."""

    codes: int
    """Speech codes that have an embedding: 6561."""
    width: int
    """Of the encoder: 512."""
    heads: int
    feed_forward: int
    token_blocks: int
    """At 25 Hz, before the upsampling: 6."""
    mel_blocks: int
    """At 50 Hz, after it: 4."""
    mel_bins: int
    speaker: int
    """Length of a speaker vector: 192."""
    dit_width: int
    dit_head: int
    """Width of one head of the DiT: 64."""
    dit_inner: int
    """Width of all its heads together."""
    dit_feed_forward: int
    dit_depth: int
    time_features: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> FlowShape:
        """Read the sizes from the shapes of ``flow.pt``.

        Raises:
            KeyError: a tensor that every flow model has is missing.
        """
        block = "decoder.estimator.blocks.0."
        return cls(
            codes=shapes["input_embedding.weight"][0],
            width=shapes["input_embedding.weight"][1],
            heads=shapes["encoder.encoders.0.self_attn.pos_bias_u"][0],
            feed_forward=shapes["encoder.encoders.0.feed_forward.w_1.weight"][0],
            token_blocks=_count(shapes, "encoder.encoders.{}.norm_ff.weight"),
            mel_blocks=_count(shapes, "encoder.up_encoders.{}.norm_ff.weight"),
            mel_bins=shapes["encoder_proj.weight"][0],
            speaker=shapes["spk_embed_affine_layer.weight"][1],
            dit_width=shapes["decoder.estimator.in_proj.weight"][0],
            dit_head=shapes[block + "attn.q_norm.weight"][0],
            dit_inner=shapes[block + "attn.to_q.weight"][0],
            dit_feed_forward=shapes[block + "mlp.fc1.weight"][0],
            dit_depth=_count(shapes, "decoder.estimator.blocks.{}.attn.proj.weight"),
            time_features=shapes["decoder.estimator.t_embedder.mlp.0.weight"][1],
        )

    @property
    def dit_heads(self) -> int:
        return self.dit_inner // self.dit_head

    def cache_bytes(self, frames: int, steps: int, element_bytes: int) -> int:
        """Size of the DiT's caches of one speaking conversation, the largest part of its state.

        Args:
            frames: of the voice prompt and of the newest speech that are kept, together.
            steps: of the ODE.
            element_bytes: 4 in float32, 2 in half precision.
        """
        per_block = 2 * 2 * (self.dit_inner * frames + 2 * self.dit_width)
        return steps * self.dit_depth * per_block * element_bytes


def _count(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    count = 0
    while name.format(count) in shapes:
        count += 1
    return count
