from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.media.rtp import RtpPacket
from duplex_server.media.video_assembly import MAX_HELD_BYTES, MAX_HELD_PACKETS, REORDERING_S, PictureAssembler
from duplex_server.media.video_picture import VideoCodec
from tests.helpers.camera_track import FilmCamera, made_up_vp8, packets_of

START = b"\x00\x00\x00\x01"
PER_S = 30


def arrange(
    packets: list[RtpPacket], chance: random.Random, *, loss: float, shift: int, twice: float
) -> list[RtpPacket]:
    """What a network makes of packets: each is at most ``shift`` places late."""
    delayed = []
    for index, packet in enumerate(packets):
        if chance.random() >= loss:
            delayed += [(index + chance.randint(0, shift), index, packet)] * (1 + (chance.random() < twice))
    return [packet for _, _, packet in sorted(delayed, key=lambda item: item[:2])]


def assembled(packets: list[RtpPacket], codec: VideoCodec = VideoCodec.VP8) -> list[bytes]:
    machine = PictureAssembler(codec)
    return [picture.coded for packet in packets for picture in machine.add(packet, 0.0)]


def flat(film: list[tuple[bytes, list[RtpPacket]]]) -> list[RtpPacket]:
    return [packet for _, packets in film for packet in packets]


@pytest.mark.parametrize("codec", VideoCodec)
def test_a_real_senders_pictures_come_out_one_by_one_as_their_last_packet_comes(codec: VideoCodec) -> None:
    camera = FilmCamera(codec)
    machine = PictureAssembler(codec)
    for n in range(12):
        if n == 7:
            camera.ask()
        *before, last = camera.shoot()
        for packet in before:
            assert machine.add(packet, n / PER_S) == []
        (picture,) = machine.add(last, n / PER_S)
        assert picture.is_key == (n in (0, 7))
        assert picture.size_px == ((160, 128) if codec is VideoCodec.H264 else (160, 120)) or not picture.is_key
    assert machine.intact
    assert (machine.n_corrupt, machine.n_breaks) == (0, 0)


def test_nothing_comes_out_before_a_key_picture() -> None:
    film = list(made_up_vp8(random.Random(1), 12, key_every=10, first=65_530))
    assert assembled(flat(film[3:])) == [film[10][0], film[11][0]]


def test_packets_that_overtake_each_other_are_put_in_order() -> None:
    film = list(made_up_vp8(random.Random(2), 6, key_every=100, most_packets=1))
    packets = flat(film)
    assert assembled([packets[i] for i in (0, 2, 1, 4, 5, 3)]) == [coded for coded, _ in film]


def test_after_a_loss_nothing_comes_out_until_the_next_key_picture() -> None:
    film = list(made_up_vp8(random.Random(3), 20, key_every=12))
    packets = [packet for n, (_, its) in enumerate(film) for packet in (its[1:] if n == 4 else its)]
    machine = PictureAssembler(VideoCodec.VP8)
    out = []
    for index, packet in enumerate(packets):
        out += [picture.coded for picture in machine.add(packet, index / 60)]
    assert out == [film[n][0] for n in (*range(4), *range(12, 20))]
    assert machine.n_breaks == 1


def test_a_missing_packet_is_waited_for_no_longer_than_it_takes_to_be_overtaken() -> None:
    film = list(made_up_vp8(random.Random(4), 8, key_every=100, most_packets=1))
    packets = flat(film)
    for late_s, kept in ((REORDERING_S * 0.9, 5), (REORDERING_S * 1.2, 1)):
        machine = PictureAssembler(VideoCodec.VP8)
        machine.add(packets[0], 0.0)
        machine.add(packets[2], 1.0)
        machine.add(packets[3], 1.0 + late_s)
        assert machine.intact == (kept > 1)
        n_out = 1 + sum(len(machine.add(packets[i], 1.0 + late_s)) for i in (1, 4))
        assert n_out == kept


def test_a_whole_key_picture_is_not_held_up_by_what_is_missing_before_it() -> None:
    film = list(made_up_vp8(random.Random(5), 10, key_every=5))
    packets = [packet for n, (_, its) in enumerate(film[:6]) for packet in its if n != 3]
    assert assembled(packets) == [film[n][0] for n in (0, 1, 2, 5)]
    assert assembled([*packets, *film[3][1]]) == [film[n][0] for n in (0, 1, 2, 5)], "it is too late"


def test_packets_without_content_are_stepped_over() -> None:
    camera = FilmCamera(VideoCodec.VP8)
    machine = PictureAssembler(VideoCodec.VP8)
    shift, n_out = 0, 0
    for n in range(6):
        for packet in camera.shoot():
            n_out += len(machine.add(packet._replace(sequence_number=(packet.sequence_number + shift) % 65536), 0.0))
            last = packet
        for _ in range(n):
            shift += 1
            padding = last._replace(sequence_number=(last.sequence_number + shift) % 65536, payload=b"", marker=False)
            machine.add(padding, 0.0)
    assert n_out == 6
    assert machine.intact


def test_a_picture_ends_where_another_begins_even_without_markers() -> None:
    film = list(made_up_vp8(random.Random(6), 6, key_every=3))
    packets = [packet._replace(marker=False) for packet in flat(film)]
    assert assembled(packets) == [coded for coded, _ in film[:-1]]


def test_a_sender_that_begins_anew_is_followed_from_its_key_picture_on() -> None:
    first = list(made_up_vp8(random.Random(7), 3, key_every=10, first=40_000))
    second = list(made_up_vp8(random.Random(8), 3, key_every=10, first=200))
    assert assembled([*flat(first), *flat(second)]) == [coded for coded, _ in [*first, *second]]


def test_an_h264_picture_that_brings_its_parameter_set_and_is_no_key_picture_waits_for_its_turn() -> None:
    units = {"key": [b"\x67\x42\xc0\x0d\xda\x05\x07\xc4", b"\x65\x88"], "inter": [b"\x41\x9a"]}
    led = [units["key"][0], b"\x41\x9b"]
    pictures = [units["key"], units["inter"], led]
    packets, sequence = [], 0
    for n, payloads in enumerate(pictures):
        packets.append(packets_of(payloads, n * 3000, sequence, 99))
        sequence += len(payloads)
    one, two, three = packets
    coded = [b"".join(START + unit for unit in picture) for picture in pictures]
    assert assembled([*one, *three, *two], VideoCodec.H264) == coded
    assert assembled([*three, *one, *two], VideoCodec.H264) == coded


def test_a_corrupt_payload_is_a_lost_packet() -> None:
    film = list(made_up_vp8(random.Random(9), 9, key_every=6))
    packets = flat(film)
    at = packets.index(film[2][1][0])
    packets[at] = packets[at]._replace(payload=b"\x90")
    machine = PictureAssembler(VideoCodec.VP8)
    out = [picture.coded for n, packet in enumerate(packets) for picture in machine.add(packet, n / 20)]
    assert out == [film[n][0] for n in (0, 1, 6, 7, 8)]
    assert machine.n_corrupt == 1


@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.4]),
    shift=st.integers(0, 8),
    key_every=st.integers(1, 20),
    first=st.integers(0, 65_535),
)
def test_whatever_the_network_does_every_picture_can_be_decoded_after_those_before_it(
    seed: int, loss: float, shift: int, key_every: int, first: int
) -> None:
    chance = random.Random(seed)
    film = list(made_up_vp8(chance, 40, key_every=key_every, first=first))
    number = {coded: n for n, (coded, _) in enumerate(film)}
    machine = PictureAssembler(VideoCodec.VP8)
    out: list[int] = []
    for index, packet in enumerate(arrange(flat(film), chance, loss=loss, shift=shift, twice=0.1)):
        for picture in machine.add(packet, index / 300):
            n = number[picture.coded]  # nothing is put together from parts of two
            assert picture.is_key == (n % key_every == 0)
            assert picture.is_key or out[-1] == n - 1
            out.append(n)
    assert out == sorted(set(out))
    if not loss:
        # A key picture may overtake the one before it; all others are there.
        assert out[-1] >= 38
        assert all(n in out or any(later % key_every == 0 for later in range(n + 1, n + shift + 2)) for n in range(40))


@given(
    st.lists(
        st.builds(
            RtpPacket,
            payload_type=st.just(97),
            marker=st.booleans(),
            sequence_number=st.integers(0, 65_535) | st.integers(100, 140),
            timestamp=st.integers(0, 5),
            ssrc=st.just(1),
            payload=st.binary(max_size=12)
            | st.sampled_from(
                [b"\x10\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00", b"\x10\x11\x02", b"\x00ab", b"\x67\x42"]
            ),
        ),
        max_size=80,
    ),
    st.sampled_from(VideoCodec),
)
def test_garbage_breaks_nothing(packets: list[RtpPacket], codec: VideoCodec) -> None:
    machine = PictureAssembler(codec)
    for index, packet in enumerate(packets):
        machine.add(packet, index / 40)
        held = [fragment for partial in machine._partials.values() for fragment in partial.fragments.values()]
        assert machine._n_held == len(held) + len(machine._padding)
        assert machine._held_bytes == sum(len(fragment.coded) for fragment in held)
        assert machine._next is None or all(min(p.fragments) >= machine._next for p in machine._partials.values())


@pytest.mark.parametrize("spacing", ["one picture", "a picture each", "padding", "behind a gap"])
def test_what_is_held_is_bounded(spacing: str) -> None:
    machine = PictureAssembler(VideoCodec.VP8)
    if spacing in ("padding", "behind a gap"):
        key, *_ = made_up_vp8(random.Random(10), 1, key_every=1, most_packets=1)
        machine.add(key[1][0]._replace(sequence_number=0), 0.0)
    most_packets = most_bytes = 0
    for n in range(2, 3 * MAX_HELD_PACKETS):
        timestamp = n if spacing == "a picture each" else 5
        payload = b"" if spacing == "padding" else b"\x00" + bytes(1500)
        machine.add(RtpPacket(97, False, n % 65536, timestamp, 1, payload), 0.0)
        most_packets, most_bytes = max(most_packets, machine._n_held), max(most_bytes, machine._held_bytes)
    assert most_packets <= MAX_HELD_PACKETS
    assert most_bytes <= MAX_HELD_BYTES
