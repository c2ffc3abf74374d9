"""The special tokens of MiniCPM-o 4.5 by name. Knows nothing about text; the tokenizer checks the ids."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["SPECIAL", "SPELLING", "SpecialTokens"]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that give a conversation its structure (specification §1.4)."""

    endoftext: int = 151643
    im_start: int = 151644
    im_end: int = 151645
    think: int = 151667
    think_end: int = 151668
    image: int = 151669
    image_end: int = 151670
    slice: int = 151679
    slice_end: int = 151680
    image_id: int = 151681
    image_id_end: int = 151682
    unit: int = 151683
    unit_end: int = 151684
    audio_start: int = 151697
    audio: int = 151698
    audio_end: int = 151699
    spk_bos: int = 151700
    spk: int = 151701
    spk_eos: int = 151702
    tts_bos: int = 151703
    tts_eos: int = 151704
    listen: int = 151705
    speak: int = 151706
    interrupt: int = 151707
    vad_start: int = 151708
    vad_end: int = 151709
    turn_bos: int = 151716
    turn_eos: int = 151717
    chunk_eos: int = 151718
    chunk_bos: int = 151719
    chunk_tts_bos: int = 151720
    chunk_tts_eos: int = 151721
    tts_pad: int = 151722
    unk: int = 128244
    """An ordinary entry of the vocabulary, used as the place of an embedding that is not a token's."""


SPECIAL = SpecialTokens()

_OTHERWISE_SPELT = {
    "think": "<think>",
    "image": "<image>",
    "slice": "<slice>",
    "image_id": "<image_id>",
    "unit": "<unit>",
    "unk": "<unk>",
}


def _spelling(name: str) -> str:
    opening = name.removesuffix("_end")
    if name.endswith("_end") and opening in _OTHERWISE_SPELT:
        return f"</{opening}>"
    return _OTHERWISE_SPELT.get(name, f"<|{name}|>")


SPELLING: dict[str, str] = {name: _spelling(name) for name in asdict(SPECIAL)}
"""How the vocabulary spells each field of :class:`SpecialTokens`."""
