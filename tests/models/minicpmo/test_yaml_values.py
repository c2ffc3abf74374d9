"""Settings with Python tags are read as values, and nothing in them is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.yaml_values import find, read_yaml

SETTINGS = """
sample_rate: 24000
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: 512
    output_type: 'mel'
    rate: !ref <sample_rate>
    unknown: !ref <sample_rate> * 2
    encoder: !name:a.b.Encoder
        key_bias: True
        kernels: [3, 7, 11]
        nothing: null
    decoder: !new:c.d.Decoder
        inference_cfg_rate: 0.7
"""


def read(folder: Path, text: str) -> object:
    (folder / "flow.yaml").write_text(text)
    return read_yaml(folder / "flow.yaml")


def test_values_are_read_and_tags_are_not(tmp_path: Path) -> None:
    values = read(tmp_path, SETTINGS)
    assert values == {
        "sample_rate": 24000,
        "flow": {
            "input_size": 512,
            "output_type": "mel",
            "rate": 24000,
            "unknown": "<sample_rate> * 2",
            "encoder": {"key_bias": True, "kernels": [3, 7, 11], "nothing": None},
            "decoder": {"inference_cfg_rate": 0.7},
        },
    }
    assert find(values, "inference_cfg_rate") == 0.7
    assert find(values, "kernels") == [3, 7, 11]
    assert find(values, "inference") is None


def test_code_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "done"
    values = read(tmp_path, f"a: !!python/object/apply:pathlib.Path.touch ['{file}']\nb: !apply:os.system [x]")
    assert values == {"a": [str(file)], "b": ["x"]}
    assert not file.exists()


def test_shared_values_are_not_multiplied(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x]"] + [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60)]
    values = read(tmp_path, "\n".join(lines))
    assert isinstance(values, dict) and values["l59"][0] is values["l58"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: &a [*a]", "refers to itself"), ("a: !ref <a>", "refers to itself"), ("a: [", "is not YAML")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"flow\.yaml {says}"):
        read(tmp_path, text)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(bytes(2_000_000))
    with pytest.raises(ModelLoadError, match="too long"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ModelLoadError, match="is not YAML"):
        read_yaml(tmp_path / "b.yaml")
