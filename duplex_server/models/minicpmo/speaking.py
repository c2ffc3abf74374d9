"""Speech of all rows: what was said in a unit becomes codes in lock-step, and codes become sound.

Knows nothing about sessions or the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from duplex_server.errors import CapacityError
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.units import UnitEnd
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.types import Pcm

__all__ = ["Speaking"]

_TURN_POSITIONS = 1024
"""Positions of the speech decoder's memory of a turn: half a minute, 33 for each second. Of a longer turn the older
half is forgotten; the official code holds all of it and has no limit, though the decoder was trained for 4096."""


class Speaking:
    """Speech decoder and vocoder with what they remember of each row.

    Args:
        decoder: makes codes.
        token2wav: makes sound.
        rows: how many conversations.
        together: see :class:`~duplex_server.models.minicpmo.kv.LayerCache`.
    """

    def __init__(self, decoder: SpeechDecoder, token2wav: Token2Wav, rows: int, *, together: bool = False) -> None:
        self._decoder = decoder
        self._token2wav = token2wav
        self._codes = decoder.new_state(rows, _TURN_POSITIONS, together=together)
        self._sounds = token2wav.new_state()
        self._open: set[int] = set()

    def open(self, row: int, prompt: VoicePrompt, seed: int) -> None:
        """Give a row a voice, from its next turn on if it has one.

        Args:
            row: the conversation.
            prompt: the voice.
            seed: of the vocoder's noise.

        Raises:
            CapacityError: there is no memory for the voice.
        """
        try:
            voice = self._token2wav.voice(prompt)
        except torch.OutOfMemoryError as error:
            raise CapacityError(_RETRY_AFTER_S) from error
        generator = torch.Generator(self._token2wav.device).manual_seed(seed)
        self._codes.reset(row)
        self._sounds.open(row, voice, generator)
        self._open.add(row)

    def close(self, row: int) -> None:
        """Forget a row; safe where it has no voice."""
        self._codes.reset(row)
        self._sounds.close(row)
        self._open.discard(row)

    def drop(self, row: int) -> None:
        """Forget a row's turn; what it held back is lost."""
        self._codes.reset(row)
        if row in self._open:
            self._sounds.reset(row)

    def has_voice(self, row: int) -> bool:
        """Whether a row can speak."""
        return row in self._open

    def reserve(self, row: int) -> None:
        """Take what a row needs to speak, unless it has.

        Raises:
            CapacityError: there is no memory for it; other rows are as before.
        """
        self._sounds.reserve(row)

    def speak(
        self,
        ends: Sequence[UnitEnd],
        generators: Sequence[torch.Generator],
        given_up: Callable[[UnitEnd], bool],
        stage: Callable[[str], None],
    ) -> list[tuple[UnitEnd, Pcm]]:
        """Speak a unit of each of some rows, all of which have reserved their place.

        Args:
            ends: what is said.
            generators: of each row, on the CPU.
            given_up: whether a unit need not be heard any more; looked at between the stages.
            stage: told the name of each stage as it ends.

        Returns:
            of each unit that was not given up its sound, float32 at 24 kHz, −1..1; may be empty.
        """
        codes = self._decoder.decode_unit(
            [end.row for end in ends],
            [(end.spoken, end.hidden) for end in ends],
            [end.end_of_turn for end in ends],
            self._codes,
            generators,
        )
        stage("speech codes")
        going = []
        for end, said in zip(ends, codes, strict=True):
            if given_up(end):
                self.drop(end.row)
            else:
                going.append((end, said))
        if not going:
            return []
        sounds = self._token2wav.push(
            [end.row for end, _ in going],
            [said for _, said in going],
            [end.end_of_turn for end, _ in going],
            self._sounds,
        )
        silence = np.zeros(0, np.float32)
        heard = [
            (end, silence if sound is None else np.clip(sound.float().cpu().numpy(), -1, 1))
            for (end, _), sound in zip(going, sounds, strict=True)
        ]
        stage("sound")
        return heard


_RETRY_AFTER_S = 30.0
"""A guess: conversations last minutes."""
