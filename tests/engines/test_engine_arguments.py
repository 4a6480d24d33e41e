"""serving.engine_args of llmapi and vllm: names at any depth, values, and what contradicts the recipe or the checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from enginepress.engines import get_builder
from enginepress.errors import RecipeError
from enginepress.repository.plans.engine_args import check_engine_args, load_arguments
from tests.engines.served_recipes import BOTH, CONFIG, recipe


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
        ("llmapi", {"lora_config": {"max_lora_rank": 0}}, "must be a whole number, 1 or more", None),
        ("llmapi", {"lora_config": {"lora_dir": ["/a\nb"]}}, "cannot be printed", "name the folder alone"),
        ("llmapi", {"lora_config": {"lora_dir": [3]}}, "it must be a folder", "name a folder of the machine that serves"),
        ("llmapi", {"kv_cache_config": {"max_tokens": 0}}, "must be a whole number, 1 or more", None),
        ("llmapi", {"kv_cache_config": {"max_attention_window": [0]}}, "each 1 or more", None),
        ("llmapi", {"kv_cache_config": {"max_attention_window": 4096}}, "must be a list of whole numbers", None),
        ("llmapi", {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": -3}}, "1 or more", None),
        ("vllm", {"num_gpu_blocks_override": 0}, "must be a whole number, 1 or more", None),
        ("vllm", {"block_size": -16}, "must be a whole number, 1 or more", None),
        ("vllm", {"data_parallel_size": True}, "must be a whole number, 1 or more", None),
        ("vllm", {"speculative_config": {"method": "mtp", "num_speculative_tokens": 0}}, "1 or more", None),
        ("llmapi", {"lora_config": {"lora_target_modules": "attn_q"}}, "must be a list of names", None),
        ("llmapi", {"lora_config": {"lora_target_modules": [3]}}, "must be a list of names", None),
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


@pytest.mark.parametrize(
    ("layers", "tokens", "taken"), [(2, 3, False), (2, 4, True), (2, 1, True), (1, 3, True), (None, 3, True)]
)
def test_layers_that_predict_are_run_whole_times_over(layers: int | None, tokens: int, taken: bool) -> None:
    config = {**CONFIG, **({"num_nextn_predict_layers": layers} if layers else {})}
    asked = recipe("vllm", engine_args={"speculative_config": {"method": "mtp", "num_speculative_tokens": tokens}})
    if taken:
        get_builder("vllm").check(config, asked)
        return
    with pytest.raises(RecipeError, match="is 3, and the checkpoint's 2 layers") as caught:
        get_builder("vllm").check(config, asked)
    assert caught.value.fix == "set it to 2 or 4, or to 2 or less"
