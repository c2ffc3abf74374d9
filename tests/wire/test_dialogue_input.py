from __future__ import annotations

import base64

import numpy as np
import pytest

from duplex_server.wire.requests import (
    AppendAudio,
    AppendImage,
    BargeIn,
    ClearInput,
    CommitInput,
)
from tests.helpers.wire_driver import WireDriver, types_of
from tests.helpers.wire_oracle import check

JPEG = b"\xff\xd8\xff\xe0picture"
JPEG_B64 = base64.b64encode(JPEG).decode()


def test_audio_is_handed_on_and_not_answered() -> None:
    driver = WireDriver()
    assert driver.append(np.array([0, 16384, -32768], "<i2").tobytes()) == []
    (request,) = driver.take_requests()
    assert isinstance(request, AppendAudio)
    assert request.rate_hz == 24_000
    np.testing.assert_array_equal(request.pcm, np.array([0, 0.5, -1], np.float32))


def test_half_a_sample_waits_for_its_other_half() -> None:
    driver = WireDriver()
    driver.append(b"\x00")
    assert driver.take_requests() == []
    driver.append(b"\x40\x00")
    driver.append(b"\x20")
    pcm = [float(request.pcm[0]) for request in driver.take_requests() if isinstance(request, AppendAudio)]
    assert pcm == [0.5, 0.25]


def test_clear_drops_half_a_sample() -> None:
    driver = WireDriver()
    driver.append(b"\x7f")
    assert types_of(driver.client("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert driver.take_requests() == [ClearInput()]
    driver.append(b"\x00\x40")
    (request,) = driver.take_requests()
    assert isinstance(request, AppendAudio)
    assert request.pcm.tolist() == [0.5]


def test_bad_base64_is_refused_by_name_and_the_session_goes_on() -> None:
    driver = WireDriver()
    (answer,) = driver.client("input_audio_buffer.append", audio="%%%", event_id="a1")
    assert answer["error"]["code"] == "invalid_value"
    assert (answer["error"]["param"], answer["error"]["event_id"]) == ("audio", "a1")
    assert answer["error"]["type"] == "invalid_request_error"
    driver.append(b"\0\0")
    assert len(driver.take_requests()) == 1


def test_g711_is_handed_on_at_8_khz() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
    driver.take_requests()
    driver.append(b"\xff\x00\x80")
    (request,) = driver.take_requests()
    assert isinstance(request, AppendAudio)
    assert request.rate_hz == 8000
    assert request.pcm[0] == 0
    assert request.pcm[1] == -request.pcm[2] < -0.9


def test_a_new_input_format_starts_a_new_stream() -> None:
    driver = WireDriver()
    driver.append(b"\x7f")
    driver.client("session.update", session={"audio": {"input": {"format": {"type": "audio/pcma"}}}})
    driver.client("session.update", session={"audio": {"input": {"format": {"type": "audio/pcm"}}}})
    driver.take_requests()
    driver.append(b"\x00\x40")
    (request,) = driver.take_requests()
    assert isinstance(request, AppendAudio)
    assert request.pcm.tolist() == [0.5]


def test_frames_and_the_floor_come_with_audio() -> None:
    driver = WireDriver()
    frames = [JPEG_B64, f"data:image/jpeg;base64,{JPEG_B64}"]
    driver.append(b"\0\0", video_frames=frames, force_listen=True, event_id="a2")
    barge_in, audio, *images = driver.take_requests()
    assert barge_in == BargeIn()
    assert isinstance(audio, AppendAudio)
    assert images == [AppendImage(JPEG, None, "a2")] * 2


def test_a_wrong_frame_refuses_the_whole_append() -> None:
    driver = WireDriver()
    (answer,) = driver.append(b"\0", video_frames=[JPEG_B64, "?"])
    assert answer["error"]["param"] == "video_frames[1]"
    assert driver.take_requests() == []
    driver.append(b"\x00\x40")
    (request,) = driver.take_requests()
    assert isinstance(request, AppendAudio)
    assert request.pcm.tolist() == [0.5]


def test_a_picture_is_handed_on_with_its_time() -> None:
    driver = WireDriver()
    assert driver.client("input_image_buffer.append", image=JPEG_B64, capture_ms=1500, event_id="p1") == []
    assert driver.take_requests() == [AppendImage(JPEG, 1500.0, "p1")]


def test_a_commit_makes_a_user_item() -> None:
    driver = WireDriver()
    driver.append(bytes(4800))
    answers = driver.client("input_audio_buffer.commit")
    assert types_of(answers) == ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    assert answers[1]["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert driver.take_requests()[-1] == CommitInput()


@pytest.mark.parametrize("n_bytes", [0, 4798])
def test_a_commit_of_less_than_100_ms_is_refused(n_bytes: int) -> None:
    driver = WireDriver()
    driver.append(bytes(n_bytes))
    (answer,) = driver.client("input_audio_buffer.commit")
    assert answer["error"]["code"] == "input_audio_buffer_commit_empty"


def test_a_commit_just_after_an_automatic_one_is_refused() -> None:
    driver = WireDriver()
    driver.append(bytes(48_000))
    driver.tell(driver.dialogue.speech_started(100))
    driver.tell(driver.dialogue.speech_stopped(900))
    (answer,) = driver.client("input_audio_buffer.commit")
    assert answer["error"]["code"] == "input_audio_buffer_commit_empty"


def test_a_commit_on_a_media_track_needs_no_appended_audio() -> None:
    driver = WireDriver(media_track=True)
    assert "input_audio_buffer.committed" in types_of(driver.client("input_audio_buffer.commit"))


def test_a_commit_ends_announced_speech() -> None:
    driver = WireDriver()
    (started,) = driver.tell(driver.dialogue.speech_started(100))
    driver.append(bytes(48_000))
    answers = driver.client("input_audio_buffer.commit")
    assert types_of(answers)[:2] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
    assert answers[0]["audio_end_ms"] == 1100
    assert answers[1]["item_id"] == started["item_id"]
    assert driver.tell(driver.dialogue.speech_stopped(2000)) == []


def test_speech_is_announced_under_the_id_of_its_item() -> None:
    driver = WireDriver()
    (started,) = driver.tell(driver.dialogue.speech_started(320))
    stopped, committed, added, done = driver.tell(driver.dialogue.speech_stopped(1500))
    assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (320, 1500)
    ids = {stopped["item_id"], committed["item_id"], added["item"]["id"], done["item"]["id"]}
    assert ids == {started["item_id"]}


def test_speech_is_not_reported_to_a_client_with_a_button() -> None:
    driver = WireDriver()
    driver.client("session.update", session={"audio": {"input": {"turn_detection": None}}})
    assert driver.tell(driver.dialogue.speech_started(320)) == []
    assert driver.tell(driver.dialogue.speech_stopped(1500)) == []


def test_speech_that_is_reported_no_more_is_ended() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.speech_started(320))
    answers = driver.client("session.update", session={"audio": {"input": {"turn_detection": None}}})
    assert types_of(answers)[:3] == [
        "session.updated",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
    check(driver.sent, media_track=False)
