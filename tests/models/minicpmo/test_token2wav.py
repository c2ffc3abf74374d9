"""Sound: that of the official code, streams that equal the whole, and rows that know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duplex_server.errors import CapacityError
from duplex_server.models.minicpmo.assets import find_token2wav
from duplex_server.models.minicpmo.flow import FlowChunk
from duplex_server.models.minicpmo.flow_cache import KEPT_FRAMES, FlowPool
from duplex_server.models.minicpmo.flow_past import RecordedFlow
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.speech_loading import load_token2wav, load_whole_vocoder
from duplex_server.models.minicpmo.token2wav import LEAD_SAMPLES, OUTPUT_HZ, Token2Wav, Token2WavState
from duplex_server.models.minicpmo.vocoder import CausalVocoder, ClassicVocoder
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt
from tests.helpers.minicpmo_token2wav import flow_noise, source_noise, whole_noise

STEPS = 5
"""Of the goldens; where nothing is compared with them, 2 are enough."""
CPU = torch.device("cpu")
WITHIN = 1e-3
"""Of the official waveforms, in float32."""
CLASSIC_STREAM_SEED = 43


@pytest.fixture(scope="module")
def golden(shared_goldens: Path) -> dict[str, Tensor]:
    with np.load(shared_goldens / "golden_token2wav.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Token2Wav:
    loaded = load_token2wav(tiny_checkpoint, device=CPU, steps=STEPS)
    assert isinstance(loaded.vocoder, CausalVocoder)
    loaded.noise = flow_noise()
    loaded.vocoder.noise = source_noise()
    return loaded


@pytest.fixture(scope="module")
def classic(tiny_checkpoint: Path) -> ClassicVocoder:
    return ClassicVocoder(load_whole_vocoder(find_token2wav(tiny_checkpoint), device=CPU))


def speaker(
    loaded: Token2Wav, *, strict: bool = False, vocoder: ClassicVocoder | None = None, steps: int = 2
) -> Token2Wav:
    """The same weights with other ways."""
    loaded.flow.strict = strict
    return Token2Wav(loaded.flow, vocoder or loaded.vocoder, loaded.noise, steps=steps, strict=strict)


@pytest.fixture(params=["causal", "classic"])
def vocoder(request: pytest.FixtureRequest, classic: ClassicVocoder) -> ClassicVocoder | None:
    return classic if request.param == "classic" else None


def voice(seed: int, codes: int = 40) -> VoicePrompt:
    draw = torch.Generator().manual_seed(seed)
    return VoicePrompt.of(
        torch.randint(0, 6561, (codes,), generator=draw),
        torch.randn(192, generator=draw),
        torch.randn(2 * codes, 80, generator=draw),
    )


def golden_voice(golden: dict[str, Tensor]) -> VoicePrompt:
    return VoicePrompt.of(golden["prompt_tokens"][0], golden["spk"][0], golden["prompt_mel"][0])


UNITS = 4
Unit = tuple[list[int], bool]


def made_up(seed: int, units: int = UNITS) -> list[Unit]:
    draw = torch.Generator().manual_seed(seed)
    made: list[Unit] = []
    for _ in range(units):
        end = bool(torch.rand(1, generator=draw) < 0.35)
        count = int(torch.randint(0, 26, (1,), generator=draw)) if end or not made or made[-1][1] else 25
        made.append((torch.randint(0, 6561, (count,), generator=draw).tolist(), end))
    return made


def spoken(
    model: Token2Wav, prompt: VoicePrompt, units: Sequence[Unit], state: Token2WavState | None = None, row: int = 0
) -> list[Tensor | None]:
    state = state or model.new_state()
    state.open(row, model.voice(prompt), torch.Generator().manual_seed(row))
    return [model.push([row], [codes], [end], state)[0] for codes, end in units]


def joined(sounds: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([sound for sound in sounds if sound is not None])


def in_units(codes: Sequence[int]) -> list[Unit]:
    return [(list(codes[i : i + 25]), i + 25 >= len(codes)) for i in range(0, len(codes), 25)]


class TestOfficial:
    def test_voice_prompt(self, loaded: Token2Wav, golden: dict[str, Tensor]) -> None:
        base = speaker(loaded, strict=True, steps=STEPS).voice(golden_voice(golden)).base
        frames = base.length
        attention = base.attention[..., :frames, :]
        found = torch.cat([attention[:, :, 0], attention[:, :, 1]], dim=-1)
        torch.testing.assert_close(found, golden["base_estimator_att_cache"], atol=2e-5, rtol=0)
        torch.testing.assert_close(base.conv, golden["base_estimator_cnn_cache"], atol=2e-5, rtol=0)
        kept = torch.cat([base.encoder.lookahead, base.encoder.upsample], dim=1)[None]
        torch.testing.assert_close(kept, golden["base_conformer_cnn_cache"], atol=2e-5, rtol=0)
        for layer in range(2):
            keys, values = base.encoder.mels.block(layer)
            expected = golden["base_conformer_att_cache"][2 + layer, 0]
            torch.testing.assert_close(torch.cat([keys, values], dim=-1), expected, atol=2e-5, rtol=0)

    def test_mel_frames(self, loaded: Token2Wav, golden: dict[str, Tensor]) -> None:
        model = speaker(loaded, strict=True, steps=STEPS)
        taken_up = model.voice(golden_voice(golden))
        slot = FlowPool(model.flow.sizes, STEPS, golden["spk"]).take(taken_up.base)
        codes = [4218] * 3 + golden["codes"].tolist()
        for number in range(8):
            final = number == 7
            now = torch.tensor(codes if final else codes[:28])
            mel = model.flow.speak([FlowChunk(now, taken_up, slot)], model.noise, STEPS, final=final)[0]
            torch.testing.assert_close(mel.t()[None], golden[f"mel_{number}"], atol=5e-5, rtol=0)
            assert slot.length == golden[f"chunk{min(number, 6)}_att_T"]
            codes = codes[25:]

    def test_whole_utterance(self, loaded: Token2Wav, classic: ClassicVocoder, golden: dict[str, Tensor]) -> None:
        prompt = golden_voice(golden)
        flow = speaker(loaded, strict=True, steps=STEPS).flow
        mel = flow.speak_whole(golden["codes"], prompt.codes, prompt.speaker, prompt.mel, loaded.noise, STEPS)
        torch.testing.assert_close(mel.t()[None], golden["nonstream_mel"], atol=5e-5, rtol=0)
        wave = classic.hift.whole(golden["nonstream_mel"][0], whole_noise())
        torch.testing.assert_close(wave[None], golden["nonstream_wav_seed42"], atol=WITHIN, rtol=0)

    def test_stream(self, loaded: Token2Wav, vocoder: ClassicVocoder | None, golden: dict[str, Tensor]) -> None:
        model = speaker(loaded, strict=True, vocoder=vocoder, steps=STEPS)
        state = model.new_state()
        generator = torch.Generator().manual_seed(CLASSIC_STREAM_SEED)
        state.open(0, model.voice(golden_voice(golden)), generator)
        units = in_units(golden["codes"].tolist())
        found = joined([model.push([0], [codes], [end], state)[0] for codes, end in units])
        name = "classic_wav" if vocoder else "wav"
        expected = torch.cat([golden[f"{name}_{number}"][0] for number in range(8)])
        if vocoder:  # filled up to a second on the left
            expected = torch.cat([torch.zeros(LEAD_SAMPLES), expected])
        torch.testing.assert_close(found, expected, atol=WITHIN, rtol=0)


class TestStreams:
    @pytest.mark.parametrize("seed", range(3))
    def test_causal_vocoder_streams_what_it_makes_of_the_whole(self, loaded: Token2Wav, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        mel = torch.randn(80, 200, generator=draw)
        vocoder = loaded.vocoder
        whole = vocoder.stream([mel], [vocoder.begin(draw)], final=True)[0]
        assert len(whole) == 200 * 480
        tail, parts, begin = vocoder.begin(draw), [], 0
        while begin < 200:
            size = int(torch.randint(1, 60, (1,), generator=draw))
            parts.append(vocoder.stream([mel[:, begin : begin + size]], [tail], final=begin + size >= 200)[0])
            begin += size
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)

    def test_what_is_held_is_bounded(self, loaded: Token2Wav) -> None:
        vocoder = loaded.vocoder
        assert isinstance(vocoder, CausalVocoder)
        hift = vocoder.hift
        tail = vocoder.begin()
        for _ in range(4):
            vocoder.stream([torch.zeros(80, 50)], [tail], final=False)
            assert tail.mel.shape[1] <= hift.history + hift.delay_frames
        assert (hift.history, hift.delay_frames) == (29, 8)  # the official history of 31 frames is two more than needed

    def test_what_lies_beyond_the_history_does_not_matter(self, loaded: Token2Wav) -> None:
        """One frame less of history would be heard."""
        assert isinstance(loaded.vocoder, CausalVocoder)
        hift = loaded.vocoder.hift
        mel = torch.randn(80, 120, generator=torch.Generator().manual_seed(0)) * 3
        whole = loaded.vocoder.stream([mel], [loaded.vocoder.begin(torch.Generator())], final=True)[0]
        enough = hift.history
        errors = {}
        try:
            for history in (enough, 20):
                hift.history = history
                tail = loaded.vocoder.begin(torch.Generator())
                ends = range(0, 120, 10)
                parts = [loaded.vocoder.stream([mel[:, i : i + 10]], [tail], final=i == 110)[0] for i in ends]
                errors[history] = (torch.cat(parts) - whole).abs().max().item()
        finally:
            hift.history = enough
        assert errors[enough] < 1e-5 < errors[20]

    def test_a_turn_lasts_as_long_as_its_codes(self, loaded: Token2Wav, vocoder: ClassicVocoder | None) -> None:
        model = speaker(loaded, vocoder=vocoder)
        sounds = spoken(model, voice(0), in_units(range(110)))
        assert [len(sound) for sound in sounds if sound is not None] == [24_000] * 4 + [
            3 * 960 + 10 * 960 + LEAD_SAMPLES
        ]
        assert not sounds[0][:LEAD_SAMPLES].any()  # type: ignore[index]
        assert joined(sounds).abs().max() <= 1

    def test_codes_may_come_in_any_pieces(self, loaded: Token2Wav) -> None:
        model = speaker(loaded)
        whole = joined(spoken(model, voice(0), in_units(range(100))))
        codes = list(range(100))
        # Once the first unit has been spoken, only full chunks are: how codes are cut does not matter.
        pieces = [(codes[:25], False), (codes[25:35], False), (codes[35:80], False), (codes[80:], False), ([], True)]
        torch.testing.assert_close(joined(spoken(model, voice(0), pieces)), whole)


class TestRows:
    @pytest.mark.parametrize(("strict", "recorded"), [(False, False), (False, True), (True, False)])
    def test_eight_rows_of_different_voices_sound_as_each_alone(
        self, loaded: Token2Wav, classic: ClassicVocoder, strict: bool, recorded: bool
    ) -> None:
        model = speaker(loaded, strict=strict, vocoder=classic if strict else None)
        voices = [voice(row % 3, codes=25 + 7 * (row % 3)) for row in range(8)]
        conversations = [made_up(row) for row in range(8)]
        alone = [spoken(model, voices[row], conversations[row], row=row) for row in range(8)]
        state = model.new_state(recorded=RecordedFlow(Replays(CPU), 8) if recorded else None)
        for row in range(8):
            state.open(row, model.voice(voices[row]), torch.Generator().manual_seed(row))
        found: list[list[Tensor | None]] = [[] for _ in range(8)]
        arrival = torch.Generator().manual_seed(1)
        while any(len(sounds) < UNITS for sounds in found):
            waiting = [row for row in torch.randperm(8, generator=arrival).tolist() if len(found[row]) < UNITS]
            rows = waiting[: int(torch.randint(1, 9, (1,), generator=arrival))]
            now = [conversations[row][len(found[row])] for row in rows]
            made = model.push(rows, [unit[0] for unit in now], [unit[1] for unit in now], state)
            for row, sound in zip(rows, made, strict=True):
                found[row].append(sound)
        for row in range(8):
            for sound, expected in zip(found[row], alone[row], strict=True):
                if expected is None:
                    assert sound is None
                else:
                    torch.testing.assert_close(sound, expected, atol=2e-4, rtol=0)

    def test_a_turn_given_up_leaves_nothing(self, loaded: Token2Wav, vocoder: ClassicVocoder | None) -> None:
        model = speaker(loaded, vocoder=vocoder)
        fresh = spoken(model, voice(0), in_units(range(60)))
        state = model.new_state()
        state.open(0, model.voice(voice(0)), torch.Generator().manual_seed(3))
        for codes, _ in in_units(range(300, 375)):
            model.push([0], [codes], [False], state)
        state.reset(0)
        again = spoken(model, voice(0), in_units(range(60)), state)
        torch.testing.assert_close(joined(again), joined(fresh), atol=0, rtol=0)

    def test_places_are_taken_while_speaking_only(self, loaded: Token2Wav) -> None:
        model = speaker(loaded)
        state = model.new_state(most_speaking=1)
        for row in (0, 1):
            state.open(row, model.voice(voice(row)), torch.Generator())
        model.push([0], [list(range(25))], [False], state)
        with pytest.raises(CapacityError):
            state.reserve(1)
        with pytest.raises(CapacityError):
            model.push([1], [list(range(25))], [False], state)
        assert len(state.waiting(1)) == 3
        model.push([0], [list(range(5))], [True], state)
        assert model.push([1], [list(range(25))], [True], state)[0] is not None
        state.reserve(0)

    def test_memory_that_runs_out_ends_one_conversation(
        self, loaded: Token2Wav, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = speaker(loaded)
        state = model.new_state()
        for row in (0, 1):
            state.open(row, model.voice(voice(row, codes=30 + row)), torch.Generator())
        state.reserve(0)

        def exhausted(*_: object) -> None:
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr("duplex_server.models.minicpmo.flow_cache.FlowSlot", exhausted)
        with pytest.raises(CapacityError):
            state.reserve(1)
        assert model.push([0], [list(range(25))], [True], state)[0] is not None

    @pytest.mark.parametrize("where", ["flow", "vocoder"])
    def test_memory_that_runs_out_in_the_middle_of_a_turn_costs_no_word(
        self, loaded: Token2Wav, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """What the rows' sound has been is forgotten: what was half computed cannot be told from it."""
        model = speaker(loaded)
        state = model.new_state()
        for row in (0, 1):
            state.open(row, model.voice(voice(row, codes=30 + row)), torch.Generator())
        codes = [list(range(25 * i, 25 * i + 25)) for i in range(4)]
        for now in codes[:2]:
            model.push([0, 1], [now, now], [False, False], state)
        owner, name = (model.flow, "speak") if where == "flow" else (model.vocoder, "stream")
        compute = getattr(owner, name)

        def exhausted(*given: object, **named: object) -> None:
            compute(*given, **named)
            raise torch.OutOfMemoryError

        with monkeypatch.context() as broken:
            broken.setattr(owner, name, exhausted)
            with pytest.raises(torch.OutOfMemoryError):
                model.push([0, 1], [codes[2]] * 2, [False, True], state)
        assert state.waiting(0) == state.waiting(1) == codes[1][-3:]
        rest = [(codes[2], False), (codes[3], True)]
        late = [model.push([0, 1], [now, now], [False, end], state) for now, end in rest]
        fresh = model.new_state()
        fresh.open(1, model.voice(voice(1, codes=31)), torch.Generator())
        fresh.reserve(1)
        fresh.restart(1, codes[1][-3:])
        alone = [model.push([1], [now], [end], fresh)[0] for now, end in rest]
        torch.testing.assert_close(joined([both[1] for both in late]), joined(alone), atol=1e-5, rtol=0)
        assert len(joined(alone)) == LEAD_SAMPLES + 53 * 960


class TestFixes:
    """What the official code does differently, and what is heard of it."""

    def test_the_newest_speech_is_remembered_unless_strict(self, loaded: Token2Wav) -> None:
        """§9.2 g: officially the last two seconds of the *prompt* are kept, and the newest speech as long as it."""
        units = [(list(range(25 * i, 25 * i + 25)), False) for i in range(6)]
        kept = {}
        for strict in (False, True):
            model = speaker(loaded, strict=strict)
            state = model.new_state()
            spoken(model, voice(0, codes=60), units, state)
            slot, base = state[0].slot, model.voice(voice(0, codes=60)).base
            assert slot is not None and slot.length == 120 + KEPT_FRAMES
            kept[strict] = slot.attention[0, 0, 0, 0, 0, : slot.length], base.attention[0, 0, 0, 0, 0, :120]
        ours, prompt = kept[False]
        assert torch.equal(ours[:120], prompt)  # the whole prompt, and 100 frames of speech
        officially, prompt = kept[True]
        assert torch.equal(officially[-100:], prompt[-100:])
        assert not torch.isclose(officially[:120, None], prompt[None]).all(dim=-1).any()  # and 120 frames of speech

    def test_every_chunk_has_noise_of_its_own_unless_strict(self, loaded: Token2Wav) -> None:
        """§9.2 g: officially the place in the table is the cache's length, which stands still once it is full."""
        asked = {}
        for strict in (False, True):
            model = speaker(loaded, strict=strict)
            state = model.new_state()
            units: list[Unit] = [(list(range(25)), False)] * 6
            spoken(model, voice(0, codes=60), units, state)
            slot = state[0].slot
            assert slot is not None
            asked[strict] = model.flow._noise(loaded.noise, slot, 50)
        place = {
            strict: [n for n in range(1000) if torch.equal(loaded.noise[:, n], noise[0])]
            for strict, noise in asked.items()
        }
        assert place == {False: [120 + 6 * 50], True: [120 + KEPT_FRAMES]}

    def test_a_short_chunk_gets_no_silence_in_front_unless_strict(self, loaded: Token2Wav) -> None:
        """§9.2 k: a first unit of few codes, as when the model pauses after a word."""
        units = [(list(range(10)), False), (list(range(25)), False)]
        ours, official = (
            joined(spoken(speaker(loaded, strict=strict), voice(0), units)[:1]) for strict in (False, True)
        )
        assert len(ours) == 10 * 960
        assert len(official) == OUTPUT_HZ
        assert not official[: OUTPUT_HZ - len(ours)].any()

    def test_samples_are_rounded_only_when_strict(self, loaded: Token2Wav) -> None:
        units = in_units(range(30))
        ours, official = (joined(spoken(speaker(loaded, strict=strict), voice(0), units)) for strict in (False, True))
        assert torch.equal((official * 32768).round(), official * 32768)
        assert not torch.equal((ours * 32768).round(), ours * 32768)


def test_voices_are_taken_up_once(loaded: Token2Wav) -> None:
    model = speaker(loaded)
    assert model.voice(voice(0)) is model.voice(voice(0))
    assert model.voice(voice(0)) is not model.voice(voice(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sounds_alike(tiny_checkpoint: Path, loaded: Token2Wav, dtype: torch.dtype) -> None:
    half = load_token2wav(tiny_checkpoint, device=CPU, dtype=dtype, steps=2)
    half.noise = loaded.noise
    units = in_units(range(60))
    mels = {}
    for model in (half, speaker(loaded)):
        taken_up = model.voice(voice(0))
        slot = FlowPool(model.flow.sizes, 2, model.flow.encoder_proj.weight).take(taken_up.base)
        chunk = FlowChunk(torch.arange(28), taken_up, slot)
        mels[model] = model.flow.speak([chunk], model.noise, 2, final=False)[0]
    ours, theirs = mels.values()
    assert (ours - theirs).abs().mean() < 0.05 * theirs.abs().mean()
    assert joined(spoken(half, voice(0), units)).isfinite().all()


class TestRecordings:
    def test_voices_and_turns_of_any_length_make_no_more_of_them(self, loaded: Token2Wav) -> None:
        """What clients bring decides neither how much is recorded nor how much memory that takes."""
        model = speaker(loaded)
        replays = Replays(CPU)
        state = model.new_state(recorded=RecordedFlow(replays, 1))
        model.rehearse(voice(0), state)
        rehearsed = set(replays._kept)
        assert rehearsed
        for length in (25, 60, 149, 150, 200):
            state.open(0, model.voice(voice(length, codes=length)), torch.Generator().manual_seed(0))
            for units in (in_units(range(80)), [(list(range(9)), False), *in_units(range(60))]):
                for codes, end in units:
                    model.push([0], [codes], [end], state)
        assert set(replays._kept) == rehearsed
