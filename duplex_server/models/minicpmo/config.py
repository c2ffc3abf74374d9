"""``config.json`` of a MiniCPM-o checkpoint as frozen dataclasses, read as data.

Knows nothing about tensors. A field that the file leaves out has the default of the official classes, which is not
always what the published checkpoint says; sizes that have no sensible default are required.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from duplex_server.errors import ModelLoadError

__all__ = ["AudioConfig", "LlmConfig", "MiniCPMOConfig", "SliceConfig", "TtsConfig", "VisionConfig", "read_config"]


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """The Qwen3 body; its fields stand at the root of ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: int = 32_768
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    sliding_window: int | None = 4096
    """The class's default; the published file says null. Applied by some library versions even where
    ``use_sliding_window`` is false; we never apply it."""
    use_sliding_window: bool = False

    @property
    def kv_size(self) -> int:
        """Width of the keys of one position in one layer."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """SigLIP with NaViT positions (``vpm``)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    @property
    def patches_per_side(self) -> int:
        """Rows of the position table are the square of this: 980/14 = 70 in the published model."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The Whisper encoder (``apm``)."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    activation_function: str = "gelu"


@dataclass(frozen=True, slots=True)
class TtsConfig:
    """The speech-token decoder (``tts``), a Llama body. What its config does not hold is fixed: RMS eps 1e-6, RoPE
    base 10 000, no biases.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_audio_tokens: int
    """Codes of the speech tokenizer and one end-of-speech id, which is the last."""
    num_text_tokens: int
    audio_bos_token_id: int
    text_eos_token_id: int
    llm_dim: int
    max_position_embeddings: int = 4096
    num_vq: int = 1
    condition_type: str = "hidden_text_merge"
    projector_type: str = "mlp"
    backbone_model: str = "llama"
    hidden_act: str = "silu"
    normalize_projected_hidden: bool = False
    attention_type: str = "sliding_recompute"
    interleaved: bool = False
    recomputed_chunks: int = 1
    window_size: int = 2
    streaming_sliding_window_audio_window_size: int = 300
    # Left out of the file these are the defaults of any Hugging Face config.
    top_p: float = 1.0
    top_k: int = 50
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    s3_stream_chunk_size: int = 25
    s3_stream_prelook_size: int = 3
    s3_stream_n_timesteps: int = 10

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def eos_code(self) -> int:
        """The code that ends speech: 6561 in the published model."""
        return self.num_audio_tokens - 1


@dataclass(frozen=True, slots=True)
class SliceConfig:
    """How a picture is cut (specification §2.1)."""

    max_slice_nums: int = 9
    scale_resolution: int = 448
    patch_size: int = 14


@dataclass(frozen=True, slots=True)
class _Root:
    """What stands at the root of the file and is not the Qwen3 body's."""

    vision_config: VisionConfig
    audio_config: AudioConfig
    tts_config: TtsConfig
    slice_config: SliceConfig = field(default_factory=SliceConfig)
    query_num: int = 64
    drop_vision_last_layer: bool = True
    vision_batch_size: int = 16
    audio_pool_step: int = 5
    audio_chunk_length: float = 1.0
    use_image_id: bool = True
    stream_input: bool = False
    init_vision: bool = True
    init_audio: bool = True
    init_tts: bool = True


@dataclass(frozen=True, slots=True)
class MiniCPMOConfig:
    """The whole model's configuration."""

    llm: LlmConfig
    vision: VisionConfig
    audio: AudioConfig
    tts: TtsConfig
    slicing: SliceConfig
    query_num: int
    """Embeddings per picture or slice."""
    drop_vision_last_layer: bool
    vision_batch_size: int
    """Pictures and slices per call of the vision tower, at most."""
    audio_pool_step: int
    audio_chunk_length_s: float
    use_image_id: bool
    stream_input: bool
    init_vision: bool
    init_audio: bool
    init_tts: bool

    @property
    def vision_layers(self) -> int:
        """Layers of the vision tower that are used; the file may hold one more where the last is dropped."""
        return self.vision.num_hidden_layers - self.drop_vision_last_layer

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> MiniCPMOConfig:
        """Convert the parsed ``config.json``; fields that nothing here needs are ignored.

        Raises:
            ModelLoadError: a field is missing, of another type, or asks for something this engine does not do.
        """
        tts = dict(raw.get("tts_config") or {})
        tts.setdefault("llm_dim", tts.get("llm_hidden_size"))
        try:
            llm = msgspec.convert(raw, LlmConfig)
            root = msgspec.convert({**raw, "tts_config": tts}, _Root)
        except msgspec.ValidationError as error:
            raise ModelLoadError(f"config.json is not that of a MiniCPM-o: {error}") from error
        _refuse_what_is_not_supported(llm, root)
        return cls(
            llm=llm,
            vision=root.vision_config,
            audio=root.audio_config,
            tts=root.tts_config,
            slicing=root.slice_config,
            query_num=root.query_num,
            drop_vision_last_layer=root.drop_vision_last_layer,
            vision_batch_size=root.vision_batch_size,
            audio_pool_step=root.audio_pool_step,
            audio_chunk_length_s=root.audio_chunk_length,
            use_image_id=root.use_image_id,
            stream_input=root.stream_input,
            init_vision=root.init_vision,
            init_audio=root.init_audio,
            init_tts=root.init_tts,
        )


def read_config(folder: Path) -> MiniCPMOConfig:
    """Read ``config.json`` of a checkpoint folder.

    Raises:
        ModelLoadError: there is none, or it cannot be used; the message says why.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ModelLoadError(f"{path} holds no JSON object")
    if raw.get("model_type") != "minicpmo":
        raise ModelLoadError(f"{path} describes a {raw.get('model_type')!r}, not a 'minicpmo'")
    return MiniCPMOConfig.from_dict(raw)


def _refuse_what_is_not_supported(llm: LlmConfig, root: _Root) -> None:
    only = {
        "hidden_act": (llm.hidden_act, "silu"),
        "tie_word_embeddings": (llm.tie_word_embeddings, False),
        "attention_bias": (llm.attention_bias, False),
        "use_sliding_window": (llm.use_sliding_window, False),
        "rope_scaling": (llm.rope_scaling, None),
        "vision_config.hidden_act": (root.vision_config.hidden_act, "gelu_pytorch_tanh"),
        "audio_config.activation_function": (root.audio_config.activation_function, "gelu"),
        "tts_config.num_vq": (root.tts_config.num_vq, 1),
        "tts_config.condition_type": (root.tts_config.condition_type, "hidden_text_merge"),
        "tts_config.projector_type": (root.tts_config.projector_type, "mlp"),
        "tts_config.backbone_model": (root.tts_config.backbone_model, "llama"),
        "tts_config.hidden_act": (root.tts_config.hidden_act, "silu"),
        "tts_config.llm_dim": (root.tts_config.llm_dim, llm.hidden_size),
    }
    wrong = [f"{name} is {found!r}, not {wanted!r}" for name, (found, wanted) in only.items() if found != wanted]
    if wrong:
        raise ModelLoadError(f"config.json describes a model that this engine does not run: {'; '.join(wrong)}")
