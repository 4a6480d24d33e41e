"""Random recipes for every family, release and GPU: no line that is written is ever refused."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginepress.engines.tensorrt_llm import places
from enginepress.engines.tensorrt_llm.build_command import plan_build
from enginepress.engines.tensorrt_llm.convert_command import plan_conversion
from enginepress.engines.tensorrt_llm.options import command_line
from enginepress.engines.tensorrt_llm.quantize_rules import CALIBRATED
from enginepress.recipe import Recipe
from tests.engines.tensorrt_llm.lines import taken, unless_refused
from tests.engines.tensorrt_llm.samples import ALL, CALIBRATION, RELEASES, config, recipe

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
    "lora_target_modules": st.sampled_from(["attn_q attn_v", "attn_qkv", "mlp_gate", "q_proj"]),
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
    wanted = engine["precision"] in CALIBRATED or engine["kv_cache"] is not None
    if wanted == draw(st.sampled_from([True, True, True, False])):
        engine["calibration"] = CALIBRATION
    return recipe(**engine)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=_recipes(),
    architecture=st.sampled_from(ALL),
    version=st.sampled_from(RELEASES),
    sm=st.sampled_from(["80", "89", "90", "100", "120"]),
)
def test_no_line_that_is_written_is_ever_refused_by_its_tool(asked: Recipe, architecture: str, version: str, sm: str) -> None:
    conversion = unless_refused(lambda: plan_conversion(config(architecture), asked, version=version))
    if conversion is not None:
        parsed = taken(conversion.tool, version, conversion.command)
        assert conversion.calibrates == (parsed.get("calib_dataset") == places.CALIBRATION)
    build = unless_refused(lambda: plan_build(config(architecture), asked, version=version, sm=sm))
    if build is not None:
        parsed = taken("trtllm-build", version, command_line(build))
        assert parsed["max_batch_size"] == asked.engine.limits.max_batch_size
        assert not (parsed["multiple_profiles"] == "enable" and parsed["opt_num_tokens"] is not None)
