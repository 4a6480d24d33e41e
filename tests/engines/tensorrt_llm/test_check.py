"""What is refused from config.json and recipe alone, and before any tool runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import EnginepressError, RecipeError, SourceError, UnsupportedModelError
from tests.engines.stand_ins.image import Image
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.flow import BUILDER, build, convert
from tests.engines.tensorrt_llm.samples import checkpoint, config, recipe


@pytest.mark.parametrize(
    ("changes", "engine", "kind", "message", "fix"),
    [
        ({"architecture": "DeepseekV3ForCausalLM"}, {}, UnsupportedModelError, "PyTorch backend only", "llmapi"),
        ({"architecture": "GptOssForCausalLM"}, {}, UnsupportedModelError, "PyTorch backend only", "llmapi"),
        ({"architecture": "MllamaForConditionalGeneration"}, {}, UnsupportedModelError, "pictures or sound", None),
        (
            {"architecture": "NobodyForCausalLM"},
            {},
            UnsupportedModelError,
            "no conversion script for it",
            "no builder here is known",
        ),
        ({"architectures": []}, {}, SourceError, "names no single architecture", None),
        ({"auto_map": {"AutoModel": "x.Y"}}, {}, SourceError, "'auto_map' names Python code", "trust_remote_code"),
        ({}, {"gpu": None}, RecipeError, "names no GPU", None),
        ({}, {"precision": "fp8"}, RecipeError, "no texts", "engine.calibration.data"),
        (
            {"architecture": "PhiForCausalLM"},
            {"parallelism": {"pipeline": 2}},
            RecipeError,
            "script for phi has no pipeline parallelism",
            "tensor",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}},
            {},
            UnsupportedModelError,
            "with desc_act",
            "desc_act: false",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            {"precision": "int4_awq"},
            RecipeError,
            "quantized already",
            "float16",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}, "architecture": "FalconForCausalLM"},
            {},
            UnsupportedModelError,
            "conversion script of falcon does not read",
            "llmapi",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, UnsupportedModelError, "quantized already", None),
        ({}, {"serving": {"engine_args": {"max_model_len": 1}}}, RecipeError, "no use for 'engine_args'", "leave"),
        ({}, {"serving": {"threads": 4}}, RecipeError, "no use for 'threads'", "leave"),
        ({}, {"serving": {"slow_path_requests": 4}}, RecipeError, "no use for 'slow_path_requests'", "leave"),
        ({}, {"serving": {"max_concurrent_requests": 4}}, RecipeError, "counted by <name>-bls alone", "max_queue_size"),
        ({}, {"serving": {"multi_gpu": "orchestrator"}}, RecipeError, "engine on one GPU has no ranks", "leave it out"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            {"calibration": {"data": "/texts.txt"}},
            RecipeError,
            "nothing is calibrated: the checkpoint is quantized already",
            "leave",
        ),
        (
            {"architecture": "MambaForCausalLM"},
            {"kv_cache": "int8"},
            RecipeError,
            "keeps states",
            "leave engine.kv_cache out",
        ),
    ],
)
def test_bad_input_is_refused_from_config_and_recipe_alone(
    on: Enter, changes: dict[str, Any], engine: dict[str, Any], kind: type[EnginepressError], message: str, fix: str | None
) -> None:
    with pytest.raises(kind, match=message) as caught:
        BUILDER.check(config(**changes), recipe(**engine))
    if fix is not None:
        assert fix in (caught.value.fix or "")


def test_an_fp8_cache_on_an_a100_is_refused(on: Enter) -> None:
    on(sm="80", gpu="A100-SXM4-80GB")
    with pytest.raises(RecipeError, match="needs SM 89 or newer, and A100-SXM4-80GB is SM 80"):
        BUILDER.check(config(), recipe(kv_cache="fp8"))


def test_an_architecture_that_came_later_names_the_release(on: Enter) -> None:
    on("0.20.0")
    with pytest.raises(UnsupportedModelError, match=r"it came with TensorRT-LLM 1\.0, and Triton 26\.07 has 0\.20\.0"):
        BUILDER.check(config("Qwen3ForCausalLM"), recipe())


def test_code_in_the_checkpoint_is_refused_before_any_tool(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "modeling_x.py").write_text("raise SystemExit")
    with pytest.raises(SourceError, match=r"Python code, which NVIDIA's scripts would run: modeling_x\.py"):
        convert(tmp_path, recipe(), source)
    assert not (tmp_path / "convert.log").exists()
    trusting = recipe(source={"uri": "hf://org/name@main", "trust_remote_code": True})
    assert convert(tmp_path / "again", trusting, source).is_dir()


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_quantized_checkpoint_that_the_script_reads_is_converted_as_it_is(method: str, inside: Image, tmp_path: Path) -> None:
    converted = convert(
        tmp_path, recipe(), quantization_config={"quant_method": method, "bits": 4, "desc_act": False, "sym": True}
    )
    line = (tmp_path / "convert.log").read_text().splitlines()[0]
    assert "--use_weight_only" not in line
    build(tmp_path, recipe(), converted)


def test_a_modelopt_checkpoint_is_recognised_by_its_second_file(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})
    )
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        convert(tmp_path, recipe(), source)


def test_a_damaged_config_is_named(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "config.json").write_text("{")
    with pytest.raises(SourceError, match="is not JSON"):
        convert(tmp_path, recipe(), source)


def test_every_refused_architecture_has_its_reason(on: Enter) -> None:
    from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, REFUSED

    assert not set(REFUSED) & set(ARCHITECTURES)
    for name, reason in REFUSED.items():
        with pytest.raises(UnsupportedModelError, match=re.escape(reason)):
            BUILDER.check(config(name), recipe())


def test_a_container_that_is_too_old_is_answered_with_one_that_is_not() -> None:
    """Not with a builder that this container does not have either."""
    asked = recipe(container="25.08", precision="bfloat16")
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    with pytest.raises(UnsupportedModelError, match=r"it came with TensorRT-LLM 1\.0, and Triton 25\.08 has 0\.21\.0") as caught:
        BUILDER.check(config("Qwen3MoeForCausalLM", model_type="qwen3_moe", **experts), asked)
    fix = caught.value.fix or ""
    assert fix.startswith("leave engine.container out for the newest, or name 25.09 or newer")
    assert "llmapi" not in fix


@pytest.mark.parametrize(
    ("architecture", "model_type"), [("MambaForCausalLM", "mamba"), ("RecurrentGemmaForCausalLM", "recurrent_gemma")]
)
def test_models_that_keep_states_are_built_on_one_gpu(architecture: str, model_type: str) -> None:
    """With the real rules of parallelism, which know models with attention only."""
    of = config(architecture, model_type=model_type)
    limits = {"max_sequence_length": 2048}
    BUILDER.check(of, recipe(gpu={"name": "H100-SXM5-80GB"}, limits=limits))
    with pytest.raises(RecipeError, match="how they would be divided among 2 GPUs is not known") as caught:
        BUILDER.check(of, recipe(gpu={"name": "H100-SXM5-80GB", "count": 2}, parallelism={"tensor": 2}, limits=limits))
    assert caught.value.where == "engine.parallelism"
