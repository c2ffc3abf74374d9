"""Speech of all rows: what was said in a unit becomes codes in lock-step, and codes become sound.

Knows nothing about sessions or the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from duplex_server.errors import CapacityError
from duplex_server.models.minicpmo.flow_past import RecordedFlow
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.rows import SPOKEN_TOKENS_MAX
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
from duplex_server.models.minicpmo.token2wav import Token2Wav
from duplex_server.models.minicpmo.units import UnitEnd
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.types import Pcm

__all__ = ["Speaking"]

_T = TypeVar("_T")

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
        replays: recordings of the device of both; None: nothing is recorded.
    """

    def __init__(
        self,
        decoder: SpeechDecoder,
        token2wav: Token2Wav,
        rows: int,
        *,
        together: bool = False,
        replays: Replays | None = None,
    ) -> None:
        self._decoder = decoder
        self._token2wav = token2wav
        self._codes = decoder.new_state(rows, _TURN_POSITIONS, together=together, replays=replays)
        self._sounds = token2wav.new_state(recorded=None if replays is None else RecordedFlow(replays, rows))
        self._open: set[int] = set()

    def rehearse(self, prompt: VoicePrompt | None) -> None:
        """Record the steps that may come, where steps are recorded.

        Args:
            prompt: of the usual voice; None: the first who speaks waits for what depends on its length.
        """
        self._decoder.rehearse(self._codes, SPOKEN_TOKENS_MAX)
        if prompt is not None:
            self._token2wav.rehearse(prompt, self._sounds)

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
    ) -> list[tuple[UnitEnd, Pcm | None]]:
        """Speak a unit of each of some rows, all of which have reserved their place.

        Args:
            ends: what is said.
            generators: of each row, on the CPU.
            given_up: whether a unit need not be heard any more; looked at between the stages.
            stage: told the name of each stage as it ends.

        Returns:
            of each unit that was not given up its sound, float32 at 24 kHz, −1..1, may be empty; None where there was
            no memory for it, which is the longest turn of those that did not fit together.
        """
        draws = dict(zip((end.row for end in ends), generators, strict=True))
        lengths = {end.row: self._codes.cache.lengths[end.row] for end in ends}

        def codes_of(going: Sequence[UnitEnd]) -> list[list[int]]:
            return self._decoder.decode_unit(
                [end.row for end in going],
                [(end.spoken, end.hidden) for end in going],
                [end.end_of_turn for end in going],
                self._codes,
                [draws[end.row] for end in going],
            )

        made, left_out = _as_many_as_fit(ends, codes_of, lengths)
        stage("speech codes")
        codes: dict[int, list[int]] = {}
        going = []
        for end, said in made:
            if given_up(end):
                self.drop(end.row)
            else:
                going.append(end)
                codes[end.row] = said

        def sounds_of(going: Sequence[UnitEnd]) -> list[Tensor | None]:
            return self._token2wav.push(
                [end.row for end in going],
                [codes[end.row] for end in going],
                [end.end_of_turn for end in going],
                self._sounds,
            )

        sounds, unheard = _as_many_as_fit(going, sounds_of, lengths)
        heard: list[tuple[UnitEnd, Pcm | None]] = [(end, None) for end in (*left_out, *unheard)]
        for end, sound in sounds:
            heard.append((end, _SILENCE if sound is None else np.clip(sound.float().cpu().numpy(), -1, 1)))
        stage("sound")
        return heard


def _as_many_as_fit(
    ends: Sequence[UnitEnd], make: Callable[[Sequence[UnitEnd]], Sequence[_T]], lengths: Mapping[int, int]
) -> tuple[list[tuple[UnitEnd, _T]], list[UnitEnd]]:
    """Make something for all rows at once; where memory does not suffice for that, without the longest turn.

    Returns:
        for each what was made, and those that were left out.
    """
    going, left_out = list(ends), list[UnitEnd]()
    while going:
        try:
            return [*zip(going, make(going), strict=True)], left_out
        except torch.OutOfMemoryError:
            longest = max(going, key=lambda end: lengths[end.row])
        # Only here, outside of the block above, is what the failed attempt had allocated free again.
        going = [end for end in going if end is not longest]
        left_out.append(longest)
    return [], left_out


_SILENCE: Pcm = np.zeros(0, np.float32)

_RETRY_AFTER_S = 30.0
"""A guess: conversations last minutes."""
