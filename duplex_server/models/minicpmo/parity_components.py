"""Compares single components with recorded runs: slicing, vision, offline sound, chat, filters, rotation, tokenizer.

Knows nothing about conversations. Whatever a golden does not hold is left out.
"""

from __future__ import annotations

import torch

from duplex_server.models.minicpmo.chat import AnswerOptions, Chat
from duplex_server.models.minicpmo.chat_prompt import PromptEncoder
from duplex_server.models.minicpmo.messages import Message, Picture, Sound, render
from duplex_server.models.minicpmo.parity import Engine, Golden, Tally
from duplex_server.models.minicpmo.pictures import lay_out, slice_picture
from duplex_server.models.minicpmo.resampler import Grid, grid_positions
from duplex_server.models.minicpmo.s3_tokenizer import S3Tokenizer
from duplex_server.models.minicpmo.sampling import top_k_top_p
from duplex_server.models.minicpmo.speech_tokens import penalised
from duplex_server.models.minicpmo.units import embedded
from duplex_server.models.minicpmo.utterance import AttentionMode, Utterance, UtteranceOptions
from duplex_server.models.minicpmo.vision import position_buckets
from duplex_server.models.minicpmo.voice_features import tokenizer_mel
from duplex_server.models.minicpmo.weights import StateDictSource, load_module

__all__ = ["compare"]

VISION_SLICES = 4
CHAT_SLICES = 2
CHAT_TOKENS = 12
POSITIONS_GRID = Grid(5, 7)
CHAT_SYSTEM = (
    "Clone the voice in the provided audio prompt.",
    "As an assistant, you will speak using this voice style.",
)
UTTERANCE_CODES = 40
ROPE_BY, ROPE_FROM = 33, 40
TOKENIZER_FILE = "s3tokenizer_tiny.pt"
CHAT_QUESTION = "What is in the image?"
"""How the goldens were made; their format has no place for it."""


def compare(engine: Engine, golden: Golden, tally: Tally) -> None:
    """Compare whatever the golden holds."""
    _geometry(golden, tally)
    for compare_some in (_pictures, _sounds, _chat, _utterances, _formulas):
        compare_some(engine, golden, tally)


def _geometry(golden: Golden, tally: Tally) -> None:
    for width, height, most, grid, sizes in (golden.told or {}).get("slicing", []):
        found = lay_out(width, height, most)
        columns, rows = found.grid
        laid_out = [list(found.grid) if columns else None, [found.overview, *[found.slice_size] * (columns * rows)]]
        recorded = [grid, [tuple(size) for size in sizes]]
        tally.facts("decisions", f"slicing {width}×{height}, {most}", laid_out, recorded)
    for count, buckets in enumerate((golden.told or {}).get("navit_pos_buckets", []), start=1):
        tally.sequences("decisions", f"positions of {count}", position_buckets(count, 70).tolist(), buckets)
    if "resampler_pos_5x7" in golden.arrays:
        table = golden.tensor("resampler_pos_5x7")
        tally.numbers(
            "tables", "resampler_pos_5x7", grid_positions(POSITIONS_GRID, table.shape[-1]), table.flatten(0, 1)
        )


def _pictures(engine: Engine, golden: Golden, tally: Tally) -> None:
    if "vis_resampled" in golden.arrays:
        names = sorted(key for key in golden.inputs if key.startswith("vis_image"))
        parts = [part for name in names for part in slice_picture(golden.inputs[name], VISION_SLICES)]
        tally.numbers(
            "picture embeddings", "vis_resampled", engine.vision.encode(parts), golden.tensor("vis_resampled")
        )


def _sounds(engine: Engine, golden: Golden, tally: Tally) -> None:
    for key in golden.arrays:
        name = key.removesuffix("_emb")
        if name != key and name in golden.inputs:
            tally.numbers("audio embeddings", key, engine.audio.encode(golden.sound(name)), golden.tensor(key))
    if "s3_mel" in golden.arrays:
        mel = torch.from_numpy(tokenizer_mel(golden.sound("s3_audio")))
        tally.numbers("mel of a voice", "s3_mel", mel, golden.tensor("s3_mel"))
        _speech_tokenizer(golden, tally)


def _speech_tokenizer(golden: Golden, tally: Tally) -> None:
    """Compare codes where the tokenizer's weights lie beside the goldens as tensors; the published ones are ONNX."""
    files = [golden.folder.parent / "token2wav" / TOKENIZER_FILE, golden.folder / TOKENIZER_FILE]
    file = next((file for file in files if file.is_file()), None)
    if file is None or "s3_codes" not in golden.arrays:
        return
    source = StateDictSource(file)
    with torch.device("meta"):
        tokenizer = S3Tokenizer.of(source.shapes())
    load_module(tokenizer, source, device=torch.device("cpu"), dtype=torch.float32)
    codes = tokenizer(golden.tensor("s3_mel")).tolist()
    tally.sequences("speech codes", "s3_codes", codes, golden.arrays["s3_codes"][0].tolist())


def _chat(engine: Engine, golden: Golden, tally: Tally) -> None:
    if "chat_ids" not in golden.arrays:
        return
    prompts = PromptEncoder(engine.config, engine.tokenizer, engine.vision, engine.audio, strict_parity=True)
    before, after = CHAT_SYSTEM
    picture = Picture(golden.inputs["chat_image"], CHAT_SLICES)
    messages = [
        Message("system", (before, Sound(golden.sound("chat_system_audio")), after)),
        Message("user", (picture, CHAT_QUESTION, Sound(golden.sound("chat_audio")))),
    ]
    (embeds,) = embedded([prompts.encode(render(messages, omni=True))], engine.llm.embed)
    tally.numbers("audio embeddings", "chat_embeds", embeds, golden.tensor("chat_embeds"))
    options = AnswerOptions(greedy=True, max_tokens=CHAT_TOKENS)
    said = [token.token for token in Chat(engine.llm, prompts).answer(messages, options, omni=True)]
    tally.sequences("token ids", "chat_ids", said, golden.arrays["chat_ids"].tolist())


def _utterances(engine: Engine, golden: Golden, tally: Tally) -> None:
    """Compare the codes of an answer in three chunks, in each way to remember what was said."""
    config, table = engine.config.tts, engine.decoder.emb_text.weight
    for mode in AttentionMode:
        if (key := f"tts_stream_{mode.value}") not in golden.arrays:
            continue
        options = UtteranceOptions(mode, greedy=True, window_positions=UTTERANCE_CODES, most_codes=UTTERANCE_CODES)
        utterance = Utterance(engine.decoder, options, torch.Generator(), strict_parity=True)
        codes: list[int] = []
        conditions = [name for name in golden.arrays if name.startswith("tts_sc_cond")]
        for name in sorted(conditions):
            ending = [table[config.text_eos_token_id]] if name == max(conditions) else []
            rows = [*golden.tensor(name)[0].to(table), *ending, table[config.audio_bos_token_id]]
            codes += utterance.speak_from(torch.stack(rows))
        expected = golden.arrays[key].tolist()
        tally.sequences("speech codes", key, codes[: len(expected)], expected)


def _formulas(engine: Engine, golden: Golden, tally: Tally) -> None:
    if "filt_k20_p08" in golden.arrays:
        kept = top_k_top_p(golden.tensor("filt_in") / 0.7, 20, 0.8).isfinite()
        expected = golden.tensor("filt_k20_p08").isfinite()
        tally.sequences("decisions", "filt_k20_p08", kept[0].int().tolist(), expected[0].int().tolist())
    if "reppen_out" in golden.arrays:
        ids = golden.arrays["reppen_ids"][0].tolist()
        found = penalised(golden.tensor("filt_in").clone(), [ids[-16:]], 1.05)
        tally.numbers("tables", "reppen_out", found, golden.tensor("reppen_out"))
    if "rope_out" in golden.arrays:
        # The golden says how far keys are moved, not from where: in float32 that makes no difference that can be seen.
        found = engine.llm.rope.turned_officially(golden.tensor("rope_in")[0], ROPE_FROM, ROPE_FROM - ROPE_BY)
        tally.numbers("keys and values", "rope_out", found[None], golden.tensor("rope_out"))
