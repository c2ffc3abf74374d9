"""Whatever a peer sends and a session calls, in any order: the events that come out are in legal order and shape."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.wire.session_object import OPT_IN_NAMES
from tests.helpers.openai_schema import validate
from tests.helpers.wire_driver import WireDriver
from tests.helpers.wire_oracle import EXTENSIONS, WireOracle
from tests.helpers.wire_plans import Plan, endings, plans, run_plan


@settings(max_examples=200, deadline=None)
@given(media_track=st.booleans(), opt_in=st.booleans(), plan=plans, ending=endings)
def test_events_are_legal_in_order_and_shape(
    media_track: bool, opt_in: bool, plan: Plan, ending: tuple[str, Any] | None
) -> None:
    driver = WireDriver(media_track=media_track, opt_in=OPT_IN_NAMES if opt_in else ())
    run_plan(driver, [*plan, ending] if ending else plan)
    oracle = WireOracle(media_track=media_track, opted_in=True, timely=False)
    for event in driver.sent:
        oracle.feed(event)
        assert validate(event) or event["type"] in EXTENSIONS
    oracle.finish(all_ended=False)


@settings(max_examples=100, deadline=None)
@given(plan=plans)
def test_new_event_types_are_sent_only_to_clients_that_asked(plan: Plan) -> None:
    driver = WireDriver()
    asking = ("playback.ack", "session.heartbeat", "turn.signal")  # the answer to an extension is an extension
    run_plan(driver, [(kind, what) for kind, what in plan if kind != "client" or what["type"] not in asking])
    assert not EXTENSIONS.intersection(driver.types)


@settings(max_examples=100, deadline=None)
@given(pcm=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_cutting_the_input_anywhere_gives_the_same_samples(pcm: bytes, cuts: list[int]) -> None:
    driver = WireDriver()
    edges = [0, *sorted(cuts), len(pcm)]
    for start, end in itertools.pairwise(edges):
        driver.client("input_audio_buffer.append", audio=base64.b64encode(pcm[start:end]).decode())
    heard = [request.pcm for request in driver.requests]  # type: ignore[union-attr]
    joined = np.concatenate([np.zeros(0, np.float32), *heard])
    whole = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768
    np.testing.assert_array_equal(joined, whole)
