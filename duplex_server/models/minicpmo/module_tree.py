"""The modules of a checkpoint as a tree, made from names and shapes alone. Knows nothing about files or terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from duplex_server.models.minicpmo.checkpoint import TensorInfo

__all__ = ["Node", "as_json", "module_tree"]

_KINDS = (
    (r"llm", "Qwen3ForCausalLM"),
    (r"llm\.model", "Qwen3Model"),
    (r"llm\.model\.layers\.\d+", "Qwen3DecoderLayer"),
    (r"llm\..*\.self_attn", "Qwen3Attention"),
    (r"llm\..*\.mlp", "Qwen3MLP"),
    (r"vpm", "SiglipVisionTransformer"),
    (r"vpm\.embeddings", "SiglipVisionEmbeddings"),
    (r"vpm\.encoder", "SiglipEncoder"),
    (r"vpm\.encoder\.layers\.\d+", "SiglipEncoderLayer"),
    (r"vpm\..*\.self_attn", "SiglipAttention"),
    (r"vpm\..*\.mlp", "SiglipMLP"),
    (r"resampler", "Resampler"),
    (r"resampler\.attn", "MultiheadAttention"),
    (r"apm", "WhisperEncoder"),
    (r"apm\.layers\.\d+", "WhisperEncoderLayer"),
    (r"apm\..*\.self_attn", "WhisperAttention"),
    (r"audio_projection_layer|tts\.projector_\w+", "MultiModalProjector"),
    (r"tts", "MiniCPMTTS"),
    (r"tts\.model", "LlamaModel"),
    (r"tts\.model\.layers\.\d+", "LlamaDecoderLayer"),
    (r"tts\..*\.self_attn", "LlamaAttention"),
    (r"tts\..*\.mlp", "LlamaMLP"),
    (r"token2wav\.flow", "FlowMatching"),
    (r"token2wav\.flow\.encoder", "ConformerEncoder"),
    (r"token2wav\.flow\.encoder\.(up_)?encoders\.\d+", "ConformerEncoderLayer"),
    (r"token2wav\.flow\.decoder\.estimator", "DiT"),
    (r"token2wav\.flow\.decoder\.estimator\.blocks\.\d+", "DiTBlock"),
    (r"token2wav\.hift\w*", "HiFTGenerator"),
    (r"token2wav\.hift\w*\.(source_)?resblocks\.\d+", "ResBlock"),
    (r"token2wav\.hift\w*\.f0_predictor", "F0Predictor"),
    (r"(.*\.)?activations\d\.\d+", "Snake"),
)
"""Names of the official classes, by path."""

_EMBEDDINGS = re.compile(r"(.*\.)?(embed_\w+|\w*embedding|emb_text|emb_code\.\d+)")
_NORM_GAIN = ".parametrizations.weight.original0"
_NORM_DIRECTION = ".parametrizations.weight.original1"


@dataclass(slots=True)
class Node:
    """A module or a bare parameter.

    Attributes:
        path: dotted name.
        kind: class, as far as it can be told.
        shape: of the weight, or of the parameter; None where there is neither.
        dtype: of the same.
        has_bias: whether there is a bias beside the weight; None where there is no weight.
        n_parameters: with everything below.
        n_bytes: with everything below.
        parts: by name.
    """

    path: str
    kind: str = "Module"
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    has_bias: bool | None = None
    n_parameters: int = 0
    n_bytes: int = 0
    parts: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    def below(self) -> Iterator[Node]:
        """Yield the node and everything below it."""
        yield self
        for part in self.parts.values():
            yield from part.below()


def module_tree(tensors: Iterable[TensorInfo]) -> Node:
    """Arrange tensors in a tree of modules, in the order in which a person counts."""
    root = Node("", "MiniCPMO")
    for tensor in sorted(tensors, key=lambda tensor: _natural(tensor.name)):
        _add(root, tensor)
    for node in root.below():
        node.kind = _kind(node)
    return root


def as_json(node: Node) -> dict[str, Any]:
    """Return the tree as nested dictionaries by module name; what describes a module begins with ``_``."""
    described: dict[str, Any] = {"_type": node.kind, "_parameters": node.n_parameters, "_bytes": node.n_bytes}
    if node.shape is not None:
        described |= {"_shape": list(node.shape), "_dtype": node.dtype}
    if node.has_bias is not None:
        described["_has_bias"] = node.has_bias
    return described | {name: as_json(part) for name, part in node.parts.items()}


def _add(root: Node, tensor: TensorInfo) -> None:
    name = tensor.name.replace(_NORM_DIRECTION, ".weight").replace(_NORM_GAIN, ".gain of weight norm")
    *modules, leaf = name.split(".")
    node = root
    for module in modules:
        _count(node, tensor)
        node = node.parts.setdefault(module, Node(f"{node.path}.{module}".lstrip(".")))
    _count(node, tensor)
    if leaf == "weight":
        node.shape, node.dtype, node.has_bias = tensor.shape, tensor.dtype, node.has_bias or False
    elif leaf == "bias":
        node.has_bias = True
    elif leaf != "gain of weight norm":
        part = node.parts[leaf] = Node(f"{node.path}.{leaf}".lstrip("."), "Parameter", tensor.shape, tensor.dtype)
        _count(part, tensor)


def _count(node: Node, tensor: TensorInfo) -> None:
    node.n_parameters += tensor.n_parameters
    node.n_bytes += tensor.n_bytes


def _kind(node: Node) -> str:
    if node.kind in ("Parameter", "MiniCPMO"):
        return node.kind
    for pattern, kind in _KINDS:
        if re.fullmatch(pattern, node.path):
            return kind
    if node.shape is not None:
        return _kind_of_weight(node, node.shape)
    numbered = bool(node.parts) and all(name.isdecimal() for name in node.parts)
    return "ModuleList" if numbered else "Module"


def _kind_of_weight(node: Node, shape: tuple[int, ...]) -> str:
    match len(shape):
        case 1:
            return "LayerNorm" if node.has_bias else "RMSNorm"
        case 2:
            return "Embedding" if _EMBEDDINGS.fullmatch(node.path) else "Linear"
        case 3:
            return "ConvTranspose1d" if re.fullmatch(r".*\.ups\.\d+", node.path) else "Conv1d"
        case 4:
            return "Conv2d"
    return "Module"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
