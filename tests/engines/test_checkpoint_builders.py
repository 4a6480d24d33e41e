"""llmapi and vllm: what they refuse before a weight is downloaded, what they say about themselves, and what they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, RecipeError, SourceError
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.plans.engine_args import check_engine_args, load_arguments
from enginepress.repository.validate import validate

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
BOTH = pytest.mark.parametrize("builder", ["llmapi", "vllm"])


def recipe(
    builder: str,
    *,
    engine: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
    **serving: Any,
) -> Recipe:
    base = {"builder": builder, "precision": "bfloat16", "gpu": {"name": "H100-SXM5-80GB"}}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": {"uri": "file:///checkpoint", **(source or {})},
            "engine": {**base, **(engine or {})},
            "serving": serving,
            "checks": checks or {},
            "stores": ["file:///store"],
        }
    )


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
# Arguments
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("builder", "given", "said", "fix"),
    [
        ("vllm", {"gpu_memory_utilisation": 0.9}, "no", "did you mean 'gpu_memory_utilization'?"),
        ("vllm", {"gpu_memory_utilization": 1.2}, "above 0 and at most 1", None),
        ("vllm", {"gpu_memory_utilization": "0.9"}, "above 0 and at most 1", None),
        ("llmapi", {"kv_cache_config": {"free_gpu_memory_fraction": 0}}, "above 0 and at most 1", None),
        ("llmapi", {"kv_cache_config": {"max_token": 7}}, "not known to have 'max_token'", "did you mean 'max_tokens'?"),
        ("llmapi", {"kv_cache_config": {"path": "${HOME}"}}, "placeholders are not filled", "write the value itself"),
        ("llmapi", {"kv_cache_config": {"dtype": "int8"}}, "must be one of: auto, fp8, nvfp4", None),
        ("llmapi", {"scheduler_config": {"capacity_scheduler_policy": "max_utilization"}}, "MAX_UTILIZATION", None),
        ("llmapi", {"moe_config": {"backends": "TRTLLM"}}, "not known to have 'backends'", "did you mean 'backend'?"),
        ("llmapi", {"cuda_graph_config": {"batch_sizes": [1], "max_batch_size": 8}}, "exclude each other", None),
        ("llmapi", {"cuda_graph_config": {"enable_padding": "yes"}}, "must be true or false", None),
        ("llmapi", {"peft_cache_config": {"device_cache_percentage": 0.1}}, "not known", "did you mean 'device_cache_percent'?"),
        (
            "llmapi",
            {"lora_config": {"max_lora_ranks": 8}},
            "lora_config is not known to have 'max_lora_ranks'",
            "did you mean 'max_lora_rank'?",
        ),
        (
            "llmapi",
            {"lora_config": {"lora_dir": ["org/adapter"]}},
            "would download it",
            "name a folder of the machine that serves, from / on",
        ),
        ("llmapi", {"lora_config": {"lora_dir": "/adapter"}}, "must be a list of folders", None),
        ("llmapi", {"torch_compile_config": {"enable_fulgraph": True}}, "not known to have", "did you mean 'enable_fullgraph'?"),
        ("llmapi", {"torch_compile_config": {"enable_fullgraph": 1}}, "must be true or false", None),
        ("llmapi", {"torch_compile_config": True}, "must be a mapping", None),
        (
            "llmapi",
            {"scheduler_config": {"dynamic_batch_config": {"enable_batch_size_tunning": True}}},
            "scheduler_config.dynamic_batch_config is not known to have",
            "did you mean 'enable_batch_size_tuning'?",
        ),
        ("llmapi", {"nvfp4_gemm_config": {"backends": []}}, "not known", "did you mean 'allowed_backends'?"),
        (
            "llmapi",
            {"speculative_config": {"decoding_type": "MTP", "max_matching_ngram_size": 2}},
            "speculative_config is not known to have 'max_matching_ngram_size'",
            None,
        ),
        (
            "llmapi",
            {"speculative_config": {"decoding_type": "NGram", "max_draft_length": 2}},
            "not known",
            "did you mean 'max_draft_len'?",
        ),
        ("llmapi", {"speculative_config": {"max_draft_len": 3}}, "says no decoding_type", None),
        (
            "llmapi",
            {"speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "org/draft"}},
            "is no absolute path",
            "name a folder of the machine that serves, from / on",
        ),
        (
            "llmapi",
            {"speculative_config": {"decoding_type": "Eagle", "speculative_model": "/a", "speculative_model_dir": "/b"}},
            "names the draft model twice",
            "leave it out",
        ),
        ("llmapi", {"build_config": {"max_batch_size": 3}}, "cannot be set: it is for TensorRT engines", "leave it out"),
        ("llmapi", {"enable_lora": True, "peft_cache_config": {"lora_prefetch_dir": "/a"}}, "not supported", "leave it out"),
        ("vllm", {"compilation_config": {"levels": 3}}, "compilation_config is not known to have", "did you mean 'level'?"),
        (
            "vllm",
            {"compilation_config": {"pass_config": {"enable_fuson": True}}},
            "compilation_config.pass_config is not known to have 'enable_fuson'",
            "did you mean 'enable_fusion'?",
        ),
        ("vllm", {"compilation_config": 3}, "must be a mapping", None),
        ("vllm", {"speculative_config": {"num_speculative_token": 3}}, "not known", "did you mean 'num_speculative_tokens'?"),
        ("vllm", {"speculative_config": {"method": "egale"}}, "must be one of: ", "did you mean 'eagle'?"),
        ("vllm", {"speculative_config": {"model": "org/draft"}}, "would download it when it loads", None),
        ("vllm", {"kv_transfer_config": {"kv_connectr": "x"}}, "not known", "did you mean 'kv_connector'?"),
        ("vllm", {"spec_model": "/draft"}, "cannot be set: set speculative_config", None),
        ("vllm", {"enable_lora": True}, "multi_lora.json", "leave it out, or name a checkpoint with the adapter merged into it"),
        ("vllm", {"max_loras": 4}, "is for LoRA adapters", "leave it out"),
        ("llmapi", {"speculative_config": {"decoding_type": "Medusa", "max_draft_len": 3}}, "must be one of: MTP, Eagle", None),
        ("llmapi", {"speculative_config": {"speculative_model_dir": "/draft"}}, "says no decoding_type", None),
        ("llmapi", {"speculative_config": {"decoding_type": "Eagle", "max_draft_len": 3}}, "needs speculative_model_dir", None),
        ("llmapi", {"load_format": "dummy"}, "must be one of: auto", None),
        ("vllm", {"load_format": "dummy"}, "must be one of: auto", None),
        ("vllm", {"skip_tokenizer_init": True}, "must be one of: false", None),
        ("vllm", {"task": "embed"}, "must be one of: auto, generate", None),
        ("llmapi", {"cuda_graphs_config": {}}, "no", "did you mean 'cuda_graph_config'?"),
    ],
)
def test_arguments_are_checked_by_name_and_value(builder: Any, given: dict[str, Any], said: str, fix: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        check_engine_args(given, builder)
    assert said in caught.value.message
    assert fix is None or caught.value.fix == fix


@pytest.mark.parametrize(
    ("builder", "given"),
    [
        (
            "llmapi",
            {"lora_config": {"lora_dir": ["/adapters/a"], "max_lora_rank": 16}, "peft_cache_config": {"host_cache_size": 1}},
        ),
        ("llmapi", {"torch_compile_config": {"enable_piecewise_cuda_graph": True, "capture_num_tokens": [1, 2]}}),
        ("llmapi", {"scheduler_config": {"dynamic_batch_config": {"enable_batch_size_tuning": True}}}),
        ("llmapi", {"moe_config": {"backend": "AUTO", "load_balancer": "/balance.yaml"}}),
        ("llmapi", {"speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "/draft"}}),
        ("llmapi", {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 3}}),
        (
            "llmapi",
            {"sparse_attention_config": {"algorithm": "dsa", "index_topk": 3}, "batch_wait_timeout_ms": 5, "max_stats_len": 9},
        ),
        ("llmapi", {"model_kwargs": {"whatever": {"the": "model"}}}),
        ("vllm", {"compilation_config": {"mode": 3, "pass_config": {"enable_sp": True}, "inductor_compile_config": {"any": 1}}}),
        ("vllm", {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}}),
        ("vllm", {"speculative_config": {"model": "[ngram]", "num_speculative_tokens": 3, "prompt_lookup_max": 4}}),
        ("vllm", {"speculative_config": {"model": "/draft", "draft_tensor_parallel_size": 1}}),
        ("vllm", {"kv_transfer_config": {"kv_connector": "X", "kv_connector_extra_config": {"any": 1}}, "performance_mode": "x"}),
        ("vllm", {"hf_overrides": {"rope_scaling": {"any": 1}}, "attention_config": {"backend": "FLASHINFER"}}),
    ],
)
def test_names_that_are_known_at_any_depth_are_taken(builder: Any, given: dict[str, Any]) -> None:
    check_engine_args(given, builder)


@BOTH
def test_names_inside_arguments_belong_to_arguments_that_are_known(builder: Any) -> None:
    arguments = load_arguments(builder)
    for path in (*arguments.inside, *arguments.kinds):
        outer, _, inner = path.rpartition(".")
        assert path in arguments.known or inner in arguments.inside[outer], path
    for path in arguments.inside_types:
        outer, _, inner = path.rpartition(".")
        assert inner in (arguments.names_in(outer, {}) or []), path
    assert not arguments.known & set(arguments.refused)


@BOTH
def test_the_lists_of_arguments_name_their_sources_and_do_not_overlap(builder: Any) -> None:
    arguments = load_arguments(builder)
    assert len(arguments.sources) >= 2
    assert not arguments.known & set(arguments.elsewhere)


@BOTH
def test_fields_of_the_recipe_become_the_arguments_that_are_set_elsewhere(builder: str) -> None:
    from enginepress.repository.plans import llmapi, vllm

    limits = {"max_batch_size": 3, "max_sequence_length": 64, "max_num_tokens": 128}
    engine = {"limits": limits, "parallelism": {"tensor": 2, "pipeline": 2}, "gpu": {"name": "H100-SXM5-80GB", "count": 4}}
    made = (llmapi if builder == "llmapi" else vllm).arguments(recipe(builder, engine=engine))
    names = {"llmapi": ("max_batch_size", "max_seq_len", "max_num_tokens"), "vllm": ("max_num_seqs", "max_model_len", "")}
    assert [made[name] for name in names[builder] if name] == [3, 64, 128][: len([n for n in names[builder] if n])]
    assert (made["tensor_parallel_size"], made["pipeline_parallel_size"], made["dtype"]) == (2, 2, "bfloat16")
    assert made["trust_remote_code"] is False
    assert set(made) <= set(load_arguments(builder).elsewhere) | load_arguments(builder).known  # type: ignore[arg-type]


def test_vllms_share_of_the_memory_is_written_out_since_its_default_moved() -> None:
    from enginepress.engines.fit.working import cache_share
    from enginepress.repository.plans import vllm

    for given, share in (({}, 0.9), ({"gpu_memory_utilization": 0.5}, 0.5)):
        asked = recipe("vllm", engine_args=given)
        assert vllm.arguments(asked)["gpu_memory_utilization"] == cache_share(asked) == share


H100, A100 = {"name": "H100-SXM5-80GB"}, {"name": "A100-SXM4-80GB"}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}


@pytest.mark.parametrize(
    ("builder", "config", "engine", "given", "where", "said"),
    [
        (
            "llmapi",
            {},
            {"gpu": H100, "precision": "fp8", "kv_cache": "fp8", "calibration": {"data": "/texts.txt"}},
            {"kv_cache_config": {"dtype": "nvfp4"}},
            "kv_cache_config.dtype",
            "is nvfp4, and engine.kv_cache asks for fp8",
        ),
        ("llmapi", {}, {"gpu": H100}, {"kv_cache_config": {"dtype": "nvfp4"}}, "kv_cache_config.dtype", "on H100-SXM5-80GB"),
        ("vllm", {}, {"gpu": H100}, {"quantization": "awq"}, "quantization", "is awq, and the checkpoint is not quantized"),
        ("vllm", AWQ, {"gpu": H100}, {"quantization": "gptq"}, "quantization", "is gptq, and the checkpoint is quantized by AWQ"),
        (
            "vllm",
            {},
            {"gpu": H100, "limits": {"max_sequence_length": 512, "max_num_tokens": 256}},
            {"enable_chunked_prefill": False},
            "enable_chunked_prefill",
            "vLLM would not start",
        ),
    ],
)
def test_arguments_that_contradict_the_recipe_or_the_checkpoint_are_refused(
    builder: str, config: dict[str, Any], engine: dict[str, Any], given: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        get_builder(builder).check({**CONFIG, **config}, recipe(builder, engine=engine, engine_args=given))
    assert (caught.value.where, said in caught.value.message) == (f"serving.engine_args.{where}", True), str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("builder", "config", "given"),
    [
        ("llmapi", {}, {"kv_cache_config": {"dtype": "fp8"}}),
        ("vllm", {}, {"quantization": "fp8"}),
        ("vllm", AWQ, {"quantization": "awq_marlin"}),
        ("vllm", {}, {"enable_chunked_prefill": False}),
    ],
)
def test_arguments_that_agree_with_both_are_taken(builder: str, config: dict[str, Any], given: dict[str, Any]) -> None:
    get_builder(builder).check({**CONFIG, **config}, recipe(builder, engine={"gpu": H100}, engine_args=given))


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


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("llmapi", {"backend": "tensorrt"}),
        ("llmapi", {"kv_cache_config": "x"}),
        ("vllm", {"quantization": "foo"}),
        ("vllm", {"enforce_eager": "maybe"}),
    ],
)
def test_a_value_that_an_argument_cannot_have_is_refused(builder: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="it must be"):
        get_builder(builder).check(CONFIG, recipe(builder, engine_args=arguments))
