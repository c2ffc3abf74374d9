"""The voices that conversations may have: the checkpoint's recordings, one of the operator's, and what clients send.

Knows nothing about conversations; equal recordings are looked at once.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from duplex_server.errors import MediaError, ModelLoadError
from duplex_server.media.resample import resample
from duplex_server.models.minicpmo.assets import find_token2wav, reference_voices
from duplex_server.models.minicpmo.voice_prompt import MOST_S, VoicePrompt, VoicePrompts
from duplex_server.types import INPUT_RATE_HZ, Pcm, SessionSetup

__all__ = ["Voice", "Voices", "same_recording"]

log = logging.getLogger(__name__)

_USUAL = "system_ref_audio"
"""The published checkpoint's recording of its usual voice."""
_NO_VOICE = "default"
_KEPT = 64
"""Voices of clients that are kept, some 300 KB each at the published sizes."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as the language model and the speech models know it."""

    reference: Tensor
    """Embeddings of the recording, ``[n, hidden]``."""
    prompt: VoicePrompt | None
    """None where nothing speaks."""


class Voices:
    """Voices by name, and of recordings.

    A recording ``NAME.wav`` below ``assets`` may have a file ``NAME.npz`` beside it, written by
    :meth:`VoicePrompt.save`: then the networks that look at recordings are not needed for it.

    Args:
        folder: the checkpoint.
        embed: makes embeddings ``[n, hidden]`` of 16 kHz sound.
        file: another recording, which becomes the first voice.
        speaks: whether there are speech models.
    """

    def __init__(
        self, folder: Path, embed: Callable[[Pcm], Tensor], *, file: Path | None = None, speaks: bool = True
    ) -> None:
        self._embed = embed
        self._prompts = VoicePrompts(find_token2wav(folder)) if speaks else None
        self._files = {path.stem: path for path in reference_voices(folder)}
        if file is not None:
            self._files = {file.stem: file, **self._files}
        elif _USUAL in self._files:
            self._files = {_USUAL: self._files[_USUAL], **self._files}
        self._known: OrderedDict[str, Voice] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names, the usual voice first; at least one."""
        return tuple(self._files) or (_NO_VOICE,)

    @property
    def clones(self) -> bool:
        """Whether recordings that come later can be looked at."""
        return self._prompts is not None and self._prompts.available

    def check(self) -> None:
        """Look at the first voice now, so that the first conversation need not wait.

        Raises:
            ModelLoadError: it cannot be used.
        """
        if not self._files:
            log.warning(
                "the checkpoint brings no recording of a voice, and none was given: it answers in text, and speaks "
                "only with voices that clients send"
            )
            return
        try:
            self.of(SessionSetup(voice=self.names[0]))
        except MediaError as error:
            raise ModelLoadError(f"{self._files[self.names[0]]} cannot be the voice: {error}") from error

    def of(self, setup: SessionSetup) -> Voice | None:
        """Return what a session asked for: its own recording, or a voice by name; None where there is none.

        Raises:
            MediaError: the recording is too short, silent or broken.
            ModelLoadError: the networks that look at recordings are missing.
        """
        if (pcm := setup.voice_reference) is not None:
            return self._kept(hashlib.sha256(pcm.tobytes()).hexdigest(), lambda: self._look_at(pcm, INPUT_RATE_HZ))
        if not self._files:
            return None
        path = self._files.get(setup.voice) or next(iter(self._files.values()))
        return self._kept(str(path), lambda: self._read(path))

    def _kept(self, key: str, make: Callable[[], Voice]) -> Voice:
        if key not in self._known:
            self._known[key] = make()
            if len(self._known) > _KEPT + len(self._files):
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _read(self, path: Path) -> Voice:
        try:
            sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            raise ModelLoadError(f"{path} cannot be read: {error}") from error
        features = path.with_suffix(".npz")
        prompt = VoicePrompt.load(features) if features.is_file() and self._prompts else None
        return self._look_at(sound.mean(axis=1), rate_hz, prompt)

    def _look_at(self, pcm: Pcm, rate_hz: int, prompt: VoicePrompt | None = None) -> Voice:
        pcm = np.ascontiguousarray(pcm[: round(MOST_S * rate_hz)], np.float32)
        if prompt is None and self._prompts is not None:
            prompt = self._prompts.of(pcm, rate_hz)
        return Voice(self._embed(resample(pcm, rate_hz, INPUT_RATE_HZ)), prompt)


def same_recording(one: Pcm | None, other: Pcm | None) -> bool:
    """Whether both are the same recording, or both none."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
