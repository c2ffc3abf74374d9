"""Replays a recorded conversation, from sound and pictures to sound, and compares every stage on the way.

Knows nothing about other goldens. Each stage is given what this engine's stage before it made, not what was recorded.
"""

from __future__ import annotations

import contextlib
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.audio_encoder import AudioCache
from duplex_server.models.minicpmo.duplex import DuplexLoop
from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.mel import StreamingMel, offline_mel
from duplex_server.models.minicpmo.parity import Engine, Golden, Tally
from duplex_server.models.minicpmo.parity_sound import RecordedVoice
from duplex_server.models.minicpmo.pictures import slice_picture
from duplex_server.models.minicpmo.sampling import Choice, Sampler, SamplingOptions
from duplex_server.models.minicpmo.speech_tokens import SpeechSampling, SpeechState
from duplex_server.models.minicpmo.token2wav import Token2WavState
from duplex_server.models.minicpmo.units import Head, UnitEnd, UnitInput
from duplex_server.models.minicpmo.window import WindowMode, WindowOptions

__all__ = ["compare"]

UNIT_SAMPLES = 16_000
ROOM_TOKENS = 2048
"""Beyond what the recorded conversation held: a unit's input, and what a window drops only after it."""
FIRST_SPECIAL = 151_640
STRIDE = 37
"""Which logits are recorded: these and every 37th."""


class _Recording(Sampler):
    """Takes note of what is chosen, which the loop may replace before it feeds it."""

    chosen: list[int]

    def choose(self, logits: Tensor, choices: Sequence[Choice]) -> list[int]:
        found = super().choose(logits, choices)
        self.chosen += found
        return found


def compare(engine: Engine, golden: Golden, tally: Tally, voice: RecordedVoice) -> None:
    """Replay one conversation."""
    assert golden.scenario is not None
    _Replay(engine, golden, golden.scenario, tally, voice).run()


class _Replay:
    def __init__(
        self, engine: Engine, golden: Golden, scenario: dict[str, Any], tally: Tally, voice: RecordedVoice
    ) -> None:
        self.engine, self.golden, self.scenario, self.tally = engine, golden, scenario, tally
        self.units = [unit for unit in golden.told if "unit" in unit]
        self.mel = StreamingMel(strict_parity=True)
        weight = next(engine.audio.parameters())
        self.heard = AudioCache(engine.config.audio, 1, dtype=weight.dtype, device=weight.device)
        options = SamplingOptions(greedy=scenario["decode"] == "greedy")
        # Goldens that do not depend on the tokenizer's files bring what matters of them.
        bad_ids = golden.inputs.get("bad_token_ids", engine.tokenizer.bad_token_ids)
        self.sampler = _Recording(options, [int(token) for token in bad_ids], official=True)
        self.sampler.chosen = []
        window = dict(scenario["window"])
        self.loop = DuplexLoop(
            engine.llm,
            1,
            max(unit["cache_len"] for unit in self.units) + ROOM_TOKENS,
            sampler=self.sampler,
            window=WindowOptions(WindowMode(window.pop("mode")), **window),
            special_ids=engine.tokenizer.special_ids,
            marker=engine.tokenizer.encode("\n\nprevious: "),
            official=True,
        )
        engine.decoder.sampling = SpeechSampling(greedy=scenario["speech_decode"] == "argmax")
        self.codes: SpeechState = engine.decoder.new_state(1)
        self.sound: Token2WavState | None = voice.open(engine) if scenario["generate_audio"] else None

    def run(self) -> None:
        self.loop.open(0, self._head(), self.scenario["seed"] or 0)
        for unit in self.units:
            self._unit(unit)
        first, last = self.loop.cache.layers[0], self.loop.cache.layers[-1]
        held = self.loop.cache.lengths[0]
        for kept, key in ((first.keys, "final_k_l0"), (first.values, "final_v_l0"), (last.keys, "final_k_last")):
            self._numbers("keys and values", key, kept[0, :, :held])

    def _head(self) -> Head:
        prefix, suffix = (self._ids(self.scenario[key]) for key in ("prefix", "suffix"))
        name = self.scenario["reference"]
        if name is None:
            return Head(prefix, suffix)
        pcm = _recording([self.golden.folder / name, self.golden.folder.parent / name, self.engine.folder / name])
        self._numbers("mel", "ref_audio_mel", torch.from_numpy(offline_mel(pcm)[0])[None])
        reference = self.engine.audio.encode(pcm)
        self._numbers("audio embeddings", "ref_audio_embeds", reference)
        return Head(prefix, suffix, reference)

    def _ids(self, text: str | list[int]) -> list[int]:
        return self.engine.tokenizer.encode(text) if isinstance(text, str) else text

    def _unit(self, unit: dict[str, Any]) -> None:
        number = unit["unit"]
        begin = number * UNIT_SAMPLES
        chunk = self.mel.feed(self.golden.sound("audio")[begin : begin + UNIT_SAMPLES])
        self._numbers("mel", f"u{number}_mel", torch.from_numpy(chunk.frames)[None])
        audio = self.engine.audio.stream([chunk], [0], self.heard)[0]
        self._numbers("audio embeddings", f"u{number}_audio_embeds", audio)
        pictures = self._pictures(number)
        script = self.scenario["script"]
        given = UnitInput(0, audio, pictures, script=script[str(number)] if script else None)
        self.sampler.chosen.clear()
        with _states_of(self.loop) as states:
            end = list(self.loop.step([given]))[-1]
        self.loop.settle([0])
        assert isinstance(end, UnitEnd)
        key = f"u{number}"
        if "text" in unit:
            self.tally.facts("text", f"{key} text", self.engine.tokenizer.decode(end.spoken), unit["text"])
        decided = (end.listening, end.end_of_turn, self.loop.cache.lengths[0])
        expected = (unit["is_listen"], unit["end_of_turn"], unit["cache_len"])
        self.tally.facts("decisions", f"{key} listening, end of turn, tokens held", decided, expected)
        if script is None:
            self.tally.sequences("token ids", f"{key} decoded", self.sampler.chosen, unit["decoded"])
        self._compare_states(number, states)
        if not end.listening and self.scenario["generate_audio"]:
            self._speak(number, end)

    def _pictures(self, number: int) -> list[Tensor]:
        config = self.engine.config.slicing
        most = self.scenario["max_slice_nums"].get(str(number), 1)
        names = sorted(key for key in self.golden.inputs if key.startswith(f"frame_u{number}_"))
        cut = [
            slice_picture(
                self.golden.inputs[name],
                most[place] if isinstance(most, list) else most,
                config.scale_resolution,
                config.patch_size,
            )
            for place, name in enumerate(names)
        ]
        if not cut:
            return []
        embeds = self.engine.vision.encode([part for picture in cut for part in picture])
        self._numbers("picture embeddings", f"u{number}_vision_embeds", embeds)
        return list(embeds.split([len(picture) for picture in cut]))

    def _compare_states(self, number: int, states: Sequence[Tensor]) -> None:
        for step, state in enumerate(states):
            key = f"u{number}_s{step}"
            self._numbers("hidden states", f"{key}_hidden", state)
            wanted = {f"{key}_logits_strided", f"{key}_logits_special", f"{key}_top16"} & self.golden.arrays.keys()
            if not wanted:
                continue
            logits = self.engine.llm.logits(state)
            self._numbers("logits", f"{key}_logits_strided", logits[::STRIDE])
            self._numbers("logits", f"{key}_logits_special", logits[FIRST_SPECIAL:])
            if f"{key}_top16" in wanted:
                values, ids = self.golden.tensor(f"{key}_top16")
                self.tally.numbers("logits", f"{key}_top16", logits[ids.long()], values)

    def _speak(self, number: int, end: UnitEnd) -> None:
        decoder = self.engine.decoder
        (condition,) = decoder.conditions([(end.spoken, end.hidden)])
        self._numbers("speech conditions", f"u{number}_tts_cond", condition[None])
        generators = [self.loop.generator(0)]
        (codes,) = decoder.decode([0], [condition], [end.end_of_turn], self.codes, generators)
        if (key := f"u{number}_tts_tokens") in self.golden.arrays:
            self.tally.sequences("speech codes", key, codes, self.golden.arrays[key].tolist())
        if self.sound is not None and self.engine.token2wav is not None:
            (sound,) = self.engine.token2wav.push([0], [codes], [end.end_of_turn], self.sound)
            if sound is not None:
                self._numbers("waveform", f"u{number}_wav", sound)

    def _numbers(self, stage: str, key: str, found: Tensor) -> None:
        if key in self.golden.arrays:
            self.tally.numbers(stage, key, found, self.golden.tensor(key))


@contextlib.contextmanager
def _states_of(loop: DuplexLoop) -> Iterator[list[Tensor]]:
    """Collect the state after a unit's input and after each token that is fed."""
    forward, states = loop.llm.forward, []

    def watched(embeds: Sequence[Tensor], rows: Sequence[int], cache: KvCache) -> list[Tensor]:
        hidden = forward(embeds, rows, cache)
        states.append(hidden[0][-1])
        return hidden

    loop.llm.forward = watched  # type: ignore[method-assign]
    try:
        yield states
    finally:
        loop.llm.forward = forward  # type: ignore[method-assign]


def _recording(places: Sequence[Path]) -> np.ndarray:
    """Read the first of these files that is there: 16 kHz, mono, 16 bits; float32 samples."""
    for place in places:
        if place.is_file():
            with wave.open(str(place)) as opened:
                if (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) != (UNIT_SAMPLES, 1, 2):
                    raise ModelLoadError(f"{place} is not 16 kHz, mono, 16 bits")
                samples = np.frombuffer(opened.readframes(opened.getnframes()), np.int16)
            return samples.astype(np.float32) / 32768
    raise ModelLoadError(f"the reference voice {places[0].name} is not beside the goldens")
