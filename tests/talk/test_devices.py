"""Microphone and loudspeaker, with a sound card that the test turns by hand."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

from duplex_server.client import Player
from duplex_server.errors import ConfigError
from duplex_server.talk.devices import EchoCanceller, open_devices
from duplex_server.types import Pcm


class PortAudioError(Exception):
    pass


class Card(types.ModuleType):
    """Stands where sounddevice does: has a duplex stream, and perhaps only one rate."""

    def __init__(self, rates_hz: tuple[int, ...] = (24_000, 48_000)) -> None:
        super().__init__("sounddevice")
        self.rates_hz = rates_hz
        self.streams: list[dict[str, Any]] = []
        self.closed = 0
        self.PortAudioError = PortAudioError

    def check_input_settings(self, *, samplerate: int, **_: object) -> None:
        if samplerate not in self.rates_hz:
            raise PortAudioError(f"invalid sample rate {samplerate}")

    check_output_settings = check_input_settings

    def Stream(self, **settings: Any) -> Card:  # noqa: N802 - sounddevice's name
        self.check_input_settings(samplerate=settings["samplerate"])
        self.streams.append(settings)
        return self

    def __enter__(self) -> Card:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def turn(self, recorded: Pcm) -> Pcm:
        """Do what PortAudio's thread does once per block."""
        playing = np.full((len(recorded), 1), np.nan, np.float32)
        self.streams[-1]["callback"](recorded[:, None], playing, len(recorded), None, None)
        return playing[:, 0]


@pytest.fixture
def no_canceller(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "livekit" else find(name))


@pytest.mark.usefixtures("no_canceller")
@pytest.mark.parametrize("rate_hz", [24_000, 48_000])
def test_the_card_plays_the_player_and_hands_over_what_it_records(
    monkeypatch: pytest.MonkeyPatch, rate_hz: int
) -> None:
    card = Card((rate_hz,))
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    player = Player()
    player.put(np.full(24_000, 0.5, np.float32))
    heard: list[tuple[Pcm, int, Pcm]] = []

    async def main() -> Pcm:
        with open_devices(player, lambda *sound: heard.append(sound)) as cancelling:
            assert not cancelling
            block = card.streams[0]["blocksize"]
            assert block == rate_hz // 50
            played = [card.turn(np.full(block, 0.1, np.float32)) for _ in range(5)]
            await asyncio.sleep(0)
        return np.concatenate(played)

    played = asyncio.run(main())
    assert not np.isnan(played).any()
    assert played[rate_hz // 100 :] == pytest.approx(0.5, abs=0.01)
    assert [(len(microphone), rate, len(reference)) for microphone, rate, reference in heard] == [
        (rate_hz // 50, rate_hz, 480)
    ] * 5
    assert heard[0][0] == pytest.approx(0.1)
    assert player.queued_ms == 900
    assert card.closed == 1


@pytest.mark.usefixtures("no_canceller")
def test_a_machine_without_devices_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Card(()))

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"invalid sample rate 48000.*--input"), open_devices(Player(), print):
            pass

    asyncio.run(main())


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"duplex-server\[audio\]"), open_devices(Player(), print):
        pass


@pytest.mark.skipif(importlib.util.find_spec("livekit") is None, reason="the extra 'aec' is not installed")
def test_echo_is_cancelled() -> None:
    canceller = EchoCanceller()
    dice = np.random.default_rng(1)
    played = (0.2 * dice.standard_normal(16_000 * 8)).astype(np.float32)
    echo = np.concatenate([np.zeros(800, np.float32), 0.5 * played[:-800]])
    cleaned = np.concatenate(
        [canceller.clean(echo[start : start + 320], played[start : start + 320]) for start in range(0, len(echo), 320)]
    )
    assert len(cleaned) == len(echo)
    loss_db = 10 * np.log10(np.mean(echo[-16_000:] ** 2) / np.mean(cleaned[-16_000:] ** 2))
    assert loss_db > 20
