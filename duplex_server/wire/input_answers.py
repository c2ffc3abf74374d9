"""Answers to what clients put into the input buffers: sound, pictures, commits.

Knows nothing about who speaks when.
"""

from __future__ import annotations

from collections.abc import Sequence

from duplex_server.errors import InvalidEvent
from duplex_server.wire.audio_format import AudioFormat, AudioIntake
from duplex_server.wire.client_events import InputAudioBufferAppend, InputImageBufferAppend
from duplex_server.wire.client_items import decode_picture
from duplex_server.wire.ids import Ids
from duplex_server.wire.reply import Reply
from duplex_server.wire.requests import AppendAudio, AppendImage, BargeIn, ClearInput, CommitInput, Request
from duplex_server.wire.server_events import InputAudioBufferCleared
from duplex_server.wire.user_turns import UserTurns

__all__ = ["InputAnswers"]

MIN_COMMIT_MS = 100
"""Audio that a commit needs. Source: OpenAI Realtime API reference, ``input_audio_buffer.commit``."""


class InputAnswers:
    """The input buffers as a client fills them. Methods that take an event raise ClientError for what is wrong."""

    def __init__(self, ids: Ids, user: UserTurns, audio_format: AudioFormat, *, image_max_bytes: int) -> None:
        self._ids = ids
        self._user = user
        self._image_max_bytes = image_max_bytes
        self._intake = AudioIntake(audio_format)
        self._uncommitted_samples = 0

    def reformat(self, audio_format: AudioFormat) -> None:
        """Take audio in this format from now on; nothing changes if it is the same."""
        if audio_format != self._intake.format:
            self._intake = AudioIntake(audio_format)
            self._uncommitted_samples = 0

    def committed(self) -> None:
        """Count from zero: what was appended became an item."""
        self._uncommitted_samples = 0

    def append(self, event: InputAudioBufferAppend) -> Reply:
        """Take audio, and the pictures that came with it."""
        frames = self._pictures(event.video_frames) if event.video_frames else []
        requests: list[Request] = []
        if event.force_listen:
            requests.append(BargeIn())
        pcm = self._intake.decode(event.audio)
        if len(pcm):
            self._uncommitted_samples += len(pcm)
            requests.append(AppendAudio(pcm, self._intake.format.rate_hz))
        for frame in frames:
            requests.append(AppendImage(frame, None, event.event_id))
        return Reply((), requests)

    def _pictures(self, encoded: Sequence[str]) -> list[bytes]:
        return [
            decode_picture(frame, param=f"video_frames[{index}]", max_bytes=self._image_max_bytes)
            for index, frame in enumerate(encoded)
        ]

    def append_picture(self, event: InputImageBufferAppend) -> Reply:
        """Take a picture."""
        picture = decode_picture(event.image, param="image", max_bytes=self._image_max_bytes)
        return Reply(requests=[AppendImage(picture, event.capture_ms, event.event_id)])

    def commit(self, *, media_track: bool) -> Reply:
        """Make an item of what was appended; on a media track, of whatever came."""
        length_ms = self._uncommitted_samples * 1000 // self._intake.format.rate_hz
        if length_ms < MIN_COMMIT_MS and not media_track:
            raise InvalidEvent(
                f"There is too little audio to commit: {length_ms} ms since the last commit, {MIN_COMMIT_MS} ms are "
                "needed.",
                code="input_audio_buffer_commit_empty",
            )
        self._uncommitted_samples = 0
        return Reply([*self._user.stop_and_commit(length_ms)], [CommitInput()])

    def clear(self) -> Reply:
        """Drop what the model has not been given."""
        self._intake.reset()
        self._uncommitted_samples = 0
        return Reply([InputAudioBufferCleared(event_id=self._ids.event())], [ClearInput()])
