from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest

from duplex_server.errors import LimitExceeded, MediaError
from duplex_server.types import ModelSpec
from duplex_server.wire.requests import Configure
from duplex_server.wire.voice_reference import decode_voice_reference
from tests.helpers.wire_driver import WireDriver

CLONER = ModelSpec(name="cloner", unit_ms=40, voices=("calm", "bright"), clones_voices=True)


def wav(duration_s: float = 1.5, *, rate_hz: int = 24_000, channels: int = 1, width: int = 2) -> str:
    """A rising ramp from -0.5 to 0.5, as a WAV file in base64."""
    ramp = np.repeat(np.linspace(-0.5, 0.5, int(duration_s * rate_hz)), channels)
    if width == 1:
        data = (ramp * 128 + 128).astype(np.uint8).tobytes()
    else:
        whole = (ramp * 2.0 ** (8 * width - 1)).astype("<i4")
        data = whole.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate_hz)
        writer.writeframes(data)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_usual_wav_file_is_read(width: int, channels: int) -> None:
    reference = decode_voice_reference("data:audio/wav;base64," + wav(width=width, channels=channels), param="x")
    assert reference.rate_hz == 24_000 and reference.pcm.dtype == np.float32
    np.testing.assert_allclose(reference.pcm, np.linspace(-0.5, 0.5, 36_000), atol=2 ** (1 - 8 * min(width, 2)))


@pytest.mark.parametrize(
    "text", ["", "!", "UklGRg==", base64.b64encode(b"OggS" * 400).decode(), wav(0.5), wav(1.5, rate_hz=1000), "data:"]
)
def test_what_is_no_recording_of_a_voice_is_refused(text: str) -> None:
    with pytest.raises(MediaError) as refused:
        decode_voice_reference(text, param="session.ref_audio")
    assert refused.value.param == "session.ref_audio"


def test_what_is_too_long_is_refused() -> None:
    for text in (wav(31, rate_hz=8000), "A" * 17_000_000):
        with pytest.raises(LimitExceeded):
            decode_voice_reference(text, param="x")


def test_a_recording_becomes_the_voice() -> None:
    driver = WireDriver(spec=CLONER)
    (updated,) = driver.client("session.update", session={"tts_ref_audio": wav()})
    assert updated["session"]["audio"]["output"]["voice"] == "custom"
    assert "ref_audio" not in updated["session"], "it is not sent back"
    (request,) = driver.take_requests()
    assert isinstance(request, Configure) and request.reference is not None
    assert request.setup.voice == "calm"
    driver.client("session.update", session={"audio": {"output": {"voice": "custom"}}})
    assert driver.take_requests() == [], "clients send back what they were shown"
    driver.client("session.update", session={"audio": {"output": {"voice": "bright"}}})
    (request,) = driver.take_requests()
    assert isinstance(request, Configure) and request.reference is None and request.setup.voice == "bright"


def test_a_recording_is_fixed_once_the_model_was_heard() -> None:
    driver = WireDriver(spec=CLONER)
    driver.client("session.update", session={"ref_audio": wav()})
    driver.speak()
    assert driver.client("session.update", session={"ref_audio": wav()})[0]["type"] == "session.updated"
    (error,) = driver.client("session.update", session={"ref_audio": wav(2)})
    assert error["error"]["code"] == "cannot_update_voice"


def test_a_model_that_cannot_clone_says_so() -> None:
    (error,) = WireDriver().client("session.update", session={"ref_audio": wav()})
    assert error["error"]["code"] == "unsupported_value" and error["error"]["param"] == "session.ref_audio"
