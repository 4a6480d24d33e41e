"""What no tool of a release does, and what excludes each other, is refused naming the field."""

from __future__ import annotations

from typing import Any

import pytest

from enginepress.engines.tensorrt_llm.build_command import plan_build
from enginepress.engines.tensorrt_llm.convert_command import plan_conversion
from enginepress.errors import RecipeError
from tests.engines.tensorrt_llm.samples import CALIBRATION, config, recipe


@pytest.mark.parametrize(
    ("architecture", "version", "engine", "where", "message", "fix"),
    [
        ("LlamaForCausalLM", "1.2.1", {"precision": "fp8"}, "engine.calibration", "no texts", "engine.calibration.data"),
        ("LlamaForCausalLM", "1.2.1", {"kv_cache": "int8"}, "engine.calibration", "KV cache in int8", "downloaded"),
        ("LlamaForCausalLM", "1.2.1", {"calibration": CALIBRATION}, "engine.calibration", "float16 measures no", "leave"),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"precision": "int4", "calibration": CALIBRATION},
            "engine.calibration",
            "nothing is calibrated: int4 measures no activations",
            "leave engine.calibration out",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"precision": "fp8", "calibration": CALIBRATION, "options": {"convert": {"use_fp8_rowwise": True}}},
            "engine.calibration",
            "fp8 with use_fp8_rowwise measures no activations",
            "leave",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {
                "precision": "int8_sq",
                "calibration": {**CALIBRATION, "batch_size": 4},
                "options": {"convert": {"smoothquant": 0.5}},
            },
            "engine.calibration.batch_size",
            "is not known to have --batch_size",
            "the tool decides that itself",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"kv_cache": "nvfp4", "calibration": CALIBRATION},
            "engine.kv_cache",
            "--kv_cache_dtype nvfp4",
            "llmapi",
        ),
        (
            "LlamaForCausalLM",
            "0.20.0",
            {"precision": "nvfp4", "calibration": CALIBRATION},
            "engine.precision",
            "--qformat nvfp4",
            "newer container",
        ),
        (
            "Qwen3ForCausalLM",
            "1.2.1",
            {"precision": "fp8", "calibration": CALIBRATION},
            "engine.precision",
            "quantize.py does not know Qwen3ForCausalLM",
            "float16, bfloat16, int8, int4",
        ),
        ("DeepseekV2ForCausalLM", "1.2.1", {"precision": "int8"}, "engine.precision", "does not know", "float16, bfloat16 w"),
        (
            "Qwen2ForCausalLM",
            "0.20.0",
            {"parallelism": {"context": 2}},
            "engine.parallelism.context",
            "have --cp_size",
            "leave",
        ),
        ("FalconForCausalLM", "1.2.1", {"parallelism": {"context": 2}}, "engine.parallelism.context", "--cp_size", "leave"),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {
                "precision": "int8_sq",
                "calibration": CALIBRATION,
                "parallelism": {"context": 2},
                "options": {"convert": {"smoothquant": 0.5}},
            },
            "engine.options.convert.smoothquant",
            "no SmoothQuant for context parallelism, and the recipe asks for 2",
            "quantize.py makes int8_sq",
        ),
        (
            "MixtralForCausalLM",
            "1.2.1",
            {"precision": "fp8", "calibration": CALIBRATION, "parallelism": {"tensor": 2, "moe_expert": 2}},
            "engine.parallelism.moe_expert",
            "--moe_ep_size",
            "leave",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"use_weight_only": True}}},
            "engine.options.convert.use_weight_only",
            "not set here",
            "engine.precision",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"tp-size": 2}}},
            "engine.options.convert.tp-size",
            "not set here",
            "engine.parallelism.tensor",
        ),
        ("LlamaForCausalLM", "1.2.1", {"options": {"convert": {"dtype": "auto"}}}, None, "not set here", "engine.precision"),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"load_by_shards": True}}},
            "engine.options.convert.load_by_shards",
            "has no --load_by_shards",
            "load_by_shard",
        ),
        (
            "PhiForCausalLM",
            "1.2.1",
            {"options": {"convert": {"load_by_shard": True}}},
            None,
            "convert-phi of TensorRT-LLM 1.2.1 has no --load_by_shard",
            "help",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"per_token": True}}},
            "engine.options.convert.per_token",
            "no effect without --smoothquant",
            "leave",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"precision": "int8", "options": {"convert": {"use_fp8_rowwise": True}}},
            "engine.options.convert.use_fp8_rowwise",
            "makes fp8, and the recipe asks for int8",
            "engine.precision",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"precision": "int8_sq", "options": {"convert": {"smoothquant": 0.5}}},
            "engine.calibration",
            "no texts",
            "local",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"precision": "int8_sq", "calibration": CALIBRATION, "options": {"convert": {"smoothquant": True}}},
            "engine.options.convert.smoothquant",
            "is no number",
            None,
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"load_by_shard": True, "load_model_on_cpu": True}}},
            "engine.options.convert.load_model_on_cpu",
            "exclude each other: the script silently takes the first",
            "one of them",
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"options": {"convert": {"embedding_sharding_dim": 1}}},
            "engine.options.convert.embedding_sharding_dim",
            "no effect without --use_parallel_embedding",
            "leave",
        ),
        ("LlamaForCausalLM", "1.2.1", {"options": {"convert": {"per_group": True}}}, None, "not set here", "not made here"),
        ("LlamaForCausalLM", "1.2.1", {"options": {"convert": {"group_size": 64}}}, None, "not set here", "come with the"),
        ("LlamaForCausalLM", "1.2.1", {"options": {"convert": {"moe_top_k": 2}}}, None, "not set here", "config.json"),
        *(
            (
                "LlamaForCausalLM",
                "1.2.1",
                {"precision": precision, "calibration": CALIBRATION, "options": {"convert": {option: value}}},
                f"engine.options.convert.{option}",
                message,
                fix,
            )
            for precision, option, value, message, fix in (
                ("fp8", "awq_block_size", 64, "no effect on fp8", "leave"),
                ("int4_awq", "awq_block_size", 32, "is 32, and TensorRT-LLM has kernels for 64 and 128", "64 or 128"),
                ("fp8", "num_medusa_heads", 2, "no effect without --medusa_model_dir", "leave"),
                ("fp8", "medusa_model_dir", "/heads", "not set here", "no part of the recipe's source"),
                ("fp8", "decoder_type", "llama", "not set here", "NeMo"),
                ("fp8", "qformat", "nvfp4", "not set here", "engine.precision"),
            )
        ),
        (
            "LlamaForCausalLM",
            "1.2.1",
            {"kv_cache": "fp8", "calibration": CALIBRATION, "options": {"convert": {"quantize_lm_head": True}}},
            "engine.options.convert.quantize_lm_head",
            "no effect on float16",
            "leave",
        ),
    ],
)
def test_a_conversion_that_no_tool_does_is_refused(
    architecture: str, version: str, engine: dict[str, Any], where: str | None, message: str | None, fix: str | None
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        plan_conversion(config(architecture), recipe(**engine), version=version)
    if where is not None:
        assert caught.value.where == where
    if fix is not None:
        assert fix in (caught.value.fix or "")


@pytest.mark.parametrize("precision", ["int4_awq", "w4a8_awq"])
def test_a_vocabulary_that_awq_would_pad_with_tokens_that_do_not_exist_is_refused(precision: str) -> None:
    asked = recipe(precision=precision, calibration=CALIBRATION)
    with pytest.raises(RecipeError, match="pads the vocabulary of 32001 to a multiple of 64"):
        plan_conversion(config(vocab_size=32001), asked, version="1.2.1")
    plan_conversion(config(vocab_size=32064), asked, version="1.2.1")


@pytest.mark.parametrize(
    ("precision", "changes", "tensor", "says", "fix"),
    [
        ("int4_awq", {"hidden_size": 576}, 1, "blocks of 128 columns, and hidden_size is 576", "awq_block_size: 64"),
        ("w4a8_awq", {"intermediate_size": 1280}, 4, "intermediate_size is 320 on each of 4 GPUs", "fewer GPUs"),
        ("nvfp4", {"hidden_size": 1000}, 1, "blocks of 16 columns, and hidden_size is 1000", "fp8"),
    ],
)
def test_blocks_that_do_not_divide_a_weight_are_refused_before_the_model_is_loaded(
    precision: str, changes: dict[str, int], tensor: int, says: str, fix: str
) -> None:
    asked = recipe(precision=precision, calibration=CALIBRATION, parallelism={"tensor": tensor})
    of = config(**{"hidden_size": 1024, "head_dim": 128, "intermediate_size": 2048, **changes})
    with pytest.raises(RecipeError, match=says) as caught:
        plan_conversion(of, asked, version="1.2.1")
    assert fix in (caught.value.fix or "")
    if "awq_block_size" in fix:
        smaller = {"convert": {"awq_block_size": 64}}
        plan_conversion(of, recipe(precision=precision, calibration=CALIBRATION, options=smaller), version="1.2.1")


@pytest.mark.parametrize(
    ("engine", "field", "message"),
    [
        ({"options": {"build": {"max_lora_rank": 8}}}, "engine.options.build.max_lora_rank", "no effect without lora_plugin"),
        (
            {"options": {"build": {"lora_plugin": "auto"}}},
            "engine.options.build.lora_target_modules",
            "nothing says which matrices",
        ),
        (
            {"options": {"build": {"lora_plugin": "auto", "lora_target_modules": "attn_q q_proj"}}},
            "engine.options.build.lora_target_modules",
            "'q_proj' is no matrix that an adapter can change",
        ),
        (
            {"options": {"build": {"lora_plugin": "auto", "lora_target_modules": "attn_q attn_v attn_q"}}},
            "engine.options.build.lora_target_modules",
            "names 'attn_q' twice",
        ),
        (
            {"options": {"build": {"lora_plugin": "auto", "lora_dir": "/a organisation/adapter"}}},
            "engine.options.build.lora_dir",
            "'organisation/adapter' is no absolute path",
        ),
        ({"limits": {"max_sequence_length": 8192}}, "engine.limits.max_sequence_length", "8192 is more than the 4096"),
        ({"limits": {"max_sequence_length": 64, "max_input_length": 65}}, "engine.limits.max_input_length", "65 tokens"),
        (
            {"limits": {"max_batch_size": 2, "max_sequence_length": 64, "max_num_tokens": 129}},
            "engine.limits.max_num_tokens",
            "more than 2 sequences of 64",
        ),
        ({"limits": {"max_batch_size": 64, "max_num_tokens": 63}}, "engine.limits.max_num_tokens", "63 tokens .* 64 requests"),
        ({"options": {"build": {"max_seq_len": 99}}}, "engine.options.build.max_seq_len", "not set here"),
        ({"options": {"build": {"max_decoder_seq_len": 9}}}, "engine.options.build.max_decoder_seq_len", "not set here"),
        ({"options": {"build": {"strip_plan": True}}}, "engine.options.build.strip_plan", "not set here"),
        ({"options": {"build": {"gemm_plugins": "auto"}}}, "engine.options.build.gemm_plugins", "has no --gemm_plugins"),
        ({"options": {"build": {"gemm_plugin": "fp8"}}}, "engine.options.build.gemm_plugin", "needs a checkpoint in fp8"),
        ({"options": {"build": {"gemm_plugin": "flaot16"}}}, "engine.options.build.gemm_plugin", "did you mean 'float16'"),
        ({"options": {"build": {"tokens_per_block": "many"}}}, "engine.options.build.tokens_per_block", "no whole number"),
        (
            {"options": {"build": {"opt_num_tokens": 8, "multiple_profiles": "enable"}}},
            "engine.options.build.opt_num_tokens",
            "exclude each other",
        ),
        ({"options": {"build": {"kv_cache_type": "continuous"}}}, "engine.options.build.kv_cache_type", "only a paged"),
        (
            {"kv_cache": "int8", "options": {"build": {"use_paged_context_fmha": True}}},
            "engine.options.build.use_paged_context_fmha",
            "int8 KV cache excludes",
        ),
        (
            {"kv_cache": "fp8", "options": {"build": {"use_paged_context_fmha": True}}},
            "engine.options.build.use_paged_context_fmha",
            "fp8 KV cache with float16",
        ),
        ({"options": {"build": {"context_fmha": "disable"}}}, "engine.options.build.context_fmha", "needs context_fmha"),
        ({"options": {"build": {"use_fp8_context_fmha": "enable"}}}, "engine.options.build.use_fp8_context_fmha", "needs fp8"),
        (
            {"options": {"build": {"max_draft_len": 4, "gather_context_logits": True}}},
            "engine.options.build.max_draft_len",
            "draft tokens",
        ),
        (
            {"options": {"build": {"speculative_decoding_mode": "medusa"}}},
            "engine.options.build.speculative_decoding_mode",
            "max_draft_len",
        ),
        (
            {"options": {"build": {"tokens_per_block": 33}}},
            "engine.options.build.tokens_per_block",
            "33, which is no power of two",
        ),
        ({"options": {"build": {"workers": 0}}}, "engine.options.build.workers", "workers is 0, where 1 is the least"),
        (
            {"options": {"build": {"max_prompt_embedding_table_size": -1}}},
            "engine.options.build.max_prompt_embedding_table_size",
            "-1, where 0 is the least",
        ),
        (
            {"limits": {"max_sequence_length": 64, "max_input_length": 64}},
            "engine.limits.max_input_length",
            "a prompt of 64 tokens leaves no room for an answer in a sequence of 64",
        ),
        ({"options": {"build": {"user_buffer": True}}}, "engine.options.build.user_buffer", "needs reduce_fusion"),
        ({"options": {"build": {"reduce_fusion": True}}}, "engine.options.build.reduce_fusion", "several GPUs"),
        ({"options": {"build": {"lora_dir": "/lora"}}}, "engine.options.build.lora_dir", "without lora_plugin"),
        ({"precision": "int4", "options": {"build": {"fast_build": True}}}, "engine.options.build.fast_build", "int4"),
        ({"options": {"build": {"pp_reduce_scatter": True}}}, "engine.options.build.pp_reduce_scatter", "Mixtral"),
        ({"options": {"build": {"streamingllm": True}}}, "engine.options.build.streamingllm", "no longer supports"),
        ({"options": {"build": {"model_cls_file": "x.py"}}}, "engine.options.build.model_cls_file", "not set here"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(engine: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        plan_build(config(), recipe(**engine), version="1.2.1", sm="90")
    assert caught.value.where == field
    assert caught.value.fix or "did you mean" in str(caught.value) or "number" in str(caught.value)


@pytest.mark.parametrize("plugin", ["gemm_swiglu_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin"])
def test_plugins_that_datacenter_blackwell_lacks_are_refused_there_alone(plugin: str) -> None:
    asked = recipe(precision="fp8", options={"build": {plugin: "fp8"}})
    with pytest.raises(RecipeError, match=f"refuses {plugin} on SM 100"):
        plan_build(config(), asked, version="1.2.1", sm="100")
    assert plan_build(config(), asked, version="1.2.1", sm="90")[f"--{plugin}"] == "fp8"
