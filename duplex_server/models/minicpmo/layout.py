"""Which tensors, of which shapes, a checkpoint with a given configuration holds (specification §1.3).

Knows nothing about files or modules: it is what both are checked against.
"""

from __future__ import annotations

from collections.abc import Iterator

from duplex_server.models.minicpmo.config import AudioConfig, LlmConfig, MiniCPMOConfig, TtsConfig, VisionConfig

__all__ = ["PARTS", "tensor_shapes"]

Shaped = Iterator[tuple[str, tuple[int, ...]]]

TTS_TOKENS = 32_000
"""Rows of the speech decoder's unused token embedding: the default vocabulary of a Llama configuration."""

PARTS = ("llm.", "vpm.", "resampler.", "apm.", "audio_projection_layer.", "tts.")
"""The beginnings of names, each a part of the model."""


def tensor_shapes(config: MiniCPMOConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor of the safetensors files by its official name, dead ones included."""
    parts = {
        "llm.": _llm(config.llm),
        "vpm.": _vision(config.vision, config.vision_layers),
        "resampler.": _resampler(config.llm.hidden_size, config.vision.hidden_size, config.query_num),
        "apm.": _audio(config.audio),
        # The official code takes a quarter of the feed-forward width for the encoder's, which it is in the real model.
        "audio_projection_layer.": _two_layers(config.audio.encoder_ffn_dim // 4, config.llm.hidden_size),
        "tts.": _tts(config.tts),
    }
    return {prefix + name: shape for prefix, shaped in parts.items() for name, shape in shaped}


def _linear(name: str, n_in: int, n_out: int, bias: bool = True) -> Shaped:
    yield f"{name}.weight", (n_out, n_in)
    if bias:
        yield f"{name}.bias", (n_out,)


def _norm(name: str, size: int) -> Shaped:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _two_layers(n_in: int, n_out: int) -> Shaped:
    yield from _linear("linear1", n_in, n_out)
    yield from _linear("linear2", n_out, n_out)


def _swiglu(name: str, size: int, inner: int) -> Shaped:
    yield from _linear(f"{name}.gate_proj", size, inner, bias=False)
    yield from _linear(f"{name}.up_proj", size, inner, bias=False)
    yield from _linear(f"{name}.down_proj", inner, size, bias=False)


def _attention(name: str, size: int, q_size: int, kv_size: int) -> Shaped:
    yield from _linear(f"{name}.q_proj", size, q_size, bias=False)
    yield from _linear(f"{name}.k_proj", size, kv_size, bias=False)
    yield from _linear(f"{name}.v_proj", size, kv_size, bias=False)
    yield from _linear(f"{name}.o_proj", q_size, size, bias=False)


def _llm(llm: LlmConfig) -> Shaped:
    yield "model.embed_tokens.weight", (llm.vocab_size, llm.hidden_size)
    for index in range(llm.num_hidden_layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (llm.hidden_size,)
        yield from _attention(
            f"{layer}.self_attn", llm.hidden_size, llm.num_attention_heads * llm.head_dim, llm.kv_size
        )
        yield f"{layer}.self_attn.q_norm.weight", (llm.head_dim,)
        yield f"{layer}.self_attn.k_norm.weight", (llm.head_dim,)
        yield f"{layer}.post_attention_layernorm.weight", (llm.hidden_size,)
        yield from _swiglu(f"{layer}.mlp", llm.hidden_size, llm.intermediate_size)
    yield "model.norm.weight", (llm.hidden_size,)
    yield "lm_head.weight", (llm.vocab_size, llm.hidden_size)


def _vision(vision: VisionConfig, n_layers: int) -> Shaped:
    size = vision.hidden_size
    yield "embeddings.patch_embedding.weight", (size, vision.num_channels, vision.patch_size, vision.patch_size)
    yield "embeddings.patch_embedding.bias", (size,)
    yield "embeddings.position_embedding.weight", (vision.patches_per_side**2, size)
    for index in range(n_layers):
        layer = f"encoder.layers.{index}"
        yield from _norm(f"{layer}.layer_norm1", size)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{projection}", size, size)
        yield from _norm(f"{layer}.layer_norm2", size)
        yield from _linear(f"{layer}.mlp.fc1", size, vision.intermediate_size)
        yield from _linear(f"{layer}.mlp.fc2", vision.intermediate_size, size)
    yield from _norm("post_layernorm", size)


def _resampler(size: int, vision_size: int, queries: int) -> Shaped:
    yield "query", (queries, size)
    yield "proj", (size, size)
    yield from _linear("kv_proj", vision_size, size, bias=False)
    yield "attn.in_proj_weight", (3 * size, size)
    yield "attn.in_proj_bias", (3 * size,)
    yield from _linear("attn.out_proj", size, size)
    for norm in ("ln_q", "ln_kv", "ln_post"):
        yield from _norm(norm, size)


def _audio(audio: AudioConfig) -> Shaped:
    size = audio.d_model
    yield "conv1.weight", (size, audio.num_mel_bins, 3)
    yield "conv1.bias", (size,)
    yield "conv2.weight", (size, size, 3)
    yield "conv2.bias", (size,)
    yield "embed_positions.weight", (audio.max_source_positions, size)
    for index in range(audio.encoder_layers):
        layer = f"layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{projection}", size, size, bias=projection != "k_proj")
        yield from _norm(f"{layer}.self_attn_layer_norm", size)
        yield from _linear(f"{layer}.fc1", size, audio.encoder_ffn_dim)
        yield from _linear(f"{layer}.fc2", audio.encoder_ffn_dim, size)
        yield from _norm(f"{layer}.final_layer_norm", size)
    yield from _norm("layer_norm", size)


def _tts(tts: TtsConfig) -> Shaped:
    size = tts.hidden_size
    yield "emb_text.weight", (tts.num_text_tokens, size)
    yield "model.embed_tokens.weight", (TTS_TOKENS, size)
    for index in range(tts.num_hidden_layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (size,)
        yield from _attention(f"{layer}.self_attn", size, size, tts.num_key_value_heads * tts.head_dim)
        yield f"{layer}.post_attention_layernorm.weight", (size,)
        yield from _swiglu(f"{layer}.mlp", size, tts.intermediate_size)
    yield "model.norm.weight", (size,)
    for projector in ("projector_spk", "projector_semantic"):
        for name, shape in _two_layers(tts.llm_dim, size):
            yield f"{projector}.{name}", shape
    yield "emb_code.0.weight", (tts.num_audio_tokens, size)
    yield "head_code.0.parametrizations.weight.original0", (tts.num_audio_tokens, 1)
    yield "head_code.0.parametrizations.weight.original1", (tts.num_audio_tokens, size)
