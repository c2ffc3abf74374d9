"""Text to token ids and back, as the checkpoint's own tokenizer does it. Knows nothing about conversations."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.tokens import SPECIAL, SPELLING

__all__ = ["TextStream", "Tokenizer"]

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut text before byte-pair encoding: contractions, words with one leading sign, single digits,
runs of signs, line ends, spaces. Part of the trained vocabulary, like the merges."""


class Tokenizer:
    """Byte-level BPE of a checkpoint folder, with its added tokens.

    Reads ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``; safe to use from several threads.

    Args:
        folder: the checkpoint.

    Raises:
        ModelLoadError: a file is missing or broken, or a special token has another id than the model was trained with.
    """

    def __init__(self, folder: Path) -> None:
        described = _read_json(folder / "tokenizer_config.json")
        added = {int(index): token for index, token in described.get("added_tokens_decoder", {}).items()}
        vocabulary = _read_json(folder / "vocab.json")
        # With the added tokens inside the vocabulary they keep their ids, whatever gaps there are.
        vocabulary.update({token["content"]: index for index, token in added.items()})
        self._bpe = _byte_level_bpe(vocabulary, _read_merges(folder / "merges.txt"))
        for _, token in sorted(added.items()):
            self._declare(token)
        for name, spelling in SPELLING.items():
            if vocabulary.get(spelling) != getattr(SPECIAL, name):
                raise ModelLoadError(
                    f"{folder}: {spelling} has the id {vocabulary.get(spelling)}, not {getattr(SPECIAL, name)}"
                )
        self.bad_token_ids: frozenset[int] = frozenset(described.get("bad_token_ids", ()))
        """Ids that must never be generated."""
        self.special_ids: frozenset[int] = frozenset(index for index, token in added.items() if token["special"])
        """Ids that :meth:`decode` and :class:`TextStream` leave out."""
        self.listed_special_ids: frozenset[int] = frozenset(vocabulary[text] for text in _listed_special(described))
        """Ids that the official tokenizer calls ``all_special_ids``: fewer, since only those that its configuration
        lists by name."""
        self._added = {index: token["content"].encode() for index, token in added.items()}

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, in which special tokens may be spelt out. Nothing is added at either end."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return str(self._bpe.decode(list(ids), skip_special_tokens=skip_special))

    def stream(self) -> TextStream:
        """Begin a text that comes id by id."""
        return TextStream(self)

    def bytes_of(self, token: int) -> bytes:
        """Return what ``token`` contributes to the UTF-8 text: nothing for a special or unknown id."""
        if token in self.special_ids:
            return b""
        if token in self._added:
            return self._added[token]
        spelt = self._bpe.id_to_token(token)
        return b"" if spelt is None else bytes(_BYTE_OF[sign] for sign in spelt)

    def _declare(self, token: dict[str, Any]) -> None:
        options = {key: token[key] for key in ("lstrip", "rstrip", "single_word", "normalized")}
        added = AddedToken(token["content"], special=token["special"], **options)
        if token["special"]:
            self._bpe.add_special_tokens([added])
        else:
            self._bpe.add_tokens([added])


class TextStream:
    """Text that comes id by id: never half a character. Special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Sequence[int]) -> str:
        """Return the characters that ``ids`` complete; what is cut within a character waits for the next call."""
        return self._utf8.decode(b"".join(map(self._tokenizer.bytes_of, ids)))

    def finish(self) -> str:
        """Return what is left (U+FFFD for half a character), and start anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _printable_bytes() -> dict[str, int]:
    """Map the signs of a byte-level vocabulary to the bytes they stand for.

    Bytes that are printable in Latin-1 stand for themselves, the others for code points from 256 on (GPT-2's table).
    """
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in themselves]
    return {chr(byte): byte for byte in themselves} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _printable_bytes()


def _byte_level_bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _listed_special(described: dict[str, Any]) -> set[str]:
    named = [described.get(f"{role}_token") for role in ("bos", "eos", "unk", "pad")]
    listed = [*named, *described.get("additional_special_tokens", ())]
    texts = [token.get("content") if isinstance(token, dict) else token for token in listed]
    return {text for text in texts if text}


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ModelLoadError(f"{path} holds a line that is no pair: {' '.join(wrong[0])!r}")
    return [(left, right) for left, right in pairs]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path} holds no JSON object")
    return found
