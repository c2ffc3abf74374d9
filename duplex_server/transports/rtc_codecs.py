"""The codecs of sound on a media track, by their names in SDP. Knows nothing about packets or descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from duplex_server.media.opus import OpusDecoder, OpusEncoder
from duplex_server.transports.rtc_g711 import PCMA, PCMU, G711Decoder, G711Encoder
from duplex_server.types import Pcm

__all__ = ["DECODERS", "ENCODERS", "Decoder", "Encoder"]


class Decoder(Protocol):
    """Decodes one stream of one codec to mono."""

    clock_hz: int
    """Of the RTP timestamps."""

    def decode(self, packet: bytes) -> Pcm:
        """Decode the next payload; raises :class:`~duplex_server.media.opus.CorruptPacket`."""
        ...

    def recover(self, n_samples: int, following: bytes) -> Pcm:
        """Guess ``n_samples``, a multiple of 2.5 ms, that came before the payload ``following``."""
        ...


class Encoder(Protocol):
    """Makes payloads of one codec."""

    clock_hz: int
    """Of the RTP timestamps."""

    def encode(self, pcm: Pcm) -> bytes:
        """Encode one tick: float32 ``[480]``, 24 kHz."""
        ...


DECODERS: Mapping[str, Callable[[int], Decoder]] = {
    "opus": OpusDecoder,
    "pcmu": partial(G711Decoder, PCMU),
    "pcma": partial(G711Decoder, PCMA),
}
"""Each makes a decoder that hands out sound at a rate, Hz."""

ENCODERS: Mapping[str, Callable[[], Encoder]] = {
    "opus": OpusEncoder,
    "pcmu": partial(G711Encoder, PCMU),
    "pcma": partial(G711Encoder, PCMA),
}
