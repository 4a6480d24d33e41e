"""llmapi and vllm: what they refuse before a weight is downloaded, what they say about themselves, and what they leave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, RecipeError, SourceError
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.validate import validate
from tests.engines.served_recipes import BOTH, CHECKPOINT, CONFIG, recipe

# ------------------------------------------------------------------------------------------------------------------
# Refusals
# ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_plain_checkpoint_is_taken(builder: str) -> None:
    get_builder(builder).check(CONFIG, recipe(builder))


@BOTH
@pytest.mark.parametrize(
    ("config", "engine", "serving", "where", "said"),
    [
        ({"auto_map": {}}, {}, {}, "config.json", "auto_map"),
        ({}, {"parallelism": {"tensor": 3}}, {}, "engine", "3 does not divide"),
        ({}, {"gpu": {"name": "A100-SXM4-80GB"}, "precision": "fp8"}, {}, "engine.precision", "fp8 is impossible"),
        ({}, {"gpu": {"name": "H1000"}}, {}, "engine.gpu.name", "H1000"),
        ({}, {"options": {"build": {"gemm_plugin": "auto"}}}, {}, "engine.options", "has no use for 'options'"),
        ({}, {}, {"parameters": {"kv_cache_free_gpu_mem_fraction": 0.9}}, "serving.parameters", "has no use"),
        ({}, {}, {"engine_args": {"enforce_eagr": True}}, "serving.engine_args.enforce_eagr", "not known to have"),
        ({}, {}, {"engine_args": {"tensor_parallel_size": 2}}, "serving.engine_args.tensor_parallel_size", "not set here"),
        ({}, {}, {"engine_args": {"model": "/x"}}, "serving.engine_args.model", "not set here"),
        ({}, {"container": "24.04"}, {}, "engine.container", "24.04"),
    ],
)
def test_what_cannot_be_served_is_refused_naming_field_and_value(
    builder: str, config: dict[str, Any], engine: dict[str, Any], serving: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(EnginepressError) as caught:
        get_builder(builder).check({**CONFIG, **config}, recipe(builder, engine=engine, **serving))
    assert caught.value.where is not None
    assert caught.value.where.startswith(where)
    assert said in caught.value.message
    assert caught.value.fix


def test_llmapi_before_1_0_is_refused_with_a_way_on() -> None:
    with pytest.raises(RecipeError, match=r"does not work in Triton 25\.08") as caught:
        get_builder("llmapi").check(CONFIG, recipe("llmapi", engine={"container": "25.08"}))
    assert "use 2" in (caught.value.fix or "")


def test_a_gptq_checkpoint_with_desc_act_is_vllms_and_not_llmapis() -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}}
    get_builder("vllm").check(config, recipe("vllm"))
    with pytest.raises(SourceError, match="GPTQ 4 bits with desc_act") as caught:
        get_builder("llmapi").check(config, recipe("llmapi"))
    assert "builders that take it: vllm" in (caught.value.fix or "")


def test_vllm_quantizes_nothing_and_says_who_does() -> None:
    with pytest.raises(RecipeError, match="this one is not quantized") as caught:
        get_builder("vllm").check(CONFIG, recipe("vllm", engine={"precision": "fp8"}))
    assert "llmapi" in (caught.value.fix or "")


def test_vllm_takes_no_chat_messages_in_checks() -> None:
    checks = {"prompts": [{"messages": [{"role": "user", "content": "hello"}]}]}
    with pytest.raises(RecipeError, match="no chat messages") as caught:
        get_builder("vllm").check(CONFIG, recipe("vllm", checks=checks))
    assert caught.value.where == "checks.prompts[0].messages"


def test_llmapi_asks_for_calibration_data_before_it_quantizes() -> None:
    with pytest.raises(RecipeError, match="needs calibration data"):
        get_builder("llmapi").check(CONFIG, recipe("llmapi", engine={"precision": "fp8"}))


def test_llmapi_keeps_a_quantized_cache_of_16_bit_weights_by_an_argument() -> None:
    asked = {"kv_cache": "fp8", "calibration": {"data": "/texts.txt"}}
    with pytest.raises(RecipeError, match="nothing to quantize for bfloat16 but a KV cache in fp8") as caught:
        get_builder("llmapi").check(CONFIG, recipe("llmapi", engine=asked))
    assert (caught.value.where, "kv_cache_config: {dtype: fp8}" in (caught.value.fix or "")) == ("engine.kv_cache", True)
    get_builder("llmapi").check(CONFIG, recipe("llmapi", engine_args={"kv_cache_config": {"dtype": "fp8"}}))


def test_modelopt_that_has_nothing_to_convert_is_refused() -> None:
    with pytest.raises(RecipeError, match="ModelOpt has nothing to convert: bfloat16 needs none") as caught:
        get_builder("llmapi").check(CONFIG, recipe("llmapi", engine={"converter": "modelopt"}))
    assert caught.value.where == "engine.converter"


def test_calibration_that_nobody_needs_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing is calibrated: bfloat16 needs none"):
        get_builder("llmapi").check(CONFIG, recipe("llmapi", engine={"calibration": {"data": "/texts.txt"}}))


# ------------------------------------------------------------------------------------------------------------------
# What is declared and left
# ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_declared_and_installed_agree_without_the_package(builder: str) -> None:
    made = get_builder(builder)
    assert made.declared(recipe(builder)) == made.installed(recipe(builder))


def test_a_quantizing_recipe_declares_modelopt() -> None:
    pytest.importorskip("modelopt")
    wanted = recipe("llmapi", engine={"precision": "fp8", "calibration": {"data": "/texts.txt"}})
    assert get_builder("llmapi").converts(wanted)
    assert "nvidia-modelopt" in get_builder("llmapi").declared(wanted)


@BOTH
def test_who_can_serve_is_said_with_versions_and_gpus(builder: str) -> None:
    wanted = recipe(builder, engine={"parallelism": {"tensor": 2}, "gpu": {"name": "H100-SXM5-80GB", "count": 2}})
    served_by = get_builder(builder).served_by(wanted)
    assert served_by[0].startswith("triton in nvcr.io/nvidia/tritonserver:")
    assert "2 x H100-SXM5-80GB" in served_by[0]
    assert any("dynamo" in line for line in served_by)
    assert not any("draft" in line for line in served_by)
    assert any("NIM 2.x" in line for line in served_by)


@BOTH
def test_a_draft_model_that_must_lie_on_the_server_is_said_in_the_manifest(builder: str) -> None:
    speculation = {
        "vllm": {"model": "/models/draft", "num_speculative_tokens": 3},
        "llmapi": {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model_dir": "/models/draft"},
    }[builder]
    served_by = get_builder(builder).served_by(recipe(builder, engine_args={"speculative_config": speculation}))
    assert "on H100-SXM5-80GB, with the draft model in /models/draft" in served_by[0]


def test_adapters_that_must_lie_on_the_server_are_said_in_the_manifest() -> None:
    served_by = get_builder("llmapi").served_by(recipe("llmapi", adapters={"b": "/b", "a": "/adapters/a"}))
    assert "on H100-SXM5-80GB, with the adapter a in /adapters/a and the adapter b in /b" in served_by[0]


@BOTH
def test_the_checkpoint_is_linked_and_the_repository_validates(builder: str, tmp_path: Path) -> None:
    wanted = recipe(builder, engine_args={"enable_lora": False})
    for name in ("engine", "unplaced"):
        (tmp_path / name).mkdir()
    get_builder(builder).build(CHECKPOINT, tmp_path / "engine", wanted, tmp_path / "log")
    assemble(engine=tmp_path / "engine", checkpoint=CHECKPOINT, recipe=wanted, output=tmp_path / "unplaced")
    weights = "tiny/0/checkpoint/model.safetensors"
    assert os.path.samefile(tmp_path / "unplaced" / weights, tmp_path / "engine" / "model.safetensors")
    write_placement(place(tmp_path / "unplaced", 2, str(tmp_path / "placed")), tmp_path / "placed")
    assert validate(tmp_path / "placed").findings == ()
    file = next((tmp_path / "placed/tiny/2").glob("model.[jy]*"))
    values = yaml.safe_load(file.read_text())
    assert values["model"] == f"{tmp_path}/placed/./tiny/2/checkpoint"
    assert values["enable_lora"] is False


@BOTH
def test_code_in_the_checkpoint_is_served_only_with_leave(builder: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).hardlink_to(CHECKPOINT / name)
    (checkpoint / "modeling_own.py").write_text("")
    for allowed in (False, True):
        output = tmp_path / str(allowed)
        output.mkdir()
        wanted = recipe(builder, source={"trust_remote_code": allowed})
        if allowed:
            get_builder(builder).build(checkpoint, output, wanted, tmp_path / "log")
            assert (output / "modeling_own.py").is_file()
        else:
            with pytest.raises(SourceError, match=r"modeling_own\.py"):
                get_builder(builder).build(checkpoint, output, wanted, tmp_path / "log")


@BOTH
@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_a_checkpoint_without_weights_or_tokenizer_is_refused(builder: str, missing: str, tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "output"
    checkpoint.mkdir()
    output.mkdir()
    for name in {"config.json", "tokenizer.json", "model.safetensors"} - {missing}:
        (checkpoint / name).hardlink_to(CHECKPOINT / name)
    with pytest.raises(SourceError, match=missing.split(".")[-1]):
        get_builder(builder).build(checkpoint, output, recipe(builder), tmp_path / "log")


def test_a_checkpoint_that_comes_quantized_as_asked_is_passed_through(tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "output"
    checkpoint.mkdir()
    output.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).hardlink_to(CHECKPOINT / name)
    (checkpoint / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    get_builder("llmapi").convert(checkpoint, output, recipe("llmapi", engine={"precision": "fp8"}), tmp_path / "log")
    assert (output / "hf_quant_config.json").is_file()


@BOTH
def test_the_rotary_embedding_is_said_as_old_and_new_readers_look_for_it(builder: str, tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "output"
    checkpoint.mkdir()
    output.mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (checkpoint / name).hardlink_to(CHECKPOINT / name)
    scaled = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}
    plain = {key: value for key, value in CONFIG.items() if not key.startswith("rope")}
    (checkpoint / "config.json").write_text(json.dumps({**plain, "rope_parameters": scaled}))
    get_builder(builder).build(checkpoint, output, recipe(builder), tmp_path / "log")
    served = json.loads((output / "config.json").read_text())
    assert served["rope_theta"] == 500000.0, "without it, transformers 4 takes 10000 and the answers are wrong"
    assert served["rope_scaling"] == {"type": "llama3", "rope_type": "llama3", "factor": 8.0}
    assert served["dtype"] == served["torch_dtype"] == plain["torch_dtype"], "without it, version 4 takes 32 bits"
    rest = {k: v for k, v in served.items() if k not in ("rope_theta", "rope_scaling", "dtype")}
    assert rest == {**plain, "rope_parameters": scaled}
    assert not os.path.samefile(output / "config.json", checkpoint / "config.json")


# ------------------------------------------------------------------------------------------------------------------
# Architectures and FP8 by blocks
# ------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["FooForCausalLM", "BertModel"])
def test_an_architecture_that_nobody_serves_is_refused(builder: str, name: str) -> None:
    with pytest.raises(EnginepressError) as caught:
        get_builder(builder).check({**CONFIG, "architectures": [name]}, recipe(builder))
    assert f"cannot serve the architecture {name}" in str(caught.value)
    assert "builders that can" not in str(caught.value)


def test_an_architecture_that_vllm_gave_up_is_refused_with_its_last_release() -> None:
    config = {**CONFIG, "architectures": ["MllamaForConditionalGeneration"]}
    with pytest.raises(EnginepressError, match=r"up to 0\.10\.2 only"):
        get_builder("vllm").check(config, recipe("vllm"))
    get_builder("vllm").check(config, recipe("vllm", engine={"container": "25.10"}))
    get_builder("llmapi").check(config, recipe("llmapi"))


def test_vllm_takes_what_transformers_has_if_it_is_told_to() -> None:
    config = {**CONFIG, "architectures": ["FooForCausalLM"]}
    get_builder("vllm").check(config, recipe("vllm", engine_args={"model_impl": "transformers"}))


BLOCKS = {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


@pytest.mark.parametrize(("gpu", "taken"), [("H100-SXM5-80GB", True), ("B200", True), ("L40S", False), ("L4", False)])
def test_fp8_by_blocks_is_for_the_gpus_that_compute_it(gpu: str, taken: bool) -> None:
    wanted = recipe("llmapi", engine={"gpu": {"name": gpu}})
    if taken:
        get_builder("llmapi").check(BLOCKS, wanted)
        return
    with pytest.raises(EnginepressError, match="FP8 by blocks"):
        get_builder("llmapi").check(BLOCKS, wanted)
