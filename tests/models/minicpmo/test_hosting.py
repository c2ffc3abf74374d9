"""What a server starts for a checkpoint, by the GPUs that there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.models.minicpmo import hosting
from duplex_server.models.minicpmo.hosting import Hosting, host
from duplex_server.models.minicpmo.placement import Precision
from duplex_server.models.minicpmo.plan import Device

OPTIONS = {"window_tokens": 4000, "flow_steps": 5, "frames_per_unit": 1, "picture_slices": 1}

Hosted = Callable[..., Hosting]


@pytest.fixture
def hosted(hollow_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Hosted:
    """Ask what is started where there are GPUs of some gigabytes."""

    def asked(*gigabytes: float, devices: tuple[str, ...] = (), rows: int = 0, **more: Any) -> Hosting:
        def found() -> list[Device]:
            if not gigabytes:
                raise ConfigError("no GPU was found")
            return [Device(f"cuda:{place}", f"GPU {place}", round(n * 1e9)) for place, n in enumerate(gigabytes)]

        monkeypatch.setattr(hosting, "find_gpus", found)
        precision = more.pop("precision", None)
        return host(hollow_checkpoint, devices, rows, OPTIONS | more, precision)

    return asked


def layers(found: Hosting) -> list[list[str]]:
    return [list(dict.fromkeys(told["placement"]["layers"])) for told in found.options]


def precisions(found: Hosting) -> set[str]:
    return {told["placement"]["precision"] for told in found.options}


def test_gpus_that_hold_it_have_a_model_each(hosted: Hosted) -> None:
    found = hosted(32, 40)
    assert layers(found) == [["cuda:0"], ["cuda:1"]]
    assert precisions(found) == {"16-bit"}
    assert found.rows == 8, "as many as the smaller one holds"
    assert layers(hosted(32, 40, devices=("cuda:1",))) == [["cuda:1"]]


def test_gpus_that_do_not_hold_it_share_it_before_bits_are_saved(hosted: Hosted) -> None:
    found = hosted(12, 12, 12)
    assert len(found.options) == 1
    assert set(layers(found)[0]) <= {"cuda:0", "cuda:1", "cuda:2"}
    assert precisions(found) == {"16-bit"}


def test_one_small_gpu_saves_bits(hosted: Hosted) -> None:
    assert precisions(hosted(16)) == {"int8"}
    found = hosted(11)
    assert precisions(found) == {"int4"}
    assert found.options[0]["placement"]["embedding"] == "cpu"
    assert found.rows == 1


def test_a_precision_that_is_asked_for_is_kept(hosted: Hosted) -> None:
    assert precisions(hosted(32, precision=Precision.INT8)) == {"int8"}
    assert precisions(hosted(precision=Precision.INT8)) == {"int8"}
    with pytest.raises(ModelLoadError, match="does not fit for 1 conversation"):
        hosted(12, precision=Precision.FULL)


def test_more_rows_cost_bits(hosted: Hosted) -> None:
    found = hosted(24, rows=8)
    assert (precisions(found), found.rows) == ({"int8"}, 8)


def test_what_fits_nowhere_is_refused(hosted: Hosted) -> None:
    with pytest.raises(ModelLoadError, match=r"`duplex-server plan .*` says what does"):
        hosted(8)


def test_without_a_gpu_it_runs_on_the_processor(hosted: Hosted) -> None:
    assert layers(hosted()) == [["cpu"]]
    assert layers(hosted(32, devices=("cpu",))) == [["cpu"]]
    blind = hosted(frames_per_unit=0)
    assert blind.options[0]["placement"]["vision"] is None


def test_a_gpu_that_is_not_there_is_told(hosted: Hosted) -> None:
    with pytest.raises(ModelLoadError, match="cuda:3 is not there"):
        hosted(32, devices=("cuda:3",))
    with pytest.raises(ModelLoadError, match="cuda:0 cannot be used"):
        hosted(devices=("cuda:0",))
