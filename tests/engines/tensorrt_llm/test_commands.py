"""The command lines: what each recipe becomes for each family and release, and that no tool would refuse one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginepress.engines.tensorrt_llm import commands, places
from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, FAMILIES, release_of
from enginepress.engines.tensorrt_llm.build_command import limits_of, plan_build
from enginepress.engines.tensorrt_llm.convert_command import plan_conversion
from enginepress.engines.tensorrt_llm.options import command_line
from enginepress.errors import EnginepressError, RecipeError
from enginepress.recipe import Recipe
from tests.engines.stand_ins.parser import make_parser, readings_of
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.samples import ALL, CALIBRATION, RELEASES, config, recipe

T = TypeVar("T")


def _value(line: list[str], flag: str) -> str | None:
    return line[line.index(flag) + 1] if flag in line else None


def _takes(tool: str, version: str, line: list[str]) -> dict[str, Any]:
    """What the tool makes of the line; every reading of the release must take it."""
    parsed: dict[str, Any] = {}
    for reading in readings_of(tool, ".".join(version.split(".")[:2])):
        parsed = vars(make_parser(tool, reading, raises=True).parse_args(line))
    return parsed


def _convert(version: str = "1.2.1", architecture: str = "LlamaForCausalLM", **engine: Any) -> list[str]:
    plan = plan_conversion(config(architecture), recipe(**engine), version=version)
    _takes(plan.tool, version, plan.command)
    return [plan.tool, *plan.command]


def _build(version: str = "1.2.1", architecture: str = "LlamaForCausalLM", sm: str = "90", **engine: Any) -> list[str]:
    line = command_line(plan_build(config(architecture), recipe(**engine), version=version, sm=sm))
    _takes("trtllm-build", version, line)
    return line


# ------------------------------------------------------------------------------------------------------------------
# Examples
# ------------------------------------------------------------------------------------------------------------------


WHOLE_CONVERSION = """
python3 /app/examples/models/core/llama/convert_checkpoint.py --model_dir checkpoint --output_dir converted --dtype bfloat16
--tp_size 2 --pp_size 1 --cp_size 1 --workers 1
"""
WHOLE_BUILD = """
trtllm-build --checkpoint_dir converted --output_dir engine
--max_batch_size 8 --max_input_len 4096 --max_seq_len 4096 --max_num_tokens 4096 --max_beam_width 1
--kv_cache_type paged --gpt_attention_plugin auto --gemm_plugin auto --moe_plugin auto --nccl_plugin auto --lora_plugin disable
--context_fmha enable --use_paged_context_fmha enable --use_fp8_context_fmha disable --remove_input_padding enable
--tokens_per_block 32 --multiple_profiles enable --reduce_fusion enable --user_buffer disable --use_fused_mlp enable
--pp_reduce_scatter disable --logits_dtype float32 --workers 2 --profiling_verbosity layer_names_only --log_level info
--input_timing_cache timings-read.cache --output_timing_cache timings-written.cache
"""


def test_the_whole_of_a_plain_llama(on: Enter) -> None:
    lines = commands(config(), recipe(precision="bfloat16", parallelism={"tensor": 2}))
    assert lines == [WHOLE_CONVERSION.split(), WHOLE_BUILD.split()]


def test_before_0_19_the_scripts_lie_elsewhere(on: Enter) -> None:
    on("0.18.2")
    assert commands(config(), recipe())[0][1] == "/app/examples/llama/convert_checkpoint.py"
    assert commands(config("ChatGLMModel"), recipe())[0][1] == "/app/examples/chatglm/convert_checkpoint.py"
    on("0.19.0")
    assert commands(config("ChatGLMModel"), recipe())[0][1] == "/app/examples/models/core/glm-4-9b/convert_checkpoint.py"


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("architecture", ALL)
def test_every_family_converts_in_float16_in_every_release_that_has_it(architecture: str, version: str) -> None:
    if release_of(version) >= release_of(ARCHITECTURES[architecture].since):
        line = _convert(version, architecture)
        assert line[0] == FAMILIES[ARCHITECTURES[architecture].family].contract
        assert "--calib_dataset" not in line
        _build(version, architecture)


def test_gemma_has_names_of_its_own() -> None:
    line = _convert("0.18.2", "GemmaForCausalLM", parallelism={"tensor": 2}, precision="int8")
    assert _value(line, "--model-dir") == places.CHECKPOINT
    assert _value(line, "--output-model-dir") == places.CONVERTED
    assert _value(line, "--world-size") == "2"
    assert _value(line, "--ckpt-type") == "hf"
    assert _value(line, "--use-weight-only-with-precision") == "int8"


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"vocab_size": 64000, "hidden_size": 4096}, "v1_7b"),
        ({"vocab_size": 64000, "hidden_size": 5120}, "v1_13b"),
        ({"vocab_size": 125696, "hidden_size": 4096}, "v2_7b"),
        ({"vocab_size": 125696, "hidden_size": 5120}, "v2_13b"),
    ],
)
def test_baichuan_is_told_which_of_four_it_is(changes: dict[str, int], version: str) -> None:
    plan = plan_conversion(config("BaichuanForCausalLM", **changes), recipe(), version="1.2.1")
    assert _value(plan.command, "--model_version") == version


@pytest.mark.parametrize("precision", ["fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq"])
def test_what_is_calibrated_goes_by_quantize_with_local_texts(precision: str) -> None:
    line = _convert(precision=precision, calibration=CALIBRATION)
    assert line[0] == "quantize"
    assert _value(line, "--qformat") == precision
    assert _value(line, "--calib_dataset") == places.CALIBRATION
    assert _value(line, "--calib_size") == ("32" if "awq" in precision else "64")
    assert _value(line, "--dtype") == "bfloat16"


@pytest.mark.parametrize(("precision", "algorithm"), [("int8", "int8"), ("int4", "int4")])
def test_weights_alone_are_rounded_by_the_script_without_texts(precision: str, algorithm: str) -> None:
    line = _convert(precision=precision)
    assert line[0] == "convert-llama"
    assert "--use_weight_only" in line
    assert _value(line, "--weight_only_precision") == algorithm


@pytest.mark.parametrize(("precision", "qformat"), [("bfloat16", "full_prec"), ("int8", "int8_wo"), ("fp8", "fp8")])
@pytest.mark.parametrize("cache", ["fp8", "int8"])
def test_a_quantized_cache_goes_by_quantize(precision: str, qformat: str, cache: str) -> None:
    line = _convert(precision=precision, kv_cache=cache, calibration=CALIBRATION)
    assert line[0] == "quantize"
    assert (_value(line, "--qformat"), _value(line, "--kv_cache_dtype")) == (qformat, cache)


@pytest.mark.parametrize(
    ("precision", "cache", "paged", "fp8"),
    [
        ("float16", None, "enable", "disable"),
        ("fp8", "fp8", "enable", "enable"),
        ("fp8", None, "enable", "disable"),
        ("fp8", "int8", "disable", "disable"),
        ("int4_awq", "fp8", "disable", "disable"),
        ("bfloat16", "int8", "disable", "disable"),
    ],
)
def test_kernels_for_prompts_follow_the_cache(precision: str, cache: str | None, paged: str, fp8: str) -> None:
    line = _build(precision=precision, kv_cache=cache)
    assert _value(line, "--use_paged_context_fmha") == paged
    assert _value(line, "--use_fp8_context_fmha") == fp8


def test_gemm_plugin_follows_precision_and_release() -> None:
    assert _value(_build(precision="float16"), "--gemm_plugin") == "auto"
    assert _value(_build(precision="fp8"), "--gemm_plugin") == "disable"
    assert _value(_build(precision="nvfp4"), "--gemm_plugin") == "nvfp4"
    assert "--gemm_plugin" not in _build("0.21.0", precision="nvfp4")


def test_reduce_fusion_only_where_the_tool_has_it() -> None:
    assert _value(_build(parallelism={"tensor": 2}), "--reduce_fusion") == "enable"
    assert _value(_build(), "--reduce_fusion") == "disable"
    assert _value(_build(architecture="MistralForCausalLM", parallelism={"tensor": 2}), "--reduce_fusion") == "disable"


def test_limits_become_flags() -> None:
    limits = {
        "max_batch_size": 16,
        "max_sequence_length": 2048,
        "max_input_length": 1024,
        "max_num_tokens": 4096,
        "max_beam_width": 2,
    }
    line = _build(limits=limits)
    assert [_value(line, f"--{n}") for n in ("max_batch_size", "max_seq_len", "max_input_len", "max_num_tokens")] == [
        "16",
        "2048",
        "1024",
        "4096",
    ]
    assert _value(line, "--max_beam_width") == "2"


@pytest.mark.parametrize(
    ("scaling", "most"),
    [
        (None, 4096),
        ({"rope_type": "yarn", "factor": 4.0}, 16384),
        ({"type": "linear", "factor": 2}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 4096),
        ({"rope_type": "longrope", "factor": 8.0}, 4096),
    ],
)
def test_a_stretched_rotary_embedding_allows_longer_sequences(scaling: dict[str, Any] | None, most: int) -> None:
    stretched = config(rope_scaling=scaling)
    limits = {"max_sequence_length": most}
    assert limits_of(stretched, recipe(limits=limits))["max_seq_len"] == most
    assert limits_of(stretched, recipe())["max_seq_len"] == 4096
    with pytest.raises(RecipeError, match=f"{most + 1} is more than the {most} tokens"):
        limits_of(stretched, recipe(limits={"max_sequence_length": most + 1}))


@given(
    batch=st.integers(1, 4096),
    length=st.one_of(st.none(), st.integers(8, 4096)),
    beams=st.integers(1, 8),
)
def test_default_limits_are_ones_that_the_tool_leaves_alone(batch: int, length: int | None, beams: int) -> None:
    asked = recipe(limits={"max_batch_size": batch, "max_sequence_length": length, "max_beam_width": beams})
    limits = _unless_refused(lambda: limits_of(config(), asked))
    if limits is not None:
        assert limits["max_num_tokens"] <= min(8192, limits["max_seq_len"] * batch)
        assert limits["max_num_tokens"] >= batch * beams
        assert limits["max_input_len"] <= limits["max_seq_len"]
    else:
        assert batch * beams > 8192 or beams > (length or 4096)


def test_ranks_are_built_on_as_many_gpus_as_there_are() -> None:
    assert _value(_build(parallelism={"tensor": 8, "pipeline": 2}), "--workers") == "8"
    assert _value(_build(gpu={"name": "H100-SXM5-80GB"}, parallelism={"tensor": 2}), "--workers") == "1"


def test_options_replace_what_no_field_governs() -> None:
    line = _build(options={"build": {"tokens_per_block": 64, "gemm_plugin": "bfloat16", "multiple_profiles": False}})
    assert line.count("--tokens_per_block") == 1
    assert _value(line, "--tokens_per_block") == "64"
    assert _value(line, "--multiple_profiles") == "disable"
    line = _convert(options={"convert": {"load_by_shard": True, "workers": 2}})
    assert "--load_by_shard" in line
    assert _value(line, "--workers") == "2"


def test_optimal_tokens_turn_profiles_off() -> None:
    line = _build(options={"build": {"opt_num_tokens": 64}})
    assert (_value(line, "--opt_num_tokens"), _value(line, "--multiple_profiles")) == ("64", "disable")


def test_rowwise_fp8_and_smoothquant_go_by_the_script() -> None:
    line = _convert(precision="fp8", options={"convert": {"use_fp8_rowwise": True}})
    assert line[0] == "convert-llama"
    assert "--use_fp8_rowwise" in line
    line = _convert(
        precision="int8_sq",
        calibration=CALIBRATION,
        options={"convert": {"smoothquant": 0.5, "per_token": True, "per_channel": True}},
    )
    assert line[0] == "convert-llama"
    assert (_value(line, "--smoothquant"), _value(line, "--calib_dataset")) == ("0.5", places.CALIBRATION)


def test_a_flag_that_only_some_reading_has_may_be_asked_for() -> None:
    plan = plan_build(config(), recipe(options={"build": {"norm_quant_fusion": "enable"}}), version="0.20.0", sm="90")
    assert plan["--norm_quant_fusion"] == "enable"


# ------------------------------------------------------------------------------------------------------------------
# Refusals
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "version", "engine", "where", "message", "fix"),
    [
        ("LlamaForCausalLM", "1.2.1", {"precision": "fp8"}, "engine.calibration", "no texts", "engine.calibration.data"),
        ("LlamaForCausalLM", "1.2.1", {"kv_cache": "int8"}, "engine.calibration", "KV cache in int8", "downloaded"),
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


@pytest.mark.parametrize(
    ("engine", "field", "message"),
    [
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


# ------------------------------------------------------------------------------------------------------------------
# Properties
# ------------------------------------------------------------------------------------------------------------------

_CONVERT_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "load_by_shard": st.booleans(),
    "load_model_on_cpu": st.booleans(),
    "use_parallel_embedding": st.booleans(),
    "embedding_sharding_dim": st.sampled_from([0, 1]),
    "workers": st.integers(1, 8),
    "log_level": st.just("info"),
    "seed": st.integers(0, 9),
    "awq_block_size": st.sampled_from([64, 128]),
}
_BUILD_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "gemm_plugin": st.sampled_from(["auto", "float16", "bfloat16", "disable", "fp8", "nvfp4"]),
    "multiple_profiles": st.sampled_from(["enable", "disable", True, False]),
    "opt_num_tokens": st.integers(1, 512),
    "tokens_per_block": st.sampled_from([32, 64, 128]),
    "use_paged_context_fmha": st.booleans(),
    "use_fp8_context_fmha": st.booleans(),
    "reduce_fusion": st.booleans(),
    "user_buffer": st.booleans(),
    "gather_context_logits": st.booleans(),
    "max_draft_len": st.integers(0, 8),
    "weight_streaming": st.booleans(),
    "lora_plugin": st.sampled_from(["auto", "disable"]),
    "profiling_verbosity": st.sampled_from(["detailed", "none"]),
    "logits_dtype": st.sampled_from(["float16", "float32"]),
    "workers": st.integers(1, 8),
}


def _some(options: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.sets(st.sampled_from(sorted(options)), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: options[name] for name in names})
    )


@st.composite
def _recipes(draw: st.DrawFn) -> Recipe:
    power = st.sampled_from([1, 1, 1, 2, 4, 8])
    parallelism: dict[str, int] = {"tensor": draw(power), "pipeline": draw(power), "context": draw(st.sampled_from([1, 1, 1, 2]))}
    if draw(st.booleans()):
        parallelism["moe_expert"] = parallelism["tensor"]
    limits: dict[str, int] = {"max_batch_size": draw(st.integers(1, 4096)), "max_beam_width": draw(st.sampled_from([1, 1, 4]))}
    if draw(st.booleans()):
        limits["max_sequence_length"] = draw(st.integers(8, 5000))
    if draw(st.booleans()):
        limits["max_num_tokens"] = draw(st.integers(1, 20_000))
    engine: dict[str, Any] = {
        "precision": draw(st.sampled_from(sorted(["float32", "float16", "bfloat16", "int8", "int4", "fp8", "nvfp4"])))
        if draw(st.booleans())
        else draw(st.sampled_from(["int8_sq", "int4_awq", "w4a8_awq", "fp8"])),
        "kv_cache": draw(st.sampled_from([None, None, "fp8", "int8", "nvfp4"])),
        "parallelism": parallelism,
        "limits": limits,
        "options": {"convert": draw(_some(_CONVERT_OPTIONS)), "build": draw(_some(_BUILD_OPTIONS))},
    }
    if draw(st.sampled_from([True, True, False])):
        engine["calibration"] = CALIBRATION
    return recipe(**engine)


def _unless_refused(plan: Callable[[], T]) -> T | None:
    """What was planned, or None if it was refused, which must name a field."""
    error: EnginepressError
    try:
        return plan()
    except EnginepressError as caught:
        error = caught
    assert error.where is not None
    return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=_recipes(),
    architecture=st.sampled_from(ALL),
    version=st.sampled_from(RELEASES),
    sm=st.sampled_from(["80", "89", "90", "100", "120"]),
)
def test_no_line_that_is_written_is_ever_refused_by_its_tool(asked: Recipe, architecture: str, version: str, sm: str) -> None:
    conversion = _unless_refused(lambda: plan_conversion(config(architecture), asked, version=version))
    if conversion is not None:
        parsed = _takes(conversion.tool, version, conversion.command)
        assert conversion.calibrates == (parsed.get("calib_dataset") == places.CALIBRATION)
    build = _unless_refused(lambda: plan_build(config(architecture), asked, version=version, sm=sm))
    if build is not None:
        parsed = _takes("trtllm-build", version, command_line(build))
        assert parsed["max_batch_size"] == asked.engine.limits.max_batch_size
        assert not (parsed["multiple_profiles"] == "enable" and parsed["opt_num_tokens"] is not None)
