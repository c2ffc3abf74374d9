"""Tests of answers read aloud: in chunks of ten tokens, up to the end of speech, in whole seconds of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.chat import AnswerToken
from duplex_server.models.minicpmo.config import MiniCPMOConfig
from duplex_server.models.minicpmo.narration import Narrator
from duplex_server.models.minicpmo.speech_loading import load_token2wav
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder
from duplex_server.models.minicpmo.token2wav import Token2Wav, Token2WavState
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.utterance import Utterance, UtteranceOptions
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from duplex_server.types import Pcm

OPTIONS = UtteranceOptions(greedy=True, most_codes=12)


@pytest.fixture(scope="module")
def token2wav(tiny_checkpoint: Path) -> Token2Wav:
    return load_token2wav(tiny_checkpoint, device=torch.device("cpu"), steps=1)


@pytest.fixture(scope="module")
def voice() -> VoicePrompt:
    draw = torch.Generator().manual_seed(0)
    return VoicePrompt.of(
        torch.randint(6561, (10,), generator=draw),
        torch.randn(192, generator=draw),
        torch.randn(20, 80, generator=draw) - 6,
    )


def answer(config: MiniCPMOConfig, n: int) -> list[AnswerToken]:
    states = torch.randn(n, config.llm.hidden_size, generator=torch.Generator().manual_seed(1))
    return [AnswerToken(100 + place, "", state) for place, state in enumerate(states)]


def narrated(narrator: Narrator, said: Sequence[AnswerToken]) -> Pcm:
    return np.concatenate([*[narrator.feed(token) for token in said], narrator.finish()])


def test_ten_tokens_at_a_time_are_spoken_and_the_last_say_that_they_are(
    speech_decoder: SpeechDecoder,
    token2wav: Token2Wav,
    voice: VoicePrompt,
    tiny_settings: MiniCPMOConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks: list[tuple[int, bool]] = []
    speak = Utterance.speak

    def watched(this: Utterance, ids: Sequence[int], hidden: Tensor, *, last: bool) -> list[int]:
        chunks.append((len(ids), last))
        return speak(this, ids, hidden, last=last)

    monkeypatch.setattr(Utterance, "speak", watched)
    for n, wanted in {3: [(3, True)], 10: [(10, True)], 11: [(10, False), (1, True)]}.items():
        chunks.clear()
        heard = narrated(Narrator(speech_decoder, token2wav, voice, options=OPTIONS), answer(tiny_settings, n))
        assert chunks == wanted
        assert np.isfinite(heard).all() and np.abs(heard).max() <= 1


def test_codes_become_sound_by_the_second_and_the_turn_ends_once(
    speech_decoder: SpeechDecoder,
    token2wav: Token2Wav,
    voice: VoicePrompt,
    tiny_settings: MiniCPMOConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushed: list[tuple[int, bool]] = []
    push = token2wav.push

    def watched(
        rows: Sequence[int], codes: Sequence[Sequence[int]], ends: Sequence[bool], state: Token2WavState
    ) -> list[Tensor | None]:
        pushed.append((len(codes[0]), ends[0]))
        return push(rows, codes, ends, state)

    monkeypatch.setattr(token2wav, "push", watched)
    options = replace(OPTIONS, most_codes=30, least_codes=30)
    heard = narrated(Narrator(speech_decoder, token2wav, voice, options=options), answer(tiny_settings, 15))
    assert pushed == [(25, False), (25, False), (10, True)]
    # Sixty codes and the three of silence before them, 960 samples each.
    assert len(heard) == pytest.approx(63 * 960, abs=4000)


def test_what_follows_the_end_of_speech_is_not_heard(
    speech_decoder: SpeechDecoder, token2wav: Token2Wav, voice: VoicePrompt, tiny_settings: MiniCPMOConfig
) -> None:
    said = answer(tiny_settings, 3)
    ending = [replace(said[0], token=SPECIAL.tts_eos), *said]
    plain, ended = (
        narrated(Narrator(speech_decoder, token2wav, voice, options=OPTIONS), tokens)
        for tokens in (said, [*said, *ending])
    )
    assert np.array_equal(plain, ended)


def test_an_empty_answer_is_silent(speech_decoder: SpeechDecoder, token2wav: Token2Wav, voice: VoicePrompt) -> None:
    assert len(narrated(Narrator(speech_decoder, token2wav, voice), [])) == 0
