from __future__ import annotations

import pytest

from duplex_server.gateways.division import divide


@pytest.mark.parametrize("gateways", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("model_workers", [1, 2, 5, 16])
@pytest.mark.parametrize("max_sessions", [0, 1, 10, 1000])
def test_places_are_those_of_one_gateway_and_each_has_rows_for_all(
    gateways: int, model_workers: int, max_sessions: int
) -> None:
    division = divide(gateways, model_workers, 16, max_sessions)
    assert division.places == min(model_workers * 16, max_sessions or 10**6)
    assert len(division.model_workers) == len(division.rows) == gateways
    assert sum(division.model_workers) == max(model_workers, gateways), "the machine is not oversubscribed"
    for n_workers, rows in zip(division.model_workers, division.rows, strict=True):
        assert division.places <= n_workers * rows < division.places + n_workers
