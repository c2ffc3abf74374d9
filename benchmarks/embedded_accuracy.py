"""How well, how fast and at what cost the embedded model understands, without a server around it.

Speech goes straight into the model, unit by unit, with the probabilities of the session's own voice detector; time is
media time, so the machine's speed does not show but in the CPU figures. Run:

    python -m benchmarks.embedded_accuracy
    python -m benchmarks.embedded_accuracy --quick
    python -m benchmarks.embedded_accuracy --recordings FOLDER

The folder holds a folder for each speaker, with 16-bit WAV files named like what is said ("tell me a story.wav"); what
the grammar does not know counts as something to be rejected. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile

from benchmarks import noise
from benchmarks.report import Progress, print_checks, print_table, save
from benchmarks.results import Figures, Target
from benchmarks.speech import BACKCHANNELS, RATE_HZ, VOICES, Mouth, at_level, trimmed
from duplex_server.media.resample import resample
from duplex_server.media.vad import SileroDetector
from duplex_server.models.base import RowUnit
from duplex_server.models.embedded.grammar import Intent, examples, parse, parse_typed
from duplex_server.models.embedded.model import EmbeddedModel, build
from duplex_server.types import INPUT_RATE_HZ, ModelOutput, Pcm, SessionSetup, Unit

TARGETS = (
    Target("understood", "share", ">=", 0.92),
    Target("response_ms", "p50", "<=", 300),
    Target("obeyed_by_mistake", "share", "<=", 0.05),
    Target("story_broken_by_backchannel", "share", "<=", 0.0),
    Target("story_broken_by_noise", "share", "<=", 0.0),
    Target("idle_cpu_ms", "max", "<=", 12.0),
)

COMMANDS = (
    *(example.lower().replace(":", "").rstrip(".?!") for example in examples()),
    "good morning",
    "tell me the time",
    "what day is it today",
    "count from one to twenty five",
    "spell computer",
    "repeat after me yellow flower",
    "what is forty two plus thirteen",
    "could you tell me a story about the moon",
    "look at this",
    "how many faces can you see",
    "keep watching",
    "my name is robert",
    "please speak english",
    "slow down",
    "stop talking",
    "be quiet",
    "that's enough",
    "wait a minute",
    "hold on",
    "go on",
    "help me",
    "thanks a lot",
    "see you later",
)
OTHERS = (
    "the weather will be sunny tomorrow in the north of the country",
    "my sister bought a new car last month",
    "do you think that it is too late for dinner",
    "I forgot my keys on the kitchen table",
    "where is the nearest bus stop",
    "could you send this letter to my office",
    "who wrote the book about the two towers",
    "these trousers are too long for him",
    "let's paint the fence next weekend",
    "remind me to water the plants",
    "how old is your brother",
    "turn off the heating",
    "what's on television tonight",
    "are we there yet",
    "I told you that before",
    "not before Friday",
    "that was a good film",
    "it stopped snowing an hour ago",
    "she waited for him at the station",
    "what a beautiful picture",
    "come in",
    "nobody knows",
    "how much is it",
    "I can hear you now",
)
STOPS = ("stop", "stop talking", "be quiet", "that's enough", "wait", "hold on")

_ROOM_DB = -60.0
_NOISY_DB = -43.0
"""Noise of 20 dB under the voice, beside the quiet room."""
_BEFORE_S, _AFTER_S = 0.6, 1.0


@dataclass(slots=True)
class Heard:
    """What came of one clip."""

    text: str
    final_s: float | None
    """When the model had understood, from the end of the clip; None if it never spoke up."""
    yielded_s: float | None
    """When it gave its turn up, from the start of the clip."""
    outputs: list[ModelOutput]


class Conversation:
    """One row of a model, with a detector of its own."""

    def __init__(self, model: EmbeddedModel, row: int = 0, detector: SileroDetector | None = None) -> None:
        self._model, self._row = model, row
        self._detector = detector or SileroDetector()
        self._n_units = 0
        self._turn = 0
        self.model_cpu_s = 0.0
        model.open(row, SessionSetup())

    def close(self) -> None:
        self._model.close(self._row)

    def give(self, track: Pcm, texts: tuple[str, ...] = ()) -> Iterator[tuple[float, ModelOutput]]:
        """Give float32 at 16 kHz; yields outputs with the time, s from the track's start."""
        n_samples = self._model.spec.unit_samples
        for start in range(0, len(track) - n_samples + 1, n_samples):
            audio = track[start : start + n_samples]
            probability = max((window.probability for window in self._detector.push(audio)), default=0.0)
            unit = Unit(self._n_units, audio, probability, texts=texts)
            self._n_units += 1
            texts = ()
            began_s = time.process_time()
            outputs = [row_output.output for row_output in self._model.step([RowUnit(self._row, unit)])]
            self.model_cpu_s += time.process_time() - began_s
            for output in outputs:
                self._turn = max(self._turn, output.turn)
                yield (start + n_samples) / INPUT_RATE_HZ, output

    def hear(self, clip: Pcm, room_db: float, seed: int) -> Heard:
        """Say a clip into a room, float32 at 24 kHz, and wait; an answer is cut off behind it."""
        speech = resample(clip, RATE_HZ, INPUT_RATE_HZ)
        track = room(_BEFORE_S + len(speech) / INPUT_RATE_HZ + _AFTER_S, room_db, seed)
        start = round(_BEFORE_S * INPUT_RATE_HZ)
        track[start : start + len(speech)] += speech
        end_s = (start + len(speech)) / INPUT_RATE_HZ
        heard = Heard("", None, None, [])
        for at_s, output in self.give(track):
            heard.outputs.append(output)
            if output.heard is not None and output.heard.final:
                heard.text = f"{heard.text} {output.heard.text}".strip()
                heard.final_s = at_s - end_s
            if output.yields:
                heard.yielded_s = at_s - _BEFORE_S
        return heard

    def silence(self) -> None:
        """Cut off whatever is being said, and have a pause."""
        self._model.cancel(self._row, self._turn, 0)
        for _ in self.give(room(0.4, _ROOM_DB, 1)):
            pass

    def tell_story(self) -> None:
        for _ in self.give(room(1.5, _ROOM_DB, 2), ("tell me a story",)):
            pass


def room(duration_s: float, level_db: float, seed: int) -> Pcm:
    """Return noise as in a room, float32 at 16 kHz."""
    return resample(noise.pink(duration_s, level_db, seed), RATE_HZ, INPUT_RATE_HZ)


def measure_speaker(
    model: EmbeddedModel, figures: Figures, speaker: str, clips: Sequence[tuple[str, Pcm]], log: list[str]
) -> None:
    """Say sentences in one conversation; commands are to be understood, all others rejected."""
    conversation = Conversation(model)
    for number, (sentence, clip) in enumerate(clips):
        room_db = _NOISY_DB if number % 3 == 2 else _ROOM_DB
        heard = conversation.hear(clip, room_db, number)
        origin = f"{speaker}: {sentence!r} → {heard.text!r}"
        meant = parse_typed(sentence)
        found = parse(heard.text).command
        if meant is None:
            obeyed = found is not None and found.intent is not Intent.BACKCHANNEL
            figures.add("obeyed_by_mistake", obeyed, origin)
            log += [f"obeyed    {origin}"] if obeyed else []
        else:
            figures.add("understood", found == meant, origin)
            figures.add(f"understood {speaker}", found == meant, origin)
            figures.add("misunderstood", found is not None and found != meant, origin)
            log += [f"missed    {origin}"] if found != meant else []
            if found == meant and heard.final_s is not None:
                figures.add("response_ms", 1000 * heard.final_s, origin)
        conversation.silence()
    conversation.close()


def measure_overlap(model: EmbeddedModel, figures: Figures, mouth: Mouth, speakers: Sequence[str]) -> None:
    """Say things over a story."""
    disturbances = [(f"cough {seed}", noise.cough(-25.0, seed)) for seed in range(6)]
    disturbances += [(f"keyboard {seed}", noise.keyboard(2.0, -20.0, seed)) for seed in range(3)]
    disturbances += [
        ("white", noise.white(2.0, -35.0)),
        ("pink", noise.pink(2.0, -30.0)),
        ("hum", noise.hum(2.0, -30.0)),
    ]
    for name, clip in disturbances:
        heard = _over_story(model, clip)
        figures.add("story_broken_by_noise", heard.yielded_s is not None, f"{name} → {heard.text!r}")
    for speaker in speakers:
        for word, words_per_minute in BACKCHANNELS:
            heard = _over_story(model, mouth.say(word, speaker, words_per_minute=words_per_minute))
            broken = heard.yielded_s is not None
            figures.add("story_broken_by_backchannel", broken, f"{speaker}: {word} → {heard.text!r}")
        for word in STOPS:
            heard = _over_story(model, mouth.say(word, speaker))
            figures.add("stop_obeyed", heard.yielded_s is not None, f"{speaker}: {word} → {heard.text!r}")
            if heard.yielded_s is not None:
                figures.add("stop_ms_from_onset", 1000 * heard.yielded_s, f"{speaker}: {word}")


def _over_story(model: EmbeddedModel, clip: Pcm) -> Heard:
    conversation = Conversation(model)
    conversation.tell_story()
    heard = conversation.hear(clip, _ROOM_DB, 3)
    conversation.close()
    return heard


def measure_cost(model: EmbeddedModel, figures: Figures, mouth: Mouth, rows: int) -> None:
    """Add up CPU and memory of conversations: silent ones, and ones that are all spoken to at once."""
    process = psutil.Process()
    detectors = [SileroDetector() for _ in range(rows)]  # a server's are in another process
    before = process.memory_info().rss
    conversations = [Conversation(model, row, detector) for row, detector in enumerate(detectors)]
    quiet, spoken = room(10.0, _ROOM_DB, 4), np.tile(mouth.say("my brother bought a new bicycle last week"), 2)
    for conversation in conversations:
        for _ in conversation.give(quiet):
            pass
    quiet_s = rows * len(quiet) / INPUT_RATE_HZ
    figures.add("idle_memory_mb", (process.memory_info().rss - before) / rows / 1e6, f"of each of {rows}, silent")
    figures.add("idle_cpu_ms", 1000 * sum(c.model_cpu_s for c in conversations) / quiet_s, "without voice detection")
    speech = resample(spoken, RATE_HZ, INPUT_RATE_HZ)
    idle_cpu_s = sum(c.model_cpu_s for c in conversations)
    together = [conversation.give(speech) for conversation in conversations]
    for _ in zip(*together, strict=False):
        pass
    active_s = rows * len(speech) / INPUT_RATE_HZ
    used_s = sum(c.model_cpu_s for c in conversations) - idle_cpu_s
    figures.add("listening_cpu_ms", 1000 * used_s / active_s, "while the user speaks")
    figures.add(
        "listening_memory_mb", (process.memory_info().rss - before) / rows / 1e6, f"of each of {rows}, all spoken to"
    )
    for conversation in conversations:
        conversation.close()


def recordings(folder: Path) -> Iterator[tuple[str, list[tuple[str, Pcm]]]]:
    """Read what people recorded: a speaker's name, and sentences with clips at 24 kHz."""
    for speaker in sorted(path for path in folder.iterdir() if path.is_dir()):
        clips = []
        for path in sorted(speaker.glob("*.wav")):
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            pcm = resample(np.ascontiguousarray(samples.mean(axis=1)), rate_hz, RATE_HZ)
            clips.append((path.stem, trimmed(at_level(pcm, -23.0))))
        yield speaker.name, clips


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedded_accuracy", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one voice instead of five")
    parser.add_argument("--recordings", type=Path, metavar="FOLDER", help="speakers to measure instead of made-up ones")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    figures, log = Figures(), list[str]()
    model = build(8, count_faces=False)
    voices = VOICES[:1] if asked.quick else VOICES
    with Mouth() as mouth:
        if asked.recordings is not None:
            speakers = list(recordings(asked.recordings))
        else:
            speakers = [(v, [(s, mouth.say(s, v, words_per_minute=165)) for s in (*COMMANDS, *OTHERS)]) for v in voices]
        progress = Progress(len(speakers) + 2)
        for speaker, clips in speakers:
            measure_speaker(model, figures, speaker, clips, log)
            progress.step(speaker)
        measure_overlap(model, figures, mouth, voices)
        progress.step("over a story")
        measure_cost(model, figures, mouth, 8)
        progress.step("cost")
    model.shut_down()
    return _report(figures, log, asked.out)


def _report(figures: Figures, log: Sequence[str], out: Path) -> int:
    print("\n".join(log), end="\n\n")
    rows: list[tuple[object, ...]] = []
    for name, values in sorted(figures.values.items()):
        if set(values) <= {0.0, 1.0}:
            rows.append((name, len(values), f"{100 * sum(values) / len(values):.1f} %", "", ""))
        else:
            percentiles = (figures.statistic(name, statistic) or 0.0 for statistic in ("p50", "p95", "max"))
            rows.append((name, len(values), *(f"{value:.1f}" for value in percentiles)))
    print_table(("figure", "n", "share or p50", "p95", "max"), rows)
    print()
    checks = figures.check(TARGETS)
    met = print_checks(checks)
    save(out / "embedded_accuracy.json", {"figures": figures.to_json(), "mistakes": list(log)}, checks)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
