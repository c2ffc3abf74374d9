"""An answer read aloud while it is still being made: tokens in, sound out.

Knows nothing about chats. One answer at a time; duplex conversations speak in rows (``speaking.py``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from duplex_server.models.minicpmo.chat import AnswerToken
from duplex_server.models.minicpmo.speech_tokens import CODES_PER_UNIT, SpeechDecoder
from duplex_server.models.minicpmo.token2wav import OUTPUT_HZ, Token2Wav
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.utterance import Utterance, UtteranceOptions
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.types import Pcm

__all__ = ["OUTPUT_HZ", "Narrator"]

CHUNK_TOKENS = 10
"""Text that speech is made from at a time. Source: specification §7.3."""


class Narrator:
    """Reads one answer aloud.

    Args:
        decoder: makes codes.
        token2wav: makes sound.
        prompt: the voice.
        options: how codes are chosen; None: as the checkpoint says.
        seed: of what is drawn.

    Raises:
        CapacityError: there is no memory to speak.
    """

    def __init__(
        self,
        decoder: SpeechDecoder,
        token2wav: Token2Wav,
        prompt: VoicePrompt,
        *,
        options: UtteranceOptions | None = None,
        seed: int = 0,
    ) -> None:
        options = options or UtteranceOptions.of(decoder.config)
        self._utterance = Utterance(decoder, options, torch.Generator().manual_seed(seed))
        self._token2wav = token2wav
        self._sound = token2wav.new_state(1)
        self._sound.open(0, token2wav.voice(prompt), torch.Generator(token2wav.device).manual_seed(seed))
        self._sound.reserve(0)
        self._waiting: list[tuple[int, Tensor]] = []  # tokens and states; at most CHUNK_TOKENS
        self._codes: list[int] = []  # fewer than a second
        self._ended = False

    def feed(self, said: AnswerToken) -> Pcm:
        """Take the next token; returns what can be heard now, float32 at 24 kHz, mostly nothing.

        What follows ``<|tts_eos|>`` is not meant to be heard.
        """
        if said.token == SPECIAL.tts_eos:
            self._ended = True
        if self._ended:
            return _SILENCE
        # A full chunk waits for one more token: the last chunk, which says that speech ends, is never empty.
        heard = self._spoken(last=False) if len(self._waiting) == CHUNK_TOKENS else _SILENCE
        self._waiting.append((said.token, said.hidden))
        return heard

    def finish(self) -> Pcm:
        """Return the rest, as :meth:`feed` does; nothing may be fed any more."""
        heard = self._spoken(last=True) if self._waiting else _SILENCE
        self._sound.close(0)
        return heard

    def _spoken(self, *, last: bool) -> Pcm:
        ids, states = [token for token, _ in self._waiting], torch.stack([state for _, state in self._waiting])
        self._waiting.clear()
        self._codes += self._utterance.speak(ids, states, last=last)
        sounds = []
        while self._codes and (last or len(self._codes) >= CODES_PER_UNIT):
            now, self._codes = self._codes[:CODES_PER_UNIT], self._codes[CODES_PER_UNIT:]
            ends = last and not self._codes
            (sound,) = self._token2wav.push([0], [now], [ends], self._sound)
            if sound is not None:
                sounds.append(np.clip(sound.float().cpu().numpy(), -1, 1))
        return np.concatenate(sounds) if sounds else _SILENCE


_SILENCE: Pcm = np.zeros(0, np.float32)
