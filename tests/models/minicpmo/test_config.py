"""The configuration is read as data, with the official classes' defaults; that of another model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duplex_server.errors import ModelLoadError
from duplex_server.models.minicpmo.config import MiniCPMOConfig, read_config
from tests.helpers.minicpmo_checkpoint import tiny_config


def test_the_tiny_configuration_is_read() -> None:
    config = MiniCPMOConfig.from_dict(tiny_config())
    assert (config.llm.num_hidden_layers, config.llm.kv_size, config.llm.rope_theta) == (3, 128, 1e6)
    assert config.vision.patches_per_side == 70
    assert (config.tts.eos_code, config.tts.head_dim) == (6561, 16)
    assert config.vision_layers == 2


def test_what_is_left_out_has_the_official_classes_default() -> None:
    raw = tiny_config()
    for name in ("sliding_window", "drop_vision_last_layer", "slice_config", "stream_input"):
        del raw[name]
    for name in ("attention_type", "top_p", "top_k", "temperature"):
        del raw["tts_config"][name]
    config = MiniCPMOConfig.from_dict(raw)
    assert config.llm.sliding_window == 4096
    assert config.vision_layers == config.vision.num_hidden_layers - 1
    assert config.slicing.max_slice_nums == 9
    assert (config.tts.attention_type, config.tts.top_p, config.tts.top_k) == ("sliding_recompute", 1.0, 50)


def test_the_width_of_the_language_model_has_two_names() -> None:
    raw = tiny_config()
    raw["tts_config"]["llm_hidden_size"] = raw["tts_config"].pop("llm_dim")
    assert MiniCPMOConfig.from_dict(raw).tts.llm_dim == 256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
        ({"num_hidden_layers": "many"}, r"Expected `int`, got `str` - at `\$.num_hidden_layers`"),
        ({"vision_config": None}, "vision_config"),
        ({"model_type": "qwen3"}, "describes a 'qwen3'"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config() | changes))
    with pytest.raises(ModelLoadError, match=says):
        read_config(tmp_path)


@pytest.mark.parametrize(("text", "says"), [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "no JSON object")])
def test_a_broken_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=f"config.json.*{says}"):
        read_config(tmp_path)
