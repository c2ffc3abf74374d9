"""Tests of the voice: real speech from the real process, and every way in which that process can fail."""

from __future__ import annotations

import ast
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplex_server.errors import ModelError, ModelLoadError
from duplex_server.models.embedded import espeak_process
from duplex_server.models.embedded.voice import MAX_TEXT_CHARACTERS, Voice
from duplex_server.types import OUTPUT_RATE_HZ, Pcm


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    with Voice() as opened:
        yield opened


def loudness(pcm: Pcm) -> float:
    return float(np.sqrt(np.mean(pcm**2)))


def pid_of(voice: Voice) -> int:
    assert voice.pid is not None
    return voice.pid


def ended(pid: int) -> bool:
    """Wait, ten seconds at most, until a process that may be nobody's child has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 10)[0])
    finally:
        os.close(watched)


def test_a_sentence_is_audible_speech_of_plausible_length(voice: Voice) -> None:
    pcm = voice.speak("It is ten past three.").pcm
    assert pcm.dtype == np.float32
    assert 0.8 < len(pcm) / OUTPUT_RATE_HZ < 2.0
    assert loudness(pcm) > 0.05
    assert np.abs(pcm).max() <= 1


@pytest.mark.parametrize(
    ("text", "language"), [("Stop.", "en"), ("Hello!", "en"), ("One.", "en"), ("你好。", "zh"), ("现在是三点。", "zh")]
)
def test_sound_starts_within_two_milliseconds(voice: Voice, text: str, language: str) -> None:
    pcm = voice.speak(text, language=language).pcm
    assert np.argmax(np.abs(pcm) > 0.002) <= 0.002 * OUTPUT_RATE_HZ


def test_words_say_where_they_are_in_text_and_sound(voice: Voice) -> None:
    text = "One, two, three, four."
    utterance = voice.speak(text)
    assert [word.text for word in utterance.words] == ["One", "two", "three", "four"]
    assert all(text[word.text_start : word.text_end] == word.text for word in utterance.words)
    starts = [word.start_samples for word in utterance.words]
    assert starts[0] == 0
    assert all(0.2 < gap / OUTPUT_RATE_HZ < 0.8 for gap in np.diff(starts))
    assert starts[-1] < len(utterance.pcm)


def test_a_word_starts_where_its_sound_does(voice: Voice) -> None:
    utterance = voice.speak("One, two, three.")
    window = OUTPUT_RATE_HZ // 50
    for word in utterance.words[1:]:  # a comma's pause lies before each
        before = utterance.pcm[word.start_samples - 3 * window : word.start_samples - window]
        after = utterance.pcm[word.start_samples : word.start_samples + 6 * window]
        assert loudness(after) > 10 * loudness(before)


def test_mandarin_words_are_characters(voice: Voice) -> None:
    utterance = voice.speak("三点十分，五点", language="zh-CN")
    assert [(word.text, word.text_start) for word in utterance.words if word.text_start < 1 or word.text == "五"] == [
        ("三", 0),
        ("五", 5),
    ]
    assert all(len(word.text) == 1 for word in utterance.words)
    assert 0.8 < len(utterance.pcm) / OUTPUT_RATE_HZ < 2.5


def test_numbers_and_symbols_give_one_word_each_in_order(voice: Voice) -> None:
    text = "I paid $5.20 for 😀 and 1,234,567 stars."
    words = voice.speak(text).words
    assert all(first.text_end <= second.text_start for first, second in itertools.pairwise(words))
    assert all(first.start_samples <= second.start_samples for first, second in itertools.pairwise(words))
    assert words[-1].text == "stars"


def test_rate_changes_the_length(voice: Voice) -> None:
    slow, normal, fast = (len(voice.speak("Faster and slower.", rate=rate).pcm) for rate in (0.6, 1.0, 1.5))
    assert slow > 1.3 * normal
    assert normal > 1.2 * fast


def test_rates_beyond_what_espeak_can_are_held(voice: Voice) -> None:
    assert len(voice.speak("Very slow.", rate=0.01).pcm) < 10 * OUTPUT_RATE_HZ
    assert len(voice.speak("Very fast.", rate=100).pcm) > 0.1 * OUTPUT_RATE_HZ


def test_volume_changes_the_loudness_and_never_the_range(voice: Voice) -> None:
    soft, normal, loud = (voice.speak("Louder and softer.", volume=volume).pcm for volume in (0.3, 1.0, 3.0))
    assert loudness(soft) == pytest.approx(0.3 * loudness(normal), rel=0.15)
    assert loudness(loud) > 1.8 * loudness(normal)
    assert np.abs(loud).max() <= 1


def test_another_voice_can_be_asked_for(voice: Voice) -> None:
    assert loudness(voice.speak("Hello there.", voice="gmw/en-US+f3").pcm) > 0.02


@pytest.mark.parametrize("text", ["", " \n", "...", "\0"])
def test_where_nothing_is_said_nothing_sounds(voice: Voice, text: str) -> None:
    utterance = voice.speak(text)
    assert len(utterance.pcm) == 0
    assert utterance.words == ()


def test_a_language_nobody_speaks_is_a_value_error(voice: Voice) -> None:
    with pytest.raises(ValueError, match=r"'tlh'.*en, zh"):
        voice.speak("nuqneH", language="tlh")


def test_an_unknown_voice_is_a_model_error_and_the_process_goes_on(voice: Voice) -> None:
    pid = voice.pid
    with pytest.raises(ModelError, match="no voice 'nobody'"):
        voice.speak("Hello.", voice="nobody")
    assert len(voice.speak("Hello.").pcm) > 0
    assert voice.pid == pid


def test_a_long_text_is_cut(voice: Voice) -> None:
    words = voice.speak("one two three four five " * 400, rate=2.5).words
    assert MAX_TEXT_CHARACTERS - 10 < words[-1].text_end <= MAX_TEXT_CHARACTERS


def test_a_short_text_of_endless_speech_is_cut_after_five_minutes(voice: Voice) -> None:
    utterance = voice.speak("今天天气很好" * 400, language="zh")
    assert 299 < len(utterance.pcm) / OUTPUT_RATE_HZ < 301
    assert len(voice.speak("Still here.").pcm) < 2 * OUTPUT_RATE_HZ


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40), language=st.sampled_from(["en", "zh"]))
def test_no_text_harms_the_process(voice: Voice, text: str, language: str) -> None:
    pid = voice.pid
    utterance = voice.speak(text, language=language)
    assert all(text[word.text_start : word.text_end] == word.text for word in utterance.words)
    assert voice.pid == pid


def test_a_lone_surrogate_is_one_character(voice: Voice) -> None:
    text = "first \ud800 second"
    assert voice.speak(text).words[-1].text == "second"


def test_a_process_that_died_is_replaced() -> None:
    with Voice() as voice:
        first = pid_of(voice)
        os.kill(first, signal.SIGKILL)
        assert len(voice.speak("I am back.").pcm) > 0
        assert voice.pid not in (None, first)


def test_a_process_that_hangs_is_replaced() -> None:
    with Voice(timeout_s=1.0) as voice:
        first = pid_of(voice)
        os.kill(first, signal.SIGSTOP)
        assert len(voice.speak("I am back.").pcm) > 0
        assert ended(first)


def test_failing_twice_is_a_model_error_and_the_next_text_tries_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    with Voice() as voice:
        os.kill(pid_of(voice), signal.SIGKILL)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", shutil.which("false"))
            with pytest.raises(ModelError, match="twice"):
                voice.speak("Nobody hears this.")
            assert voice.pid is None
        assert len(voice.speak("I am back.").pcm) > 0


def test_a_program_that_does_not_start_is_a_load_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ModelLoadError, match="does not start"):
        Voice()


def test_a_missing_library_is_a_load_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match="espeakng-loader is not installed"):
        Voice()


def test_missing_data_is_a_load_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import espeakng_loader

    (tmp_path / "espeakng_loader.py").write_text(
        f"get_library_path = lambda: {espeakng_loader.get_library_path()!r}\n"
        f"get_data_path = lambda: {str(tmp_path / 'espeak-ng-data')!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match="cannot read its data"):
        Voice()


def test_data_in_a_very_deep_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import espeakng_loader

    deep = tmp_path / ("deep" * 40)
    deep.mkdir()
    (deep / "espeakng_loader").symlink_to(Path(espeakng_loader.__file__).parent)
    assert len(str(deep)) > 160
    monkeypatch.setenv("PYTHONPATH", str(deep))
    with Voice() as voice:
        assert len(voice.speak("I am down here.").pcm) > 0


def test_ctrl_c_in_the_terminal_does_not_end_the_process(voice: Voice) -> None:
    pid = pid_of(voice)
    os.kill(pid, signal.SIGINT)
    assert len(voice.speak("Still here.").pcm) > 0
    assert voice.pid == pid


def test_close_ends_the_process_and_may_be_called_twice() -> None:
    voice = Voice()
    pid = pid_of(voice)
    voice.close()
    voice.close()
    assert ended(pid)


def test_the_process_ends_with_its_parent() -> None:
    program = (
        "import os, signal\n"
        "from duplex_server.models.embedded.voice import Voice\n"
        "print(Voice().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert ended(int(parent.stdout))


def test_the_program_stands_alone() -> None:
    tree = ast.parse(Path(espeak_process.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    third_party = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert third_party == {"espeakng_loader"}
