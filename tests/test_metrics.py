from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from duplex_server.metrics import Metrics, merged, watch_loop
from duplex_server.session.observer import SessionObserver
from duplex_server.transports.observer import TransportObserver
from tests.helpers.virtual_time import run


@dataclass(frozen=True)
class Summary:
    transport: str = "webrtc"
    duration_s: float = 42.0
    ended_by: str = "peer"
    n_turns: int = 3
    n_interruptions: int = 1
    n_underruns: int = 2
    n_frames_dropped: int = 5


def lines_of(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_metrics_watch_sessions_and_transports() -> None:
    metrics = Metrics()
    session: SessionObserver = metrics
    transport: TransportObserver = metrics
    session.input_refused(1.0)
    transport.connection_opened("loopback")
    assert "duplex_input_refused_seconds_total 1.0" in lines_of(metrics)
    assert 'duplex_connections{transport="loopback"} 1.0' in lines_of(metrics)


def test_what_a_session_came_to_is_counted() -> None:
    metrics = Metrics()
    metrics.session_ended(Summary())
    lines = lines_of(metrics)
    assert 'duplex_sessions_ended_total{ended_by="peer",transport="webrtc"} 1.0' in lines
    assert "duplex_turns_total 3.0" in lines
    assert "duplex_interruptions_total 1.0" in lines
    assert 'duplex_session_duration_seconds_sum{transport="webrtc"} 42.0' in lines


def test_response_times_fall_into_buckets_around_the_goals() -> None:
    metrics = Metrics()
    for delay_s in (0.45, 0.7, None):
        metrics.response_began(delay_s)
    lines = lines_of(metrics)
    assert 'duplex_response_time_seconds_bucket{le="0.5"} 1.0' in lines
    assert 'duplex_response_time_seconds_bucket{le="0.8"} 2.0' in lines
    assert "duplex_response_time_seconds_count 2.0" in lines


def test_connections_rise_and_fall() -> None:
    metrics = Metrics()
    metrics.connection_opened("websocket")
    metrics.connection_opened("websocket")
    metrics.connection_closed("websocket", "slow")
    metrics.connection_refused("websocket", "server_overloaded")
    lines = lines_of(metrics)
    assert 'duplex_connections{transport="websocket"} 1.0' in lines
    assert 'duplex_connections_closed_total{reason="slow",transport="websocket"} 1.0' in lines
    assert 'duplex_connections_refused_total{reason="server_overloaded",transport="websocket"} 1.0' in lines


def test_overlaps_bytes_and_input_are_counted() -> None:
    metrics = Metrics()
    metrics.overlap_judged("interrupt", "speech", 0.45)
    metrics.bytes_moved("webrtc", 10, 20)
    metrics.input_refused(1.5)
    metrics.units_waiting(0)
    metrics.units_waiting(2)
    lines = lines_of(metrics)
    assert 'duplex_overlaps_total{outcome="interrupt",reason="speech"} 1.0' in lines
    assert 'duplex_network_bytes_total{direction="sent",transport="webrtc"} 20.0' in lines
    assert "duplex_input_refused_seconds_total 1.5" in lines
    assert "duplex_late_units_total 1.0" in lines


def test_values_kept_elsewhere_are_read_when_they_are_shown() -> None:
    metrics = Metrics()
    taken = [1]
    metrics.add_gauge("sessions", "Places taken.", lambda: taken[0])
    metrics.add_counter("engine_restarts", "Workers started again.", lambda: 7)
    taken[0] = 2
    lines = lines_of(metrics)
    assert "duplex_sessions 2.0" in lines
    assert "duplex_engine_restarts_total 7.0" in lines


def test_two_servers_in_one_process_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    one.connection_opened("webrtc")
    assert 'duplex_connections{transport="webrtc"} 1.0' not in lines_of(other)


def test_the_format_is_named() -> None:
    assert Metrics().content_type.startswith("text/plain")


def test_the_loop_is_never_late_on_a_perfect_clock() -> None:
    async def scenario() -> list[float]:
        stalls: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_loop(stalls.append))
            await asyncio.sleep(10)
            watching.cancel()
        return stalls

    stalls = run(scenario())
    assert 199 <= len(stalls) <= 200
    assert max(stalls) < 1e-6


def test_what_the_network_does_to_media_is_counted() -> None:
    metrics = Metrics()
    transport: TransportObserver = metrics
    stats = {"received_packets": 50.0, "lost_packets": 2.0, "concealed_ms": 40.0, "rtt_ms": 30.0, "patience_ms": 20.0}
    stats["seen_pictures"] = 4.0
    transport.media_measured(stats, stats)
    transport.media_measured(stats, {"received_packets": 7.0, "lost_packets": -1.0, "concealed_ms": 0.0})
    lines = lines_of(metrics)
    assert "duplex_media_packets_received_total 57.0" in lines
    assert "duplex_media_packets_lost_total 2.0" in lines
    assert "duplex_media_packets_sent_total 0.0" in lines
    assert "duplex_media_pictures_seen_total 4.0" in lines
    assert "duplex_media_pictures_corrupt_total 0.0" in lines
    assert "duplex_media_concealed_seconds_total 0.04" in lines
    assert 'duplex_media_rtt_seconds_bucket{le="0.05"} 2.0' in lines
    assert "duplex_media_jitter_seconds_count 0.0" in lines
    assert "duplex_media_patience_seconds_sum 0.04" in lines


def test_pages_of_several_gateways_are_one_page() -> None:
    pages = {}
    for number in range(2):
        metrics = Metrics()
        metrics.add_gauge("sessions", "Conversations now.", lambda number=number: number)  # type: ignore[misc]
        metrics.connection_closed("websocket", 'a "quoted" {reason} # gateway')
        metrics.response_began(0.3 + number)
        pages[number] = metrics.render()
    whole = [
        (family.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(merged(pages).decode())
        for sample in family.samples
    ]
    for number, page in pages.items():
        own = [
            (family.name, {**sample.labels, "gateway": str(number)}, sample.value)
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
        ]
        assert all(sample in whole for sample in own)
    assert len(whole) == sum(
        len(family.samples) for page in pages.values() for family in text_string_to_metric_families(page.decode())
    )
    names = re.findall(r"^# TYPE (\S+)", merged(pages).decode(), re.MULTILINE)
    assert len(names) == len(set(names))
