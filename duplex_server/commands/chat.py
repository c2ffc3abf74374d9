"""``duplex-server chat``: one question about pictures, sound or video, and the answer as it is made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from duplex_server.errors import CapacityError, ClientError, ConfigError

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.messages import Message
    from duplex_server.models.minicpmo.parts import Parts

__all__ = ["describe", "run"]

EXIT_REFUSED = 1
SECOND_SAMPLES = 16_000
USUAL_VOICE = "system_ref_audio"
"""The published checkpoint's recording of its usual voice."""
_NO_MEMORY = (
    "memory ran out. Less of it is needed with fewer --slices, a shorter recording or question, or a lower "
    "--max-tokens; --device cpu answers from the host's memory."
)
DTYPES = ("auto", "bfloat16", "float16", "float32")
LANGUAGES = ("en", "zh")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Ask a MiniCPM-o checkpoint. Only the parts that the question needs are loaded: "
        "a picture needs neither hearing nor speech."
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    # Required: argparse would take one that may be left out as left out when it meets the first flag before it.
    parser.add_argument("question", metavar="TEXT", help='what to ask; "" where a recording asks it')
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="picture to look at; may be repeated"
    )
    parser.add_argument(
        "--audio", type=Path, action="append", default=[], metavar="FILE", help="sound to listen to; may be repeated"
    )
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="video to watch, a picture per second, with its sound if it has any"
    )
    parser.add_argument("--ref-audio", type=Path, metavar="FILE", help="a few seconds of the voice to answer in")
    parser.add_argument("--speak", type=Path, metavar="WAV", help="also say the answer, into this file")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument(
        "--language", choices=LANGUAGES, default="en", help="of the instructions about the voice, default %(default)s"
    )
    parser.add_argument(
        "--slices", type=int, default=9, metavar="N", help="most slices of a picture, default %(default)s"
    )
    parser.add_argument("--think", action="store_true", help="let the model think before it answers")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token instead of drawing")
    parser.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="longest answer, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn, default %(default)s")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ...; a GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="what to compute in, default %(default)s")


def run(asked: argparse.Namespace) -> int:
    """Answer, and return the exit status."""
    voice = _voice_file(asked)
    messages, omni = _messages(asked, voice)
    parts = _load(asked, messages)

    from duplex_server.models.minicpmo.refusals import exhausted_memory_told

    try:
        with exhausted_memory_told():
            _answer(asked, parts, messages, voice, omni=omni)
    except ClientError as error:
        print(f"duplex-server: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except CapacityError:
        print(f"\nduplex-server: {_NO_MEMORY}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _voice_file(asked: argparse.Namespace) -> Path | None:
    """Return the recording of the voice to answer in."""
    if asked.ref_audio or not asked.speak:
        file: Path | None = asked.ref_audio
        return file
    from duplex_server.models.minicpmo.assets import reference_voices

    found = reference_voices(asked.checkpoint)
    if not found:
        raise ConfigError(f"{asked.checkpoint} brings no recording of a voice: give one with --ref-audio.")
    return next((path for path in found if path.stem == USUAL_VOICE), found[0])


def _messages(asked: argparse.Namespace, voice: Path | None) -> tuple[list[Message], bool]:
    """Return the chat, and whether it is in omni mode."""
    from duplex_server.commands.recordings import read_picture, read_sound, read_video
    from duplex_server.models.minicpmo.messages import Content, Message, Picture, Sound
    from duplex_server.models.minicpmo.system_prompts import VoiceMode, voice_system_message

    content: list[Content] = [Picture(read_picture(path), asked.slices) for path in asked.image]
    if asked.video:
        video = read_video(asked.video)
        for second, frame in enumerate(video.frames):
            content.append(Picture(frame, 1))
            if video.sound is not None:
                heard = video.sound[second * SECOND_SAMPLES :][:SECOND_SAMPLES]
                content += [Sound(heard)] if len(heard) else []
    content += [Sound(read_sound(path)) for path in asked.audio]
    content += [asked.question] if asked.question else []
    if not content:
        raise ConfigError("There is nothing to answer: give a question, --image, --audio or --video.")
    messages = [Message("user", tuple(content))]
    if asked.system is not None:
        messages.insert(0, Message("system", (asked.system,)))
    elif voice is not None:
        sees = any(isinstance(item, Picture) for item in content)
        mode = VoiceMode.OMNI if sees else VoiceMode.ASSISTANT
        messages.insert(0, voice_system_message(mode, asked.language, Sound(read_sound(voice))))
    return messages, asked.video is not None


def _load(asked: argparse.Namespace, messages: list[Message]) -> Parts:
    """Load the language model, and what else the chat needs."""
    from duplex_server.models.minicpmo.config import read_config
    from duplex_server.models.minicpmo.messages import Picture, Sound
    from duplex_server.models.minicpmo.parts import DTYPES as TYPES
    from duplex_server.models.minicpmo.parts import best_device, best_dtype, check_device, load_parts
    from duplex_server.models.minicpmo.placement import Placement

    device = asked.device or best_device()
    check_device(device)
    content = [item for message in messages for item in message.content]
    hears = any(isinstance(item, Sound) for item in content)
    placement = Placement.single(device, read_config(asked.checkpoint).llm.num_hidden_layers).only(
        vision=any(isinstance(item, Picture) for item in content),
        audio=hears or asked.speak is not None,
        speech=asked.speak is not None,
    )
    dtype = best_dtype(device) if asked.dtype == "auto" else TYPES[asked.dtype]
    return load_parts(asked.checkpoint, placement, dtype=dtype)


def _answer(
    asked: argparse.Namespace, parts: Parts, messages: list[Message], voice: Path | None, *, omni: bool
) -> None:
    """Print the answer as it comes, and write what is said."""
    import numpy as np

    from duplex_server.commands.clip import write_sound
    from duplex_server.models.minicpmo.chat import AnswerOptions, Chat
    from duplex_server.models.minicpmo.chat_prompt import PromptEncoder
    from duplex_server.models.minicpmo.narration import OUTPUT_HZ, Narrator
    from duplex_server.models.minicpmo.voices import Voices
    from duplex_server.types import SessionSetup

    narrator = None
    if asked.speak:
        assert parts.audio is not None and parts.decoder is not None and parts.token2wav is not None
        voices = Voices(parts.folder, parts.audio.encode, file=voice)
        found = voices.of(SessionSetup(voice=voices.names[0]))
        assert found is not None and found.prompt is not None, "a file was given"
        narrator = Narrator(parts.decoder, parts.token2wav, found.prompt, seed=asked.seed)
    chat = Chat(parts.llm, PromptEncoder(parts.config, parts.tokenizer, parts.vision, parts.audio))
    options = AnswerOptions(greedy=asked.greedy, max_tokens=asked.max_tokens)
    sounds = []
    for said in chat.answer(
        messages, options, seed=asked.seed, omni=omni, speak=narrator is not None, think=asked.think
    ):
        print(said.text, end="", flush=True)
        if narrator:
            sounds.append(narrator.feed(said))
    print()
    if narrator:
        sounds.append(narrator.finish())
        whole = np.concatenate(sounds)
        write_sound(asked.speak, whole)
        print(f"{asked.speak}: {len(whole) / OUTPUT_HZ:.1f} s", file=sys.stderr)
