"""The embedded model: many conversations in one worker, sharing its decoders and its voice.

Knows nothing about sessions or transports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from duplex_server.models.base import RowOutput, RowUnit
from duplex_server.models.embedded import grammar
from duplex_server.models.embedded.conversation import Conversation
from duplex_server.models.embedded.listening import UNIT_MS
from duplex_server.models.embedded.recognizer import Recognizer
from duplex_server.models.embedded.sight import Sight
from duplex_server.models.embedded.voice import LANGUAGES, Voice
from duplex_server.types import ModelSpec, SessionSetup

__all__ = ["EmbeddedModel", "build"]


def _local_time() -> datetime:
    return datetime.now().astimezone()


class EmbeddedModel:
    """A small model that runs on a CPU: it understands some dozens of commands and speaks by espeak-ng.

    Rows are independent; they share decoders, which are lent for an utterance, and the voice, which speaks a sentence
    in a few milliseconds.

    Raises:
        ModelLoadError: a wheel is missing or does not work on this machine.
    """

    def __init__(self, rows: int, *, count_faces: bool = True, now: Callable[[], datetime] = _local_time) -> None:
        """Load what rows share.

        Args:
            rows: how many conversations it holds.
            count_faces: whether to, where OpenCV is installed.
            now: the local time that users are told.
        """
        self.spec = ModelSpec(
            name="embedded",
            unit_ms=UNIT_MS,
            max_frames=1,
            transcribes=True,
            uses_speech_probability=True,
            languages=LANGUAGES,
            examples=grammar.examples(),
        )
        self._now = now
        self._count_faces = count_faces
        self._recognizer = Recognizer(warm=rows)
        self._voice = Voice()
        self._rows: list[Conversation | None] = [None] * rows

    def open(self, row: int, setup: SessionSetup) -> None:
        """Start a conversation in a free row."""
        assert self._rows[row] is None, f"row {row} is taken"
        self._rows[row] = Conversation(
            self._recognizer, self._voice, setup, Sight(count_faces=self._count_faces), now=self._now
        )

    def configure(self, row: int, setup: SessionSetup) -> None:
        """Change a conversation's language or speed, from its next unit and its next sentence on."""
        self._conversation(row).configure(setup)

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        """Live through one unit of each row, one row after the other."""
        for row_unit in batch:
            for output in self._conversation(row_unit.row).live(row_unit.unit):
                yield RowOutput(row_unit.row, output)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        """Stop a turn; thread-safe, seen before the next piece of 100 ms. Nothing happens to a row that is closed."""
        conversation = self._rows[row]
        if conversation is not None:
            conversation.cancel(turn, played_samples)

    def close(self, row: int) -> None:
        """End a conversation."""
        self._conversation(row).close()
        self._rows[row] = None

    def shut_down(self) -> None:
        """End the voice's process. It ends with this process in any case."""
        self._voice.close()

    def _conversation(self, row: int) -> Conversation:
        conversation = self._rows[row]
        assert conversation is not None, f"row {row} is not open"
        return conversation


def build(rows: int, *, count_faces: bool = True) -> EmbeddedModel:
    """Build the model, as engines do."""
    return EmbeddedModel(rows, count_faces=count_faces)
