"""``duplex-server run``: full duplex over a recorded clip, as if it were live."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplex_server.commands.replay import Reply, UnitReply
    from duplex_server.types import Pcm

__all__ = ["EXIT_ENDED_EARLY", "describe", "run"]

EXIT_ENDED_EARLY = 1
EXTRA_UNITS = 3
"""Silent seconds after the clip, in which the model may finish."""
SLICES = 9
"""Of an HD picture. Source: the official ``max_slice_nums``."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Hold a full-duplex conversation with a recorded clip as if it were live: a second of sound and pictures in, "
        "listening or a second of speech out. Writes reply.wav, mix.wav (the clip on the left, the reply on the "
        "right), transcript.jsonl with every second's decision and timings, and, where there are pictures, reply.mp4 "
        "with captions."
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    add("clip", type=Path, metavar="CLIP", help="video or sound file")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    add("--ref-audio", type=Path, metavar="WAV", help="recording of the voice to speak with; else the checkpoint's")
    add("--instructions", default="", metavar="TEXT", help="what the model is told first")
    add("--fast", action="store_true", help="do not wait for real time")
    add("--fps", type=int, default=1, metavar="N", help="pictures a second; default %(default)s, 0: none")
    add("--hd", action="store_true", help=f"cut pictures into up to {SLICES} slices")
    add("--device", default="", help="as torch spells it; the GPUs found, or else the processor")
    add("--flow-steps", type=int, default=5, metavar="N", help="of the speech synthesis; default %(default)s")
    add("--greedy", action="store_true", help="always the likeliest token and code")
    add("--seed", type=int, metavar="N", help="of what is drawn; another for each run if left out")


def run(asked: argparse.Namespace) -> int:
    """Hold the conversation, write the files, and return the exit status."""
    from duplex_server.commands.clip import pictures, sound
    from duplex_server.commands.replay import Reply, replay, units_of
    from duplex_server.commands.stages import Stages, load_model
    from duplex_server.types import SessionSetup

    pcm = sound(asked.clip)
    asked.out.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    model = load_model(asked, stages, frames_per_unit=asked.fps, picture_slices=SLICES if asked.hd else 1)
    fps = min(asked.fps, model.spec.max_frames)
    frames = pictures(asked.clip, every_s=1 / max(fps, 1), max_px=model.spec.frame_max_px) if fps else iter(())
    units = units_of(pcm, frames, model.spec.unit_ms, fps, EXTRA_UNITS)
    told: list[UnitReply] = []
    with (asked.out / "transcript.jsonl").open("w", encoding="utf-8") as transcript:

        def tell(said: UnitReply) -> None:
            told.append(said)
            transcript.write(json.dumps(asdict(said), ensure_ascii=False) + "\n")
            shown = f"{said.text!r}{' ■' if said.end_of_turn else ''}" if said.decision == "speak" else "…"
            print(f"{said.unit:5} s  {1000 * said.latency_s:7.0f} ms  {shown}", flush=True)

        setup = SessionSetup(instructions=asked.instructions, voice=model.spec.voices[0])
        reply = Reply()
        try:
            asyncio.run(replay(model, setup, units, stages.take, reply, live=not asked.fast, tell=tell))
        except KeyboardInterrupt:
            print("Stopped. What was said so far is written.", file=sys.stderr)
    _write(asked, pcm, reply, told)
    if reply.failure is not None:
        print(f"duplex-server: the conversation ended early: {reply.failure}", file=sys.stderr)
        return EXIT_ENDED_EARLY
    return 0


def _write(asked: argparse.Namespace, pcm: Pcm, reply: Reply, told: list[UnitReply]) -> None:
    import numpy as np

    from duplex_server.commands.clip import Caption, write_sound, write_video
    from duplex_server.media.resample import resample
    from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ

    heard = resample(pcm, INPUT_RATE_HZ, OUTPUT_RATE_HZ)
    said = reply.timeline(len(heard))
    both = np.zeros((len(said), 2), np.float32)
    both[: len(heard), 0] = heard
    both[:, 1] = said
    captions = [
        Caption(unit.begin_s, unit.begin_s + unit.sound_s, unit.text.strip())
        for unit in told
        if unit.begin_s is not None and unit.text.strip()
    ]
    write_sound(asked.out / "reply.wav", said)
    write_sound(asked.out / "mix.wav", both)
    written = ["reply.wav", "mix.wav", "transcript.jsonl"]
    if write_video(asked.clip, asked.out / "reply.mp4", both, captions):
        written.append("reply.mp4")
    print(f"{asked.out}: {', '.join(written)}")
    if not reply.sounds and any(unit.text for unit in told):
        print("What it said is text only: it had no voice. Give one with --ref-audio.", file=sys.stderr)
