"""Ids are the official tokenizer's, and text that comes id by id is the text that comes at once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.tokenizer import Tokenizer
from duplex_server.models.minicpmo.tokens import SPECIAL, SPELLING
from tests.helpers.minicpmo_checkpoint import SHARED, make_tokenizer

needs_official = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"{SHARED} is not there: the official tokenizer is kept beside the repository"
)


@pytest.fixture(scope="module")
def official() -> Tokenizer:
    return Tokenizer(SHARED)


@pytest.fixture
def made(tmp_path: Path) -> Tokenizer:
    make_tokenizer(tmp_path)
    return Tokenizer(tmp_path)


@needs_official
def test_the_official_prompt_has_the_official_ids(official: Tokenizer) -> None:
    ids = json.loads((SHARED / "prompt_ids.json").read_bytes())
    assert official.encode("<|im_start|>system\nStreaming Omni Conversation.\n<|audio_start|>") == ids["prefix"]
    assert official.encode("<|audio_end|><|im_end|>") == ids["suffix"]


@needs_official
def test_an_answer_of_the_official_code_is_decoded_as_it_was(official: Tokenizer) -> None:
    answer = json.loads((SHARED / "goldens" / "golden_components.json").read_bytes())["chat_answer"]
    ids = official.encode(answer)
    assert official.decode(ids, skip_special=False) == answer
    assert "<|" not in official.decode(ids)


@needs_official
def test_the_official_tables_are_read(official: Tokenizer) -> None:
    assert len(official.bad_token_ids) == 6965
    assert SPECIAL.im_start in official.listed_special_ids <= official.special_ids
    assert SPECIAL.think not in official.special_ids, "it is an added token, not a special one"


def test_every_special_token_is_one_id(made: Tokenizer) -> None:
    for name, spelling in SPELLING.items():
        assert made.encode(f"he{spelling}ll") == [*made.encode("he"), getattr(SPECIAL, name), *made.encode("ll")]


def test_special_tokens_are_left_out_of_text(made: Tokenizer) -> None:
    ids = [SPECIAL.speak, *made.encode("hello"), SPECIAL.turn_eos]
    assert made.decode(ids) == "hello"
    assert made.decode(ids, skip_special=False) == "<|speak|>hello<|turn_eos|>"


def test_half_a_character_waits_for_its_other_half(made: Tokenizer) -> None:
    stream = made.stream()
    pieces = [stream.feed([token]) for token in made.encode("a世🎉")]
    assert pieces == ["a", "", "", "世", "", "", "", "🎉"]
    assert stream.feed(made.encode("世")[:2]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.feed(made.encode("b")) == "b"


@needs_official
def test_a_text_in_pieces_is_the_text_at_once(official: Tokenizer) -> None:
    draw = random.Random(5)
    for _ in range(300):
        ids = [draw.randrange(151748) for _ in range(draw.randrange(1, 12))]
        stream = official.stream()
        pieces = [stream.feed([token]) for token in ids]
        assert "".join([*pieces, stream.finish()]) == official.decode(ids)


def test_a_token_with_another_id_is_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    described = json.loads(file.read_bytes())
    tokens = described["added_tokens_decoder"]
    tokens["151705"], tokens["151706"] = tokens["151706"], tokens["151705"]
    file.write_text(json.dumps(described))
    with pytest.raises(ModelLoadError, match=r"<\|listen\|> has the id 151706, not 151705"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("vocab.json", None, "cannot be read"),
        ("merges.txt", None, "cannot be read"),
        ("merges.txt", "h e l\n", "no pair: 'h e l'"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("vocab.json", "[]", "no JSON object"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, text: str | None, says: str) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ModelLoadError, match=f"{file}.*{says}"):
        Tokenizer(tmp_path)
