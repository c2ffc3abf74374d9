"""A chat as positions of the language model: ids of what is text, embeddings of what was seen and heard.

Knows nothing about decoding. Encoders are asked once for all of a chat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from duplex_server.errors import InvalidEvent
from duplex_server.models.minicpmo.audio_encoder import AudioEncoder
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.messages import Picture, Segment, Sound
from duplex_server.models.minicpmo.pictures import Patches, lay_out, slice_picture
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import Layout
from duplex_server.models.minicpmo.vision import VisionTower

__all__ = ["PromptEncoder", "count_audio_embeddings"]


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Turns rendered chats into positions.

    Args:
        config: of the checkpoint.
        tokenizer: of the checkpoint.
        vision: None where nothing is ever looked at.
        audio: None where nothing is ever heard.
        strict_parity: see :meth:`~duplex_server.models.minicpmo.audio_encoder.AudioEncoder.encode_all`.
    """

    config: MiniCPMOConfig
    tokenizer: Tokenizer
    vision: VisionTower | None = None
    audio: AudioEncoder | None = None
    strict_parity: bool = False

    def encode(self, rendered: Sequence[str | Segment], *, streaming: bool = False) -> Layout:
        """Return the positions of a chat.

        Args:
            rendered: by :func:`~duplex_server.models.minicpmo.messages.render`.
            streaming: as in a conversation that comes bit by bit: pictures are not numbered, and recordings are cut
                into seconds. Source: the official code; its chat does neither whatever ``stream_input`` says.

        Raises:
            InvalidEvent: there is something to see or to hear, and the encoder for it is not loaded.
        """
        pictures, sounds = self._seen(rendered), self._heard(rendered)
        layout = Layout()
        n_pictures = 0
        for part in rendered:
            if isinstance(part, str):
                # A listening model is no part of a chat; officially its token is struck from prompts.
                layout.add([token for token in self.tokenizer.encode(part) if token != SPECIAL.listen])
            elif isinstance(part.content, Picture):
                if self.config.use_image_id and not streaming:
                    number = self.tokenizer.encode(str(n_pictures))
                    layout.add([SPECIAL.image_id, *number, SPECIAL.image_id_end])
                n_pictures += 1
                self._add_picture(layout, part.content, pictures)
            elif isinstance(part.content, Sound):
                _add_sound(layout, next(sounds), self._second if streaming else None)
        return layout

    def _seen(self, rendered: Sequence[str | Segment]) -> Iterator[Tensor]:
        """Yield the embeddings ``[queries, hidden]`` of every picture and every slice, in order."""
        shown = [part.content for part in rendered if not isinstance(part, str) and isinstance(part.content, Picture)]
        if shown and self.vision is None:
            raise InvalidEvent("There is a picture, and the model was loaded without its eyes.")
        patches: list[Patches] = []
        slicing = self.config.slicing
        for picture in shown:
            patches += slice_picture(picture.rgb, picture.max_slices, slicing.scale_resolution, slicing.patch_size)
        return iter(self.vision.encode(patches) if self.vision and patches else ())

    def _heard(self, rendered: Sequence[str | Segment]) -> Iterator[Tensor]:
        """Yield the embeddings ``[n, hidden]`` of every recording, in order.

        The recordings of a message are heard as one, so that a video's seconds of sound are no separate recordings.
        """
        played: dict[int, list[npt.NDArray[np.float32]]] = {}
        for part in rendered:
            if not isinstance(part, str) and isinstance(part.content, Sound):
                played.setdefault(part.message, []).append(part.content.pcm)
        if not played:
            return
        if self.audio is None:
            raise InvalidEvent("There is a recording, and the model was loaded without its ears.")
        heard = self.audio.encode_all(list(map(np.concatenate, played.values())), strict_parity=self.strict_parity)
        for whole, parts in zip(heard, played.values(), strict=True):
            ends = [count_audio_embeddings(int(end)) for end in np.cumsum([len(pcm) for pcm in parts])]
            yield from whole.tensor_split(ends[:-1])

    def _add_picture(self, layout: Layout, picture: Picture, pictures: Iterator[Tensor]) -> None:
        height, width = picture.rgb.shape[:2]
        slicing = self.config.slicing
        columns, rows = lay_out(width, height, picture.max_slices, slicing.scale_resolution, slicing.patch_size).grid
        layout.add([SPECIAL.image])
        layout.add(next(pictures))
        layout.add([SPECIAL.image_end])
        for row in range(rows):
            if row:
                layout.add(self.tokenizer.encode("\n"))
            for _ in range(columns):
                layout.add([SPECIAL.slice])
                layout.add(next(pictures))
                layout.add([SPECIAL.slice_end])

    @property
    def _second(self) -> int:
        """Embeddings of a second."""
        return count_audio_embeddings(round(self.config.audio_chunk_length_s * 16_000))


def _add_sound(layout: Layout, heard: Tensor, at_once: int | None) -> None:
    for part in heard.split(at_once or max(1, len(heard))):
        layout.add([SPECIAL.audio_start])
        layout.add(part)
        layout.add([SPECIAL.audio_end])


def count_audio_embeddings(n_samples: int) -> int:
    """Return how many embeddings a recording of so many samples at 16 kHz has (specification §3.2)."""
    pieces, rest = divmod(n_samples, 480_000)
    frames = (-(-rest // 160) + 1) // 2
    return 300 * pieces + frames // 5
