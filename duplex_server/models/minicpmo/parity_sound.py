"""Compares flow model and vocoders with recorded runs, and lends other comparisons the recorded voice and noise.

Knows nothing about language. The official code starts speech from tables that it draws anew for every process; recorded
runs say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duplex_server.models.minicpmo.assets import find_token2wav
from duplex_server.models.minicpmo.flow import FlowChunk, noise_table
from duplex_server.models.minicpmo.flow_cache import FlowPool
from duplex_server.models.minicpmo.hift_causal import CausalHift
from duplex_server.models.minicpmo.parity import Engine, Golden, Tally
from duplex_server.models.minicpmo.speech_loading import load_whole_vocoder
from duplex_server.models.minicpmo.token2wav import LEAD_SAMPLES, SILENCE_CODE, Token2Wav, Token2WavState
from duplex_server.models.minicpmo.vocoder import CausalVocoder, ClassicVocoder
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt

__all__ = ["RecordedVoice", "compare"]

CODES_PER_UNIT = 25
LOOKAHEAD_CODES = 3
DEFAULT_STEPS = 10
FLOW_NOISE_SEED, SOURCE_NOISE_SEED, WHOLE_NOISE_SEED, CLASSIC_STREAM_SEED = 777, 778, 779, 43
"""What torch was seeded with when the goldens were made: before flow model, causal and classic vocoder were built, and
before the classic vocoder's stream."""
SOURCE_NOISE_SAMPLES = 20 * 24_000
"""No recorded turn is longer."""


@dataclass(frozen=True, slots=True)
class RecordedVoice:
    """A voice prompt and the noise of a folder's goldens; empty where ``golden_token2wav.npz`` is not there."""

    golden: Golden | None

    @classmethod
    def find(cls, goldens: Path) -> RecordedVoice:
        """Look for it in a folder."""
        there = (goldens / "golden_token2wav.npz").is_file()
        return cls(Golden.read(goldens, "token2wav") if there else None)

    @property
    def steps(self) -> int:
        """Of the flow model's solver."""
        if self.golden is None or "base_estimator_cnn_cache" not in self.golden.arrays:
            return DEFAULT_STEPS
        return len(self.golden.arrays["base_estimator_cnn_cache"])

    def lend_noise(self, engine: Engine) -> None:
        """Put the recorded tables in place of the engine's."""
        if self.golden is None or engine.token2wav is None:
            return
        sound = engine.token2wav
        sound.noise = noise_table(FLOW_NOISE_SEED, sound.device)
        if isinstance(sound.vocoder, CausalVocoder):
            sound.vocoder.noise = _official_source_noise(sound.vocoder.hift).to(sound.device)

    def prompt(self) -> VoicePrompt | None:
        """Return the recorded voice prompt."""
        if self.golden is None:
            return None
        codes, speaker, mel = (self.golden.tensor(key)[0] for key in ("prompt_tokens", "spk", "prompt_mel"))
        return VoicePrompt.of(codes, speaker, mel)

    def open(self, engine: Engine) -> Token2WavState | None:
        """Begin a conversation in row 0; None where there is no voice to speak with."""
        prompt = self.prompt()
        if prompt is None or engine.token2wav is None:
            return None
        state = engine.token2wav.new_state()
        generator = torch.Generator(engine.token2wav.device).manual_seed(CLASSIC_STREAM_SEED)
        state.open(0, engine.token2wav.voice(prompt), generator)
        return state


def compare(engine: Engine, golden: Golden, tally: Tally) -> None:
    """Compare the caches of the voice prompt, the frames and samples of a stream, and a whole utterance."""
    sound, prompt = engine.token2wav, RecordedVoice(golden).prompt()
    if sound is None or prompt is None:
        return
    _compare_caches(sound, prompt, golden, tally)
    _compare_frames(sound, prompt, golden, tally)
    classic = load_whole_vocoder(find_token2wav(engine.folder), device=sound.device)
    if isinstance(sound.vocoder, CausalVocoder):
        _compare_stream(sound, prompt, golden, tally, "wav")
    streamed = Token2Wav(sound.flow, ClassicVocoder(classic), sound.noise, steps=sound.steps, strict=True)
    _compare_stream(streamed, prompt, golden, tally, "classic_wav")
    if "nonstream_mel" in golden.arrays:
        codes = golden.tensor("codes").to(sound.device)
        voice = (prompt.codes.to(sound.device), prompt.speaker.to(sound.device), prompt.mel.to(sound.device))
        mel = sound.flow.speak_whole(codes, *voice, sound.noise, sound.steps)
        tally.numbers("mel of speech", "nonstream_mel", mel.t()[None], golden.tensor("nonstream_mel"))
        wave = classic.whole(mel.t(), _official_whole_noise(classic))
        tally.numbers("waveform", "nonstream_wav_seed42", wave[None], golden.tensor("nonstream_wav_seed42"))


def _compare_caches(sound: Token2Wav, prompt: VoicePrompt, golden: Golden, tally: Tally) -> None:
    base = sound.voice(prompt).base
    attention = base.attention[..., : base.length, :]
    found = {
        "base_estimator_att_cache": torch.cat([attention[:, :, 0], attention[:, :, 1]], dim=-1),
        "base_estimator_cnn_cache": base.conv,
        "base_conformer_cnn_cache": torch.cat([base.encoder.lookahead, base.encoder.upsample], dim=1)[None],
    }
    for key, cache in found.items():
        if key in golden.arrays:
            tally.numbers("flow caches", key, cache, golden.tensor(key))


def _compare_frames(sound: Token2Wav, prompt: VoicePrompt, golden: Golden, tally: Tally) -> None:
    voice = sound.voice(prompt)
    slot = FlowPool(sound.flow.sizes, sound.steps, sound.flow.encoder_proj.weight).take(voice.base)
    codes = [SILENCE_CODE] * LOOKAHEAD_CODES + golden.arrays["codes"].tolist()
    number = 0
    while codes:
        final = len(codes) < CODES_PER_UNIT + LOOKAHEAD_CODES
        now = torch.tensor(codes if final else codes[: CODES_PER_UNIT + LOOKAHEAD_CODES], device=sound.device)
        mel = sound.flow.speak([FlowChunk(now, voice, slot)], sound.noise, sound.steps, final=final)[0]
        if (key := f"mel_{number}") in golden.arrays:
            tally.numbers("mel of speech", key, mel.t()[None], golden.tensor(key))
        codes = [] if final else codes[CODES_PER_UNIT:]
        number += 1


def _compare_stream(sound: Token2Wav, prompt: VoicePrompt, golden: Golden, tally: Tally, name: str) -> None:
    state = sound.new_state()
    generator = torch.Generator(sound.device).manual_seed(CLASSIC_STREAM_SEED)
    state.open(0, sound.voice(prompt), generator)
    codes = golden.arrays["codes"].tolist()
    for number, begin in enumerate(range(0, len(codes), CODES_PER_UNIT)):
        end = begin + CODES_PER_UNIT >= len(codes)
        made = sound.push([0], [codes[begin : begin + CODES_PER_UNIT]], [end], state)[0]
        assert made is not None
        # The last unit's codes come in two chunks, a full one and the rest, recorded one by one.
        keys = [f"{name}_{number}", *([f"{name}_{number + 1}"] if end else [])]
        if not all(key in golden.arrays for key in keys):
            continue
        expected = torch.cat([golden.tensor(key)[0] for key in keys])
        if number == 0 and len(made) == len(expected) + LEAD_SAMPLES:
            made = made[LEAD_SAMPLES:]  # the driver's silence, which the classic vocoder's own output has not
        tally.numbers("waveform", keys[0], made, expected)


def _official_source_noise(hift: CausalHift) -> Tensor:
    """The causal vocoder's table, drawn after its F0 predictor's weights and nine phases."""
    generator = torch.Generator().manual_seed(SOURCE_NOISE_SEED)
    torch.rand(sum(weight.numel() for weight in hift.f0_predictor.parameters()) + 9, generator=generator)
    return torch.rand(SOURCE_NOISE_SAMPLES, 9, generator=generator)


def _official_whole_noise(hift: torch.nn.Module) -> torch.Generator:
    """The generator as it was after the classic vocoder's weights: each drawn once, those that are drawn anew twice."""
    drawn = 0
    for name, weight in hift.named_parameters():
        if name.endswith("alpha"):
            continue
        anew = name.endswith("weight") and name.startswith(("ups", "resblocks", "source_resblocks", "conv_post"))
        drawn += weight.numel() * (2 if anew else 1)
    generator = torch.Generator().manual_seed(WHOLE_NOISE_SEED)
    torch.rand(drawn, generator=generator)
    return generator
