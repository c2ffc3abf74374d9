"""Media of a call on our own path: packets between the sockets and the sound, past aiortc.

What the descriptions mean for it, and what RTCP says when. Knows nothing about events or sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpTransceiver

from duplex_server.media import rtcp
from duplex_server.media.rtp import MalformedPacket, parse_rtp
from duplex_server.session.transport import MediaAudio
from duplex_server.transports.rtc_audio import Microphone
from duplex_server.transports.rtc_camera import CLOCK_HZ, Eye, RtcCamera
from duplex_server.transports.rtc_codecs import DECODERS, ENCODERS
from duplex_server.transports.rtc_internals import (
    IceRestart,
    MediaTap,
    bypass,
    dtls_transport,
    message_round_trip_s,
    unacknowledged_messages,
)
from duplex_server.transports.rtc_pacer import Alarm, Pacer
from duplex_server.transports.rtc_receiving import Ear, Receiving
from duplex_server.transports.rtc_speaker import TICK_SAMPLES, Speaker
from duplex_server.transports.rtc_streams import Stream, read_streams
from duplex_server.types import INPUT_RATE_HZ, Pcm

__all__ = ["MediaPath"]

REPORT_EVERY_S = 1.0
"""How often RTCP reports leave: 1 kbit/s each way, of the 5 % that RFC 3550 §6.2 allows. No interval is drawn by
chance, because there are two parties, and the calls of a server begin at times of their own."""


class MediaPath:
    """Carries the media of one call; a :class:`~duplex_server.transports.rtc_media.Media`.

    Args:
        connection: the call's, before any description was applied.
        hear: given decoded sound, on the event loop.
        eye: who looks at the peer's camera; None if nobody does.
        spawn: starts a task that lives at most as long as the call.
        pacer: of this event loop.
        offering: whether this end makes the offers.
        rate_hz: of the sound that is delivered.
    """

    def __init__(
        self,
        connection: RTCPeerConnection,
        hear: Callable[[MediaAudio], None],
        eye: Eye | None,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        pacer: Pacer,
        *,
        offering: bool = False,
        rate_hz: int = INPUT_RATE_HZ,
    ) -> None:
        self._connection = connection
        self._hear = hear
        self._eye = eye
        self._spawn = spawn
        self._pacer = pacer
        self._offering = offering
        self._rate_hz = rate_hz
        self._loop = asyncio.get_running_loop()
        self._tap: MediaTap | None = None
        self._bypassed: list[RTCRtpTransceiver] = []  # those for sound; the first carries our speech
        self._unseen: set[RTCRtpTransceiver] = set()  # those for pictures, which aiortc does not see either
        self._receiving = Receiving()
        self._ears: dict[str, Ear] = {}  # by the section's mid
        self._cameras: dict[str, RtcCamera] = {}  # likewise
        self._speaker: Speaker | None = None
        self._may_speak = False
        self._ssrc, self._cname = 0, ""  # of our speech
        self._speech = Alarm(pacer, self._speech_due, self._go_on)
        self._report_due_s: float | None = None
        self._reporting = Alarm(pacer, lambda: self._report_due_s, self._report)
        self._n_malformed = self._n_asked = 0

    # -- Media --------------------------------------------------------------------------------------------------------

    @property
    def arrived_s(self) -> float:
        """See :class:`Media`."""
        return self._tap.arrived_s if self._tap is not None else 0.0

    @property
    def moved_bytes(self) -> tuple[int, int]:
        """See :class:`Media`."""
        return self._tap.moved_bytes if self._tap is not None else (0, 0)

    @property
    def unconfirmed(self) -> int:
        """See :class:`Media`; counts pieces of messages."""
        return unacknowledged_messages(self._connection)

    def attach(self) -> None:
        """See :class:`Media`."""
        for transceiver in self._connection.getTransceivers():
            if transceiver.kind == "audio" and transceiver not in self._bypassed:
                bypass(transceiver)
                if not self._bypassed:
                    transceiver.direction = "sendrecv"
                self._bypassed.append(transceiver)
            elif transceiver.kind == "video" and transceiver not in self._unseen:
                bypass(transceiver)
                self._unseen.add(transceiver)
        dtls = dtls_transport(self._connection)
        if self._tap is None and dtls is not None:
            self._tap = MediaTap(dtls, self)

    def settle(self) -> None:
        """See :class:`Media`."""
        assert self._tap is not None, "attach() comes before settle()"
        ours = read_streams(self._connection.localDescription.sdp)
        theirs = read_streams(self._connection.remoteDescription.sdp)
        agreed = {stream.mid: stream for stream in (theirs if self._offering else ours)}
        self._receiving.forget()
        for stream in theirs:
            if stream.kind == "audio" and stream.mid in agreed:
                self._expect_sound(stream, agreed[stream.mid])
            elif stream.kind == "video" and stream.mid in agreed and self._eye is not None:
                self._expect_pictures(self._eye, stream, agreed[stream.mid])
        self._tap.listen()
        self._prepare_speech(ours, agreed)
        if self._report_due_s is None:
            self._report_due_s = self._loop.time() + REPORT_EVERY_S
            self._reporting.set()

    def restart(self) -> IceRestart:
        """See :class:`Media`."""
        dtls = dtls_transport(self._connection)
        assert dtls is not None, "an earlier description was applied"
        return IceRestart(dtls.transport, self._tap)

    def send(self, pcm: Pcm) -> None:
        """See :class:`Media`."""
        if self._speaker is not None and self._may_speak:
            now_s = self._loop.time()
            for tick in pcm.reshape(-1, TICK_SAMPLES):
                self._speaker.push(tick, now_s)
            self._speech.set()

    def clear(self) -> None:
        """See :class:`Media`."""
        if self._speaker is not None:
            self._speaker.clear(self._loop.time())
            self._speech.set()

    def stats(self) -> Mapping[str, float]:
        """Return what is known, of: ``rtt_ms``; of the microphone ``jitter_ms``, ``patience_ms``, ``received_packets``,
        ``lost_packets``, ``late_packets``, ``requested_packets``, ``concealed_ms``; of the voice ``sent_packets``,
        ``resent_packets``, ``remote_jitter_ms``, ``remote_loss`` (a share); of the camera's track ``seen_pictures``,
        ``requested_pictures``, ``corrupt_pictures``.
        """
        figures: dict[str, float] = {}
        round_trip_s = self._round_trip_s()
        if round_trip_s is not None:
            figures["rtt_ms"] = 1000 * round_trip_s
        for ear in self._ears.values():  # one, as a rule; the last one counts
            buffer = ear.microphone.buffer
            figures["patience_ms"] = 1000 * buffer.patience_s
            figures["lost_packets"] = float(buffer.n_lost)
            figures["late_packets"] = float(buffer.n_late)
            figures["requested_packets"] = float(self._n_asked)
            figures["concealed_ms"] = 1000 * ear.microphone.concealed_samples / self._rate_hz
            if receptions := self._receiving.of(ear):
                figures["jitter_ms"] = 1000 * receptions[-1].jitter_s
                figures["received_packets"] = float(sum(reception.n_received for reception in receptions))
        for camera in self._cameras.values():  # likewise
            figures["seen_pictures"] = float(camera.n_seen)
            figures["requested_pictures"] = float(camera.n_asked)
            figures["corrupt_pictures"] = float(camera.n_corrupt)
        if self._speaker is not None:
            sent = self._speaker.transmission
            figures["sent_packets"] = float(sent.n_packets)
            figures["resent_packets"] = float(self._speaker.n_repeated)
            if sent.round_trip_s is not None:
                figures["remote_jitter_ms"] = 1000 * sent.remote_jitter_s
                figures["remote_loss"] = sent.remote_loss
        return figures

    def close(self) -> None:
        """See :class:`Media`."""
        if self._report_due_s is not None:
            self._report_due_s = None
            self._send_rtcp(self._newest_report(self._loop.time()), rtcp.Goodbye((self._ssrc,)))
        self._may_speak = False
        for alarm in (self._reporting, self._speech):
            alarm.silence()
        for ear in self._ears.values():
            ear.close()
        for camera in self._cameras.values():
            camera.close()

    # -- MediaListener ------------------------------------------------------------------------------------------------

    def take_rtp(self, data: bytes, now_s: float) -> None:
        """See :class:`~duplex_server.transports.rtc_internals.MediaListener`."""
        try:
            packet = parse_rtp(data)
        except MalformedPacket:
            self._n_malformed += 1
            return
        self._receiving.take(packet, now_s)

    def take_rtcp(self, data: bytes, now_s: float) -> None:
        """See :class:`~duplex_server.transports.rtc_internals.MediaListener`."""
        try:
            packets = rtcp.parse_rtcp(data)
        except MalformedPacket:
            self._n_malformed += 1
            return
        for packet in packets:
            match packet:
                case rtcp.SenderReport():
                    self._receiving.hear(packet, now_s)
                    self._hear_of_speech(packet.blocks, now_s)
                case rtcp.ReceiverReport():
                    self._hear_of_speech(packet.blocks, now_s)
                case rtcp.Nack() if self._speaker is not None and packet.media_ssrc == self._ssrc:
                    for number in packet.sequence_numbers:
                        self._speaker.repeat(number)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _expect_sound(self, theirs: Stream, agreed: Stream) -> None:
        payload_type, codec = next(iter(agreed.codecs.items()), (-1, ""))
        make_decoder = DECODERS.get(codec)
        if make_decoder is None:
            return
        ear = self._ears.get(agreed.mid)
        if ear is None or ear.microphone.payload_type != payload_type:
            make = partial(make_decoder, self._rate_hz)
            ask = self._ask if payload_type in theirs.repairs else None
            microphone = Microphone(self._hear, make, payload_type, self._rate_hz)
            ear = self._ears[agreed.mid] = Ear(microphone, self._pacer, ask, self._round_trip_s)
        self._receiving.expect(ear, ear.microphone.clock_hz, agreed.codecs, theirs.ssrcs)

    def _expect_pictures(self, eye: Eye, theirs: Stream, agreed: Stream) -> None:
        camera = self._cameras.get(agreed.mid)
        if camera is None:
            camera = RtcCamera(eye, request_key_frame=self._ask_for_picture, spawn=self._spawn)
            self._cameras[agreed.mid] = camera
        camera.agree(agreed.codecs)
        self._receiving.expect(camera, CLOCK_HZ, agreed.codecs, theirs.ssrcs)

    def _prepare_speech(self, ours: Sequence[Stream], agreed: Mapping[str, Stream]) -> None:
        stream = next((stream for stream in ours if stream.kind == "audio"), None)
        if stream is None or not self._bypassed or stream.mid not in agreed:
            return
        self._may_speak = self._bypassed[0].currentDirection in ("sendrecv", "sendonly")
        if self._speaker is None and stream.ssrcs:
            assert self._tap is not None, "settle() was called"
            payload_type, codec = next(iter(agreed[stream.mid].codecs.items()))
            self._ssrc, self._cname = stream.ssrcs[0], stream.cname
            encoder = ENCODERS[codec]()
            self._speaker = Speaker(encoder, payload_type, self._ssrc, self._tap.send_rtp, self._loop.time())

    def _speech_due(self) -> float | None:
        return self._speaker.due_s if self._speaker is not None else None

    def _go_on(self, now_s: float) -> None:
        if self._speaker is not None:
            self._speaker.advance(now_s)

    def _round_trip_s(self) -> float | None:
        """By reports on our speech or, before there are any, by messages."""
        measured = self._speaker.transmission.round_trip_s if self._speaker is not None else None
        return message_round_trip_s(self._connection) if measured is None else measured

    def _ask(self, ssrc: int, numbers: Sequence[int]) -> None:
        self._n_asked += len(numbers)
        self._send_rtcp(rtcp.ReceiverReport(self._ssrc), rtcp.Nack(self._ssrc, ssrc, tuple(numbers)))

    def _ask_for_picture(self, ssrc: int) -> None:
        self._send_rtcp(rtcp.ReceiverReport(self._ssrc), rtcp.PictureLoss(self._ssrc, ssrc))

    def _hear_of_speech(self, blocks: Sequence[rtcp.ReportBlock], now_s: float) -> None:
        for block in blocks:
            if self._speaker is not None and block.ssrc == self._ssrc:
                self._speaker.transmission.hear(block, now_s)

    def _report(self, now_s: float) -> None:
        assert self._report_due_s is not None, "the alarm is silent when nothing is due"
        self._report_due_s = max(now_s, self._report_due_s + REPORT_EVERY_S)
        self._send_rtcp(self._newest_report(now_s), rtcp.SourceDescription(((self._ssrc, self._cname),)))

    def _newest_report(self, now_s: float) -> rtcp.RtcpPacket:
        """Report on the peer's streams and, once there was any, on our speech, also in its pauses: the round trip is
        measured by the answers.
        """
        blocks = self._receiving.blocks(now_s)
        if self._speaker is not None and self._speaker.transmission.n_packets:
            return self._speaker.transmission.report(now_s, blocks)
        return rtcp.ReceiverReport(self._ssrc, blocks)

    def _send_rtcp(self, report: rtcp.RtcpPacket, packet: rtcp.RtcpPacket) -> None:
        """Send a packet behind the report that every compound begins with (RFC 3550 §6.1)."""
        assert self._tap is not None, "settle() was called"
        self._tap.send_rtcp(rtcp.write_rtcp([report, packet]))
