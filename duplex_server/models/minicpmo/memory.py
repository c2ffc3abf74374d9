"""How many bytes the parts of the model and the state of a conversation take, from configuration and headers alone.

Knows nothing about devices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from duplex_server.models.minicpmo.assets import find_token2wav
from duplex_server.models.minicpmo.checkpoint import TensorInfo, read_checkpoint
from duplex_server.models.minicpmo.config import MiniCPMOConfig, read_config
from duplex_server.models.minicpmo.placement import Precision
from duplex_server.models.minicpmo.state_dict_header import read_state_dict_header
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes

__all__ = ["GROUP", "Conversation", "Measured", "Part", "measure"]

GROUP = 128
"""Inputs that share a scale in int4."""
_SCALE_BYTES = 2
_HALF_BYTES = 2
_FLOAT_BYTES = 4
_DEAD = ("tts.model.embed_tokens.", "tts.projector_spk.")

_FLOW_RECENT_FRAMES = 100
"""Mel frames that the flow model remembers beyond the voice prompt. Source: the official trim (specification §6.3)."""
_FLOW_WORKSPACES = 2
_FLOW_WORKSPACE_FRAMES = 198
"""Where a GPU's steps are recorded, each has its rows' past and what is new for one step of the solver: up to twice
for each row, since they are recorded for several numbers of rows; frames beyond the prompt, rounded up."""
_SPEECH_POSITIONS = 1024
"""Positions of the speech decoder's cache, as ``speaking`` allocates it: half a minute."""
_HEAD_POSITIONS = 2048
"""Longest head of a conversation, as in ``options``."""
_UNIT_POSITIONS = 1 + 10 + 256 + 26
"""Most positions of a unit beside its pictures, as in ``options``: its begin, sound, typed words, and what is said."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is put on one device as a whole.

    Attributes:
        name: ``embedding``, ``layer``, ``head``, ``vision``, ``audio`` or ``speech``.
        weights: bytes in each precision.
        state: bytes of a conversation that lie beside it.
    """

    name: str
    weights: Mapping[Precision, int]
    state: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a conversation may need.

    Attributes:
        window: tokens after which the language model forgets.
        flow_steps: steps of the flow model's solver.
        frames_per_unit: most pictures of a unit.
        picture_slices: most slices of a picture beside the whole; 1 means none.
        prompt_s: length of the voice prompt, s.
    """

    window: int = 4000
    flow_steps: int = 5
    frames_per_unit: int = 1
    picture_slices: int = 1
    prompt_s: float = 5.0

    def positions(self, queries: int) -> int:
        """Return the positions of the language model's cache: the window, or the longest head, and one more unit.

        As ``DuplexOptions.capacity``, which torch has to be imported for.

        Args:
            queries: embeddings of a picture or slice.
        """
        picture = (1 + (self.picture_slices if self.picture_slices > 1 else 0)) * (queries + 2)
        return max(self.window, _HEAD_POSITIONS) + self.frames_per_unit * picture + _UNIT_POSITIONS


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint's parts.

    Attributes:
        layers: the language model's, in order.
        host: bytes in the host's memory whatever the placement: the models that look at voice prompts.
        largest_shard: bytes of the largest file, of which one is mapped while weights are read.
        notes: sentences about what could not be counted.
    """

    embedding: Part
    layers: tuple[Part, ...]
    head: Part
    vision: Part
    audio: Part
    speech: Part
    host: int
    largest_shard: int
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.embedding, *self.layers, self.head, self.vision, self.audio, self.speech)

    def planned_bytes(self, conversations: int) -> int:
        """Return what all parts take in 16 bits, with the states of some conversations."""
        return sum(part.weights[Precision.FULL] + conversations * part.state for part in self.parts)


def measure(folder: Path, conversation: Conversation) -> Measured:
    """Measure a checkpoint folder.

    Raises:
        ModelLoadError: it is incomplete or broken.
    """
    config = read_config(folder)
    tensors = read_checkpoint(folder).tensors
    positions = conversation.positions(config.query_num)
    files = {info.file for info in tensors.values()}
    speech_state = _speech_decoder_state(config)
    token2wav, host, notes = 0, 0, []
    if (folder / "assets" / "token2wav").is_dir():
        found = find_token2wav(folder)
        flow = read_state_dict_header(found.flow)
        vocoders = {found.vocoder, found.whole_vocoder}
        token2wav = sum(_stored(info.values()) for info in (flow, *map(read_state_dict_header, vocoders)))
        host = sum(file.stat().st_size for file in (found.speech_tokenizer, found.speaker_model) if file)
        sizes = FlowSizes.of({name: info.shape for name, info in flow.items()})
        prompt_frames = round(conversation.prompt_s * 50)
        speech_state += _flow_state(sizes, prompt_frames + _FLOW_RECENT_FRAMES, conversation.flow_steps)
        speech_state += _FLOW_WORKSPACES * _flow_state(sizes, prompt_frames + _FLOW_WORKSPACE_FRAMES, 1)
        # What the flow model knows of a voice is there once for all who speak with it; one voice is the usual case.
        token2wav += _flow_state(sizes, prompt_frames, conversation.flow_steps)
    else:
        notes.append("assets/token2wav is not there: what turns codes into sound is not counted.")
    return Measured(
        embedding=_part("embedding", tensors, "llm.model.embed_tokens."),
        layers=tuple(
            _body_part("layer", tensors, f"llm.model.layers.{index}.", _layer_state(config, positions))
            for index in range(config.llm.num_hidden_layers)
        ),
        head=_head_part(tensors),
        vision=_part("vision", tensors, "vpm.", "resampler."),
        audio=_part("audio", tensors, "apm.", "audio_projection_layer.", state=_audio_state(config)),
        speech=_part("speech", tensors, "tts.", state=speech_state, more=token2wav),
        host=host,
        largest_shard=max(file.stat().st_size for file in files),
        notes=tuple(notes),
    )


def _layer_state(config: MiniCPMOConfig, positions: int) -> int:
    return 2 * config.llm.kv_size * positions * _HALF_BYTES


def _audio_state(config: MiniCPMOConfig) -> int:
    return config.audio.encoder_layers * 2 * config.audio.d_model * config.audio.max_source_positions * _HALF_BYTES


def _speech_decoder_state(config: MiniCPMOConfig) -> int:
    tts = config.tts
    return tts.num_hidden_layers * 2 * tts.num_key_value_heads * tts.head_dim * _SPEECH_POSITIONS * _HALF_BYTES


def _flow_state(flow: FlowSizes, frames: int, steps: int) -> int:
    """Caches of the flow model for some mel frames, float32, for both halves of its guidance (specification §8.1)."""
    attention = flow.depth * 2 * 2 * flow.hidden * frames
    convolution = flow.depth * 2 * 2 * flow.hidden * 2
    encoder = 2 * flow.size * (flow.up_blocks * frames + flow.blocks * frames // 2) + 6 * flow.size
    return _FLOAT_BYTES * (steps * (attention + convolution) + encoder)


def _part(name: str, tensors: Mapping[str, TensorInfo], *prefixes: str, state: int = 0, more: int = 0) -> Part:
    """A part that is kept in 16 bits whatever the precision of the language model's layers."""
    n_bytes = more + _HALF_BYTES * sum(
        info.n_parameters
        for tensor, info in tensors.items()
        if tensor.startswith(prefixes) and not tensor.startswith(_DEAD)
    )
    return Part(name, dict.fromkeys(Precision, n_bytes), state)


def _body_part(name: str, tensors: Mapping[str, TensorInfo], prefix: str, state: int) -> Part:
    weights = dict.fromkeys(Precision, 0)
    for tensor, info in tensors.items():
        if tensor.startswith(prefix):
            for precision in Precision:
                weights[precision] += _weight_bytes(info.shape, precision)
    return Part(name, weights, state)


def _head_part(tensors: Mapping[str, TensorInfo]) -> Part:
    weights = dict.fromkeys(Precision, 0)
    for tensor, info in tensors.items():
        if re.match(r"llm\.(lm_head|model\.norm)\.", tensor):
            for precision in Precision:
                kept = Precision.INT8 if precision is Precision.INT4 else precision
                weights[precision] += _weight_bytes(info.shape, kept)
    return Part("head", weights)


def _weight_bytes(shape: tuple[int, ...], precision: Precision) -> int:
    """Bytes of one tensor; only matrices are quantized."""
    n = math.prod(shape)
    if len(shape) != 2 or precision is Precision.FULL:
        return _HALF_BYTES * n
    if precision is Precision.INT8:
        return n + _SCALE_BYTES * shape[0]
    # The kernels want a zero point beside each scale.
    return n // 2 + 2 * _SCALE_BYTES * shape[0] * math.ceil(shape[1] / GROUP)


def _stored(infos: Iterable[TensorInfo]) -> int:
    return sum(info.n_bytes for info in infos)
