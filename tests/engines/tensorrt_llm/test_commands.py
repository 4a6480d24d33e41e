"""The command lines: what each recipe becomes for each family and release, and that no tool would refuse one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines.tensorrt_llm import commands, places
from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, FAMILIES, release_of
from enginepress.engines.tensorrt_llm.build_command import limits_of, plan_build
from enginepress.engines.tensorrt_llm.convert_command import plan_conversion
from enginepress.engines.tensorrt_llm.options import command_line
from enginepress.errors import RecipeError
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.lines import taken, unless_refused, value
from tests.engines.tensorrt_llm.samples import ALL, CALIBRATION, RELEASES, config, recipe


def _convert(version: str = "1.2.1", architecture: str = "LlamaForCausalLM", **engine: Any) -> list[str]:
    plan = plan_conversion(config(architecture), recipe(**engine), version=version)
    taken(plan.tool, version, plan.command)
    return [plan.tool, *plan.command]


def _build(version: str = "1.2.1", architecture: str = "LlamaForCausalLM", sm: str = "90", **engine: Any) -> list[str]:
    line = command_line(plan_build(config(architecture), recipe(**engine), version=version, sm=sm))
    taken("trtllm-build", version, line)
    return line


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
    assert value(line, "--model-dir") == places.CHECKPOINT
    assert value(line, "--output-model-dir") == places.CONVERTED
    assert value(line, "--world-size") == "2"
    assert value(line, "--ckpt-type") == "hf"
    assert value(line, "--use-weight-only-with-precision") == "int8"


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
    assert value(plan.command, "--model_version") == version


@pytest.mark.parametrize("precision", ["fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq"])
def test_what_is_calibrated_goes_by_quantize_with_local_texts(precision: str) -> None:
    line = _convert(precision=precision, calibration=CALIBRATION)
    assert line[0] == "quantize"
    assert value(line, "--qformat") == precision
    assert value(line, "--calib_dataset") == places.CALIBRATION
    assert value(line, "--calib_size") == ("32" if "awq" in precision else "64")
    assert value(line, "--dtype") == "bfloat16"


@pytest.mark.parametrize(("precision", "algorithm"), [("int8", "int8"), ("int4", "int4")])
def test_weights_alone_are_rounded_by_the_script_without_texts(precision: str, algorithm: str) -> None:
    line = _convert(precision=precision)
    assert line[0] == "convert-llama"
    assert "--use_weight_only" in line
    assert value(line, "--weight_only_precision") == algorithm


@pytest.mark.parametrize(("precision", "qformat"), [("bfloat16", "full_prec"), ("int8", "int8_wo"), ("fp8", "fp8")])
@pytest.mark.parametrize("cache", ["fp8", "int8"])
def test_a_quantized_cache_goes_by_quantize(precision: str, qformat: str, cache: str) -> None:
    line = _convert(precision=precision, kv_cache=cache, calibration=CALIBRATION)
    assert line[0] == "quantize"
    assert (value(line, "--qformat"), value(line, "--kv_cache_dtype")) == (qformat, cache)


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
    assert value(line, "--use_paged_context_fmha") == paged
    assert value(line, "--use_fp8_context_fmha") == fp8


def test_gemm_plugin_follows_precision_and_release() -> None:
    assert value(_build(precision="float16"), "--gemm_plugin") == "auto"
    assert value(_build(precision="fp8"), "--gemm_plugin") == "disable"
    assert value(_build(precision="nvfp4"), "--gemm_plugin") == "nvfp4"
    assert "--gemm_plugin" not in _build("0.21.0", precision="nvfp4")


def test_reduce_fusion_only_where_the_tool_has_it() -> None:
    assert value(_build(parallelism={"tensor": 2}), "--reduce_fusion") == "enable"
    assert value(_build(), "--reduce_fusion") == "disable"
    assert value(_build(architecture="MistralForCausalLM", parallelism={"tensor": 2}), "--reduce_fusion") == "disable"


def test_limits_become_flags() -> None:
    limits = {
        "max_batch_size": 16,
        "max_sequence_length": 2048,
        "max_input_length": 1024,
        "max_num_tokens": 4096,
        "max_beam_width": 2,
    }
    line = _build(limits=limits)
    assert [value(line, f"--{n}") for n in ("max_batch_size", "max_seq_len", "max_input_len", "max_num_tokens")] == [
        "16",
        "2048",
        "1024",
        "4096",
    ]
    assert value(line, "--max_beam_width") == "2"


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
    limits = unless_refused(lambda: limits_of(config(), asked))
    if limits is not None:
        assert limits["max_num_tokens"] <= min(8192, limits["max_seq_len"] * batch)
        assert limits["max_num_tokens"] >= batch * beams
        assert limits["max_input_len"] <= limits["max_seq_len"]
    else:
        assert batch * beams > 8192 or beams > (length or 4096)


def test_ranks_are_built_on_as_many_gpus_as_there_are() -> None:
    assert value(_build(parallelism={"tensor": 8, "pipeline": 2}), "--workers") == "8"
    assert value(_build(gpu={"name": "H100-SXM5-80GB"}, parallelism={"tensor": 2}), "--workers") == "1"


def test_options_replace_what_no_field_governs() -> None:
    line = _build(options={"build": {"tokens_per_block": 64, "gemm_plugin": "bfloat16", "multiple_profiles": False}})
    assert line.count("--tokens_per_block") == 1
    assert value(line, "--tokens_per_block") == "64"
    assert value(line, "--multiple_profiles") == "disable"
    line = _convert(options={"convert": {"load_by_shard": True, "workers": 2}})
    assert "--load_by_shard" in line
    assert value(line, "--workers") == "2"


def test_optimal_tokens_turn_profiles_off() -> None:
    line = _build(options={"build": {"opt_num_tokens": 64}})
    assert (value(line, "--opt_num_tokens"), value(line, "--multiple_profiles")) == ("64", "disable")


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
    assert (value(line, "--smoothquant"), value(line, "--calib_dataset")) == ("0.5", places.CALIBRATION)


def test_a_flag_that_only_some_reading_has_may_be_asked_for() -> None:
    plan = plan_build(config(), recipe(options={"build": {"norm_quant_fusion": "enable"}}), version="0.20.0", sm="90")
    assert plan["--norm_quant_fusion"] == "enable"


@pytest.mark.parametrize("version", RELEASES)
def test_a_flag_that_takes_several_values_gets_each_by_itself(version: str) -> None:
    """As one argument, trtllm-build takes "attn_q attn_v" for the name of one module, which it does not know."""
    build = {"lora_plugin": "auto", "lora_target_modules": "attn_q attn_v", "max_lora_rank": 8}
    asked = recipe(options={"build": build})
    line = command_line(plan_build(config("LlamaForCausalLM"), asked, version=version, sm="90"))
    at = line.index("--lora_target_modules")
    assert line[at + 1 : at + 3] == ["attn_q", "attn_v"]
    assert line[at + 3].startswith("--")
    assert taken("trtllm-build", version, line)["lora_target_modules"] == ["attn_q", "attn_v"]
