"""The audio encoder: log-mel frames become embeddings for the language model (specification §3.2, 3.3).

Knows nothing about conversations. A stream's past is a row of an :class:`AudioCache`; the modules themselves have no
state, and several rows go through them together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from duplex_server.models.minicpmo.config import AudioConfig, MiniCPMOConfig
from duplex_server.models.minicpmo.embeddings import empty_embedding
from duplex_server.models.minicpmo.kv import LayerCache, Ragged
from duplex_server.models.minicpmo.mel import MelChunk, offline_mel
from duplex_server.models.minicpmo.recorded_steps import RecordedSteps, with_padding
from duplex_server.models.minicpmo.rectangle import Rectangle
from duplex_server.models.minicpmo.replays import Replays

__all__ = ["AudioCache", "AudioEncoder", "AudioProjector", "WhisperEncoder"]

FRAMES_PER_S = 50
"""Of the encoder: half the mel frames."""
_PADDED_AT_MOST = 3200
"""Frames of a recorded step, mostly padding at worst: 64 rows. They take an H200 milliseconds, as telling it does."""


class AudioCache:
    """What the encoder remembers of each row's sound: keys and values of up to 29 s.

    All buffers are allocated at once: 141 MiB per row at the published sizes in 16 bits. Rows know nothing of each
    other. Only one thread uses a cache.

    Args:
        config: of the encoder.
        rows: how many conversations.
        dtype: what the encoder computes in.
        device: where it computes.
        together: whether rows attend in one masked call instead of one call each; pays where calls are dear.
        recorded: whether there will be :attr:`steps`.

    Attributes:
        steps: how steps are taken, where they are recorded.
    """

    def __init__(
        self,
        config: AudioConfig,
        rows: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        together: bool = False,
        recorded: bool = False,
    ) -> None:
        heads = config.encoder_attention_heads
        self.capacity = config.max_source_positions
        self.lengths = [0] * rows
        self.steps: RecordedSteps | None = None
        length = with_padding(self.capacity) if recorded else self.capacity
        self.layers = [
            LayerCache(
                rows,
                heads,
                length,
                config.d_model // heads,
                device=torch.device(device),
                dtype=dtype,
                together=together,
                causal=False,
            )
            for _ in range(config.encoder_layers)
        ]

    def reset(self, row: int) -> None:
        """Forget a row's sound; its positions start again at 0."""
        self.lengths[row] = 0

    def copy(self, row: int) -> list[Tensor]:
        """Return a row's sound, to be put back by :meth:`restore`: of each layer ``[2, heads, frames, d]``."""
        here = row, slice(None), slice(self.lengths[row])
        return [torch.stack([layer.keys[here], layer.values[here]]) for layer in self.layers]

    def restore(self, row: int, copied: Sequence[Tensor]) -> None:
        """Make a row hear what it heard when it was copied, and nothing since."""
        self.lengths[row] = copied[0].shape[2]
        here = row, slice(None), slice(self.lengths[row])
        for layer, (keys, values) in zip(self.layers, copied, strict=True):
            layer.keys[here], layer.values[here] = keys, values

    def length(self, row: int) -> int:
        """Return how many frames of a row are remembered."""
        return self.lengths[row]

    def reserve(self, row: int, n_frames: int) -> int:
        """Return where a row's next frames go. The memory starts anew if the convolutions' frames would fill it.

        The whole past goes at once, as in the official code: the model was trained on pieces of up to 30 s.

        Args:
            row: the conversation.
            n_frames: what comes, counted before context frames are cut off.
        """
        if self.lengths[row] + n_frames >= self.capacity:
            self.reset(row)
        return self.lengths[row]

    def extend(self, row: int, n_frames: int) -> None:
        """Count frames whose keys and values every layer has stored."""
        self.lengths[row] += n_frames


class AudioEncoder(nn.Module):
    """Whisper's encoder (``apm``) and the projector behind it (``audio_projection_layer``)."""

    def __init__(self, config: MiniCPMOConfig) -> None:
        super().__init__()
        self._config = config.audio
        self.pool = config.audio_pool_step
        self.block = round(config.audio_chunk_length_s * FRAMES_PER_S)
        self.apm = WhisperEncoder(config.audio)
        # The official code takes a quarter of the feed-forward width for the encoder's; they are the same.
        self.audio_projection_layer = AudioProjector(config.audio.encoder_ffn_dim // 4, config.llm.hidden_size)

    @property
    def device(self) -> torch.device:
        return self.apm.layer_norm.weight.device

    def new_cache(self, rows: int, *, together: bool = False, replays: Replays | None = None) -> AudioCache:
        """Return an empty cache beside the weights.

        Args:
            rows: how many conversations.
            together: see :class:`AudioCache`.
            replays: recordings of their device; None: nothing is recorded.
        """
        cache = AudioCache(
            self._config,
            rows,
            dtype=self.apm.layer_norm.weight.dtype,
            device=self.device,
            together=together,
            recorded=replays is not None,
        )
        if replays is not None:
            cache.steps = RecordedSteps(
                cache,
                replays,
                lambda x, where: self.apm.through(x, where, cache),
                width=self._config.d_model,
                group=1,
                counts=(self.block,),
                most_padded=_PADDED_AT_MOST,
                causal=False,
            )
        return cache

    @torch.inference_mode()
    def rehearse(self, cache: AudioCache) -> None:
        """Record all steps of a stream that may come, where steps are recorded."""
        if cache.steps is not None:
            cache.steps.rehearse([self.block])

    @torch.inference_mode()
    def stream(self, chunks: Sequence[MelChunk], rows: Sequence[int], cache: AudioCache) -> Tensor:
        """Take the next unit of some rows.

        Args:
            chunks: one per row.
            rows: at most once each, in any order.
            cache: what the rows heard before; extended.

        Returns:
            ``[len(rows), 10, size of the language model]``. What a row gets does not depend on the others, up to
            rounding.
        """
        x = self.apm.stream(chunks, rows, cache)
        return self._pooled(self.audio_projection_layer(x))

    def encode(self, pcm: npt.NDArray[np.float32]) -> Tensor:
        """Return the embeddings of a whole recording, ten for every second; less than 90 ms have none.

        Args:
            pcm: float32 ``[n]``, 16 kHz, -1 to 1, of any length; each 30 s are heard for themselves.

        Returns:
            ``[n_embeddings, size of the language model]``.
        """
        return self.encode_all([pcm])[0]

    @torch.inference_mode()
    def encode_all(self, recordings: Sequence[npt.NDArray[np.float32]], *, strict_parity: bool = False) -> list[Tensor]:
        """Return the embeddings of some recordings, each as :meth:`encode` does.

        Args:
            recordings: of a chat.
            strict_parity: let the end of a recording hear what pads it to the length of the longest, as the official
                code does (specification §9.1, 10).
        """
        mels = [offline_mel(pcm) for pcm in recordings]
        longest = max((mel.shape[1] for pieces in mels for mel in pieces), default=0) if strict_parity else 0
        found = []
        for pieces in mels:
            heard = [self._pooled(self.audio_projection_layer(self.apm(mel, self.block, longest))) for mel in pieces]
            none = self.audio_projection_layer.linear2.weight.new_empty(0, self.audio_projection_layer.size)
            found.append(torch.cat([none, *heard]))
        return found

    def _pooled(self, x: Tensor) -> Tensor:
        """Average every five frames; what is left over at the end counts for nothing."""
        n = x.shape[-2] // self.pool
        return x[..., : n * self.pool, :].unflatten(-2, (n, self.pool)).mean(dim=-2)


class AudioProjector(nn.Module):
    """Two linear layers to the language model's width."""

    def __init__(self, size_in: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.linear1 = nn.Linear(size_in, size)
        self.linear2 = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size_in]`` to ``[..., size]``."""
        return self.linear2(functional.relu(self.linear1(x)))


class WhisperEncoder(nn.Module):
    """Whisper's encoder: two convolutions, then pre-norm layers with learned positions."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = empty_embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: npt.NDArray[np.float32], block: int, padded: int = 0) -> Tensor:
        """Encode a piece of a recording.

        Args:
            mel: float32 ``[80, F]``, F at most 3000.
            block: a frame hears its own block of so many frames, and all before.
            padded: of so many frames at least: the last block hears the padding, too.

        Returns:
            ``[(F + 1) // 2, d_model]``.
        """
        n_mel = mel.shape[1]
        mel = np.pad(mel, ((0, 0), (0, max(0, padded - n_mel))))
        x = self._convolved(torch.from_numpy(mel)[None])[0]
        x = x + self.embed_positions.weight[: len(x)]
        places = torch.arange(len(x), device=x.device)
        # Officially padding is told by comparing places with the number of mel frames, twice what it should be.
        mask = places < ((places // block + 1) * block).clamp(max=n_mel)[:, None]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (part.transpose(0, 1) for part in (q, k, v))
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)

        for layer in self.layers:
            x = layer(x, attend)
        return self.layer_norm(x[: (n_mel + 1) // 2])

    def stream(self, chunks: Sequence[MelChunk], rows: Sequence[int], cache: AudioCache) -> Tensor:
        """Encode the next chunk of some rows; each hears all of its own past that the cache holds.

        Returns:
            ``[len(rows), n, d_model]``; all chunks must have equally many frames without their context.
        """
        unit = self._units(chunks)
        n = unit.shape[1]
        begins = [cache.reserve(row, -(-chunk.frames.shape[1] // 2)) for chunk, row in zip(chunks, rows, strict=True)]
        where = Ragged(tuple(rows), tuple(begins), (n,) * len(rows))
        x = unit.flatten(0, 1)
        states = cache.steps.run(x, where) if cache.steps is not None else None
        if states is None:
            states = self.through(x, where, cache)
        for row in rows:
            cache.extend(row, n)
        return states.unflatten(0, (len(rows), n))

    def through(self, x: Tensor, where: Ragged | Rectangle, cache: AudioCache) -> Tensor:
        """Take frames ``[n, d_model]`` behind the convolutions through all layers; the cache stores what they leave."""
        _, positions = where.index(x.device)
        x = x + self.embed_positions(positions.clamp(max=self.embed_positions.num_embeddings - 1))  # padding is beyond
        for layer, past in zip(self.layers, cache.layers, strict=True):
            x = layer(x, functools.partial(past.attend, where=where))
        return self.layer_norm(x)

    def _units(self, chunks: Sequence[MelChunk]) -> Tensor:
        """Convolve the chunks, those of one shape together, and cut off the context: ``[B, n, d_model]``."""
        found: list[Tensor | None] = [None] * len(chunks)
        shapes = [(chunk.frames.shape[1], chunk.left, chunk.right) for chunk in chunks]
        for shape in dict.fromkeys(shapes):
            alike = [place for place, other in enumerate(shapes) if other == shape]
            x = self._convolved(torch.from_numpy(np.stack([chunks[place].frames for place in alike])))
            _, left, right = shape
            x = x[:, (left + 1) // 2 : x.shape[1] - (right + 1) // 2]
            for place, unit in zip(alike, x, strict=True):
                found[place] = unit
        return torch.stack([unit for unit in found if unit is not None])

    def _convolved(self, mel: Tensor) -> Tensor:
        """``[B, 80, F]`` in float32 on the host to ``[B, (F + 1) // 2, d_model]``."""
        x = mel.to(self.conv1.weight.device).to(self.conv1.weight.dtype)
        x = functional.gelu(self.conv1(x))
        return functional.gelu(self.conv2(x)).transpose(1, 2)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries, keys and values, each ``[frames, heads, d]``, to what is seen, ``[frames, heads · d]``."""


class _Layer(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), attend)
        x = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype is torch.float16:
            # Whisper's activations may leave the range of fp16; a thousand below its end is Whisper's own limit.
            limit = torch.finfo(x.dtype).max - 1000
            x = torch.clamp(x, -limit, limit)
        return x


class _SelfAttention(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        size = config.d_model
        self.n_heads = config.encoder_attention_heads
        self.q_proj, self.v_proj, self.out_proj = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = (of(x).unflatten(1, (self.n_heads, -1)) for of in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v))
