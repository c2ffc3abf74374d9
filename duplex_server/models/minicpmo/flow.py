"""The flow model: speech codes and a voice to mel frames, streamed over rows or whole.

Knows nothing about samples, buffers of codes, or where weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex_server.models.minicpmo.embeddings import empty_embedding
from duplex_server.models.minicpmo.flow_cache import FlowSlot
from duplex_server.models.minicpmo.flow_decoder import FlowDecoder
from duplex_server.models.minicpmo.flow_encoder import LOOKAHEAD_CODES, FlowEncoder
from duplex_server.models.minicpmo.flow_past import ROWS_AT_ONCE, Past, RecordedFlow
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes

__all__ = ["Flow", "FlowChunk", "FlowVoice", "noise_table"]

NOISE_FRAMES = 30_000
"""Ten minutes at 50 frames a second, as in the official code."""


def noise_table(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The noise that every conversation's speech starts from: [80, 30000] float32.

    The official code draws it anew for every process; a seed makes speech repeatable.
    """
    return torch.randn(1, 80, NOISE_FRAMES, generator=torch.Generator().manual_seed(seed))[0].to(device)


@dataclass(frozen=True, slots=True)
class FlowVoice:
    """A voice as the flow model knows it; read-only, shared by all who speak with it.

    Attributes:
        base: the caches after the voice prompt.
        speaker: projected speaker vector [80].
    """

    base: FlowSlot
    speaker: Tensor


@dataclass(frozen=True, slots=True)
class FlowChunk:
    """The next codes of one row.

    Attributes:
        codes: int64 [n]; all rows of a call have the same n.
        voice: that the row speaks with.
        slot: what the row remembers; updated unless the call is final.
    """

    codes: Tensor
    voice: FlowVoice
    slot: FlowSlot


class Flow(nn.Module):
    """Tensor names are those of ``flow.pt``.

    Args:
        sizes: of the model.
        strict: drop and draw what the official code does: it forgets the newest speech instead of the prompt's end, and
            starts every chunk from the same noise once its cache is full.
    """

    def __init__(self, sizes: FlowSizes, *, strict: bool = False) -> None:
        super().__init__()
        self.sizes, self.strict = sizes, strict
        self.input_embedding = empty_embedding(sizes.codes, sizes.size)
        self.spk_embed_affine_layer = nn.Linear(sizes.speaker, sizes.mels)
        self.encoder = FlowEncoder(sizes)
        self.encoder_proj = nn.Linear(sizes.size, sizes.mels)
        self.decoder = FlowDecoder(sizes)

    @torch.inference_mode()
    def listen_to(self, codes: Tensor, speaker: Tensor, mel: Tensor, noise: Tensor, steps: int) -> FlowVoice:
        """Take up a voice prompt.

        Args:
            codes: of the prompt, int64 [n].
            speaker: vector [192].
            mel: the prompt's own spectrogram [2n, 80] at 24 kHz.
            noise: table [80, any].
            steps: of the ODE in later chunks.
        """
        frames = 2 * codes.shape[0]
        like = self.encoder_proj.weight
        slot = FlowSlot(self.sizes, frames, steps, like)
        projected = self.spk_embed_affine_layer(F.normalize(speaker.to(like), dim=0))
        # The look-ahead of the prompt's end is its own beginning, as in the official code.
        embedded = self.input_embedding(torch.cat([codes, codes[:LOOKAHEAD_CODES]]))[None]
        mu = self.encoder_proj(self.encoder(embedded, [slot.encoder], final=False))
        past = Past([slot], frames, keep=True, strict=True)  # in the official order, which strict parity goes on from
        self.decoder(noise[:, :frames].t()[None], mu, projected[None], mel.to(like)[None], past, steps)
        slot.frames = 0
        return FlowVoice(slot, projected)

    @torch.inference_mode()
    def speak(
        self,
        chunks: Sequence[FlowChunk],
        noise: Tensor,
        steps: int,
        *,
        final: bool,
        recorded: RecordedFlow | None = None,
    ) -> list[Tensor]:
        """Make the mel frames of some rows' next codes.

        Args:
            chunks: one per row, with as many codes each.
            noise: table [80, frames].
            steps: of the ODE, as when the voices were taken up.
            final: these are their turns' last codes. Else the last three are only looked at, and come again.
            recorded: see :class:`~duplex_server.models.minicpmo.flow_past.Past`.

        Returns:
            per row [frames, 80] float32: 2n frames if final, else 2(n - 3).
        """
        if len(chunks) > ROWS_AT_ONCE:
            groups = [chunks[i : i + ROWS_AT_ONCE] for i in range(0, len(chunks), ROWS_AT_ONCE)]
            return [mel for group in groups for mel in self.speak(group, noise, steps, final=final, recorded=recorded)]
        slots = [chunk.slot for chunk in chunks]
        embedded = self.input_embedding(torch.stack([chunk.codes for chunk in chunks]))
        mu = self.encoder_proj(self.encoder(embedded, [slot.encoder for slot in slots], final=final))
        frames = mu.shape[1]
        start = torch.stack([self._noise(noise, slot, frames) for slot in slots])
        speaker = torch.stack([chunk.voice.speaker for chunk in chunks])
        past = Past(slots, frames, keep=not final, strict=self.strict, recorded=recorded)
        return list(self.decoder(start, mu, speaker, torch.zeros_like(mu), past, steps))

    @torch.inference_mode()
    def speak_whole(
        self, codes: Tensor, prompt_codes: Tensor, speaker: Tensor, prompt_mel: Tensor, noise: Tensor, steps: int
    ) -> Tensor:
        """Make a whole utterance at once, each frame seeing all others: [2n, 80] float32.

        Args:
            codes: int64 [n].
            prompt_codes: of the voice prompt, int64 [p].
            speaker: vector [192].
            prompt_mel: [2p, 80]
            noise: table [80, at least 2(p + n)].
            steps: of the ODE.
        """
        like = self.encoder_proj.weight
        joined = torch.cat([prompt_codes, codes])
        frames = 2 * joined.shape[0]
        slot = FlowSlot(self.sizes, 0, steps, like)
        mu = self.encoder_proj(self.encoder(self.input_embedding(joined)[None], [slot.encoder], final=True))
        given = torch.zeros_like(mu)
        given[0, : prompt_mel.shape[0]] = prompt_mel
        projected = self.spk_embed_affine_layer(F.normalize(speaker.to(like), dim=0))
        past = Past([slot], frames, keep=False, strict=self.strict)
        mel = self.decoder(noise[:, :frames].t()[None], mu, projected[None], given, past, steps)
        return mel[0, prompt_mel.shape[0] :]

    def _noise(self, table: Tensor, slot: FlowSlot, frames: int) -> Tensor:
        begin = slot.length if self.strict else slot.prompt_frames + slot.frames
        places = torch.arange(begin, begin + frames, device=table.device) % table.shape[1]
        return table[:, places].t()
