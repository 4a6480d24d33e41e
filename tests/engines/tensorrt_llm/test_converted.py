"""A conversion that lost something is no conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines.tensorrt_llm.converted import check_converted
from enginepress.errors import BuildError, SourceError
from tests.engines.stand_ins.image import Image
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.flow import BUILDER, convert
from tests.engines.tensorrt_llm.samples import config, recipe

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GOOD = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "rotary_base": 10000.0}


@pytest.mark.parametrize(
    ("source", "converted"),
    [
        ({}, GOOD),
        ({"rope_theta": 10000.0}, {}),
        ({"rope_theta": 500000}, {"rotary_base": 500000.0}),
        ({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, {"rotary_base": 500000.0}),
        (
            {"rope_theta": 1e6, "rope_scaling": SCALING},
            {"rotary_base": 1e6, "rotary_scaling": {**SCALING, "type": "llama3", "factor": 8}},
        ),
        ({"architecture": "GPT2LMHeadModel", "rope_theta": 3.0}, {}),
        ({"architecture": "Gemma3ForCausalLM", "rope_theta": 1e6}, {}),
    ],
)
def test_what_is_the_same_passes(source: dict[str, Any], converted: dict[str, Any], tmp_path: Path) -> None:
    check_converted(config(**source), converted, where=tmp_path)


@pytest.mark.parametrize(
    ("source", "converted", "message"),
    [
        ({}, {**GOOD, "num_hidden_layers": 1}, "num_hidden_layers is 1, and the checkpoint says 2"),
        ({"rope_theta": 500000.0}, {}, r"rotary_base is 10000\.0, and the checkpoint says 500000\.0"),
        ({"rope_parameters": {"rope_theta": 5e5}}, {"rotary_base": None}, r"rotary_base is 10000\.0"),
        ({"rope_scaling": SCALING}, {}, "rotary_scaling is None, and the checkpoint says llama3"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, {"rotary_base": 1e4}, "rotary_scaling is None"),
        *(
            (
                {"rope_scaling": SCALING},
                {"rotary_scaling": {**SCALING, key: 32}},
                rf"rotary_scaling\.{key} is 32\.0, and the checkpoint says {float(SCALING[key])}",  # type: ignore[arg-type]
            )
            for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        ),
        (
            {"rope_scaling": SCALING},
            {"rotary_scaling": {"type": "llama3"}},
            r"rotary_scaling\.factor is None, and",
        ),
        ({"architecture": "GPTNeoXForCausalLM", "rotary_emb_base": 5e4}, {"rotary_emb_base": 10000}, "rotary_base is 10000"),
        ({"architecture": "CohereForCausalLM", "rope_theta": 8e6}, {"rotary_base": 10000.0}, "rotary_base is 10000"),
        (
            {"architecture": "PhiForCausalLM", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}},
            {"rotary_base": 1e4, "partial_rotary_factor": 0.5},
            "rotary_pct is 0.5",
        ),
        ({}, {"rotary_scaling": {"type": "linear"}}, "rotary_scaling is linear, and the checkpoint says None"),
    ],
)
def test_what_was_lost_is_named_with_both_values(
    source: dict[str, Any], converted: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=message):
        check_converted(config(**source), converted, where=tmp_path)


def test_a_tool_that_forgets_the_rotary_base_makes_no_checkpoint(
    inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_ROTARY_BASE", "10000")
    with pytest.raises(BuildError, match="the converted checkpoint is another model"):
        convert(tmp_path, recipe(), rope_theta=500000.0)


def test_a_tool_that_knows_the_old_spelling_only_reads_a_new_config_rightly(inside: Image, tmp_path: Path) -> None:
    """As the scripts of an image with transformers 4; the stand-in looks for `rope_theta` and `rope_scaling`, as they do."""
    parameters = {**SCALING, "rope_type": "llama3", "rope_theta": 500000.0}
    made = convert(tmp_path, recipe(), rope_parameters=parameters)
    written = json.loads((made / "config.json").read_text())
    assert written["rotary_base"] == 500000.0
    assert written["rotary_scaling"]["factor"] == SCALING["factor"]
    assert json.loads((made / "source_config.json").read_text())["rope_parameters"] == parameters
    assert not (made / ".scratch").exists()


def test_rotary_embeddings_that_only_new_readers_know_are_refused_before_the_image_converts(on: Enter) -> None:
    kinds = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    with pytest.raises(SourceError, match="differ between kinds of layers"):
        BUILDER.check(config(rope_parameters=kinds), recipe())
    BUILDER.check(config("Gemma3ForCausalLM", model_type="gemma3_text", rope_parameters=kinds), recipe())


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "MixtralForCausalLM"])
def test_a_tool_that_loses_a_tensor_makes_no_checkpoint(
    architecture: str, inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tmp_path / "whole", recipe(parallelism={"tensor": 2}), architecture=architecture)
    monkeypatch.setenv("STAND_IN_LOSES_TENSOR", "transformer.layers.1.attention.dense.weight")
    with pytest.raises(BuildError, match=r"rank0\.safetensors: transformer\.layers\.1\.attention\.dense\.weight: is missing"):
        convert(tmp_path / "lost", recipe(parallelism={"tensor": 2}), architecture=architecture)
