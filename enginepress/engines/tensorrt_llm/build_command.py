"""The command line that builds engines of a TensorRT-LLM checkpoint: `trtllm-build`.

Every limit and every plugin that matters is written out, since defaults moved between releases: `tokens_per_block` from 64
to 32, `use_paged_context_fmha` and `use_fp8_context_fmha` from off to on, and the length of a sequence is otherwise taken
from the model, which sizes engines for contexts that nobody asked for. What excludes each other is refused here: the tool
overrides it with a line in its log, or fails after it has loaded the weights (tensorrt_llm/builder.py: `build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginepress.engines.prompts import paged_context
from enginepress.engines.tensorrt_llm import contracts, places
from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, FAMILIES, architecture_name, release_of
from enginepress.engines.tensorrt_llm.model import context_of, longest_sequence
from enginepress.engines.tensorrt_llm.options import Arguments, enabled, merge_options
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.repository.plans.nearest import nearest

MAX_NUM_TOKENS = 8192
TOKENS_PER_BLOCK = 32

REFUSED_ON = {
    "100": (
        "gemm_swiglu_plugin",
        "fp8_rowwise_gemm_plugin",
        "low_latency_gemm_plugin",
        "low_latency_gemm_swiglu_plugin",
        "bert_context_fmha_fp32_acc",
    )
}
"""Plugins that TensorRT-LLM refuses by SM (tensorrt_llm/plugin/plugin.py: `PluginConfig.validate`)."""

ADAPTED = (
    *("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "cross_attn_qkv"),
    *("cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense", "moe_h_to_4h", "moe_4h_to_h", "moe_gate"),
    *("moe_router", "mlp_router", "mlp_gate_up"),
)
"""Matrices that an adapter may change, by trtllm-build's names (NVIDIA/TensorRT-LLM tensorrt_llm/lora_manager.py
@007e181b5366648aa9b0fda4ec43f508a586bcd8: `LORA_MODULE_IDS`). A release may have fewer; its own `--help` is asked for those."""

_LIMITS = "use engine.limits"
GOVERNED: dict[str, str] = {
    "checkpoint_dir": "it is the recipe's source, converted",
    "model_config": "it is the recipe's source, converted",
    "output_dir": "the workspace decides that",
    "build_config": "name single flags: a file replaces the limits that the recipe asks for",
    "model_cls_file": "leave it out: it runs Python code that belongs to no checkpoint",
    "model_cls_name": "leave it out: it runs Python code that belongs to no checkpoint",
    "max_batch_size": f"{_LIMITS}.max_batch_size",
    "max_input_len": f"{_LIMITS}.max_input_length",
    "max_seq_len": f"{_LIMITS}.max_sequence_length",
    "max_decoder_seq_len": f"{_LIMITS}.max_sequence_length",
    "max_num_tokens": f"{_LIMITS}.max_num_tokens",
    "max_beam_width": f"{_LIMITS}.max_beam_width",
    "input_timing_cache": "set ENGINEPRESS_TIMING_CACHE to a folder that is kept between builds",
    "output_timing_cache": "set ENGINEPRESS_TIMING_CACHE to a folder that is kept between builds",
    "auto_parallel": "use engine.parallelism",
    "gpus_per_node": "use engine.gpu.count",
    "cluster_key": "use engine.gpu.name",
    "paged_kv_cache": "use kv_cache_type",
    "dry_run": "leave it out: it makes no engine",
    "strip_plan": "leave it out: an engine without weights cannot be served",
}


def limits_of(config: Mapping[str, Any], recipe: Recipe) -> dict[str, int]:
    """The engine's limits by trtllm-build's names, in requests and tokens.

    Raises:
        RecipeError: for limits that contradict each other or the model.
    """
    limits, context = recipe.engine.limits, context_of(config)
    length = limits.max_sequence_length or context
    if length is None:
        raise RecipeError(
            "config.json does not say for how many tokens the model was made",
            where="engine.limits.max_sequence_length",
            fix="set it",
        )
    if (most := longest_sequence(config)) is not None and length > most:
        raise RecipeError(
            f"{length} is more than the {most} tokens that the model was made for ('max_position_embeddings')",
            where="engine.limits.max_sequence_length",
            fix=f"set it to {most} or less, or leave it out",
        )
    longest = limits.max_input_length or length
    if longest > length:
        raise RecipeError(
            f"a prompt of {longest} tokens does not fit into a sequence of {length}",
            where="engine.limits.max_input_length",
            fix=f"set it to {length - 1} or less, or raise engine.limits.max_sequence_length",
        )
    if limits.max_input_length == length:
        raise RecipeError(
            f"a prompt of {longest} tokens leaves no room for an answer in a sequence of {length}",
            where="engine.limits.max_input_length",
            fix=f"set it to {length - 1} or less, raise engine.limits.max_sequence_length, or leave it out",
        )
    all_tokens = length * limits.max_batch_size
    tokens = limits.max_num_tokens or min(MAX_NUM_TOKENS, max(length, limits.max_batch_size * limits.max_beam_width), all_tokens)
    if tokens > all_tokens:
        raise RecipeError(
            f"{tokens} tokens in one pass are more than {limits.max_batch_size} sequences of {length} can have, "
            "so that trtllm-build would lower it",
            where="engine.limits.max_num_tokens",
            fix=f"set it to {all_tokens} or less",
        )
    if tokens < limits.max_batch_size * limits.max_beam_width:
        raise RecipeError(
            f"{tokens} tokens in one pass are fewer than one for each of {limits.max_batch_size} requests"
            + (f" with {limits.max_beam_width} beams" if limits.max_beam_width > 1 else ""),
            where="engine.limits.max_num_tokens",
            fix=f"set it to {limits.max_batch_size * limits.max_beam_width} or more, or lower engine.limits.max_batch_size",
        )
    return {
        "max_batch_size": limits.max_batch_size,
        "max_input_len": longest,
        "max_seq_len": length,
        "max_num_tokens": tokens,
        "max_beam_width": limits.max_beam_width,
    }


def plan_build(config: Mapping[str, Any], recipe: Recipe, *, version: str, sm: str) -> Arguments:
    """trtllm-build's arguments.

    Args:
        sm: of the GPU that builds and serves, e.g. "90".

    Raises:
        RecipeError: for limits, plugins or options that do not fit together, naming the field.
    """
    contract = contracts.load("trtllm-build", version)
    engine, name = recipe.engine, architecture_name(config)
    quantized = engine.precision == "fp8"
    wanted: Arguments = {
        "--checkpoint_dir": places.CONVERTED,
        "--output_dir": places.ENGINE,
        **{f"--{flag}": str(value) for flag, value in limits_of(config, recipe).items()},
        "--kv_cache_type": "paged",
        "--gpt_attention_plugin": "auto",
        "--gemm_plugin": _gemm_plugin(engine.precision),
        "--moe_plugin": "auto",
        "--nccl_plugin": "auto",
        "--lora_plugin": "disable",
        "--context_fmha": "enable",
        "--use_paged_context_fmha": "enable" if paged_context(recipe) else "disable",
        "--use_fp8_context_fmha": "enable" if quantized and engine.kv_cache == "fp8" else "disable",
        "--remove_input_padding": "enable",
        "--tokens_per_block": str(TOKENS_PER_BLOCK),
        "--multiple_profiles": "enable",
        # Of other architectures, trtllm-build turns it off again.
        "--reduce_fusion": "enable" if engine.parallelism.tensor > 1 and name == "LlamaForCausalLM" else "disable",
        "--user_buffer": "disable",
        "--use_fused_mlp": "enable",
        "--pp_reduce_scatter": "disable",
        "--logits_dtype": "float32",
        "--workers": str(_workers(recipe)),
        "--profiling_verbosity": "layer_names_only",
        "--log_level": "info",
        "--input_timing_cache": places.TIMINGS_READ,
        "--output_timing_cache": places.TIMINGS_WRITTEN,
    }
    if name in ARCHITECTURES and FAMILIES[ARCHITECTURES[name].family].recurrent:
        wanted |= {"--paged_state": "enable", "--mamba_conv1d_plugin": "auto"}
    ours = {flag: value for flag, value in wanted.items() if contract.takes(flag, value)}
    if engine.options.build.get("opt_num_tokens") is not None and "multiple_profiles" not in engine.options.build:
        ours["--multiple_profiles"] = "disable"
    merged = merge_options(ours, engine.options.build, contract, GOVERNED, where="engine.options.build")
    _check_together(merged, config, recipe, version=version, sm=sm)
    return merged


def _gemm_plugin(precision: str) -> str:
    """As NVIDIA advises (docs: useful build-time flags): on for 16 bits, off for fp8, where TensorRT's own kernels win."""
    return {"fp8": "disable", "nvfp4": "nvfp4"}.get(precision, "auto")


def _workers(recipe: Recipe) -> int:
    """Ranks built at a time, one on a GPU."""
    gpus = recipe.engine.gpu.count if recipe.engine.gpu is not None else 1
    return min(recipe.engine.parallelism.world_size, gpus)


def _check_together(
    arguments: Mapping[str, str | None], config: Mapping[str, Any], recipe: Recipe, *, version: str, sm: str
) -> None:
    """Raises RecipeError for the first flag that excludes another one, or this GPU or model."""
    engine = recipe.engine

    def on(flag: str) -> bool:
        return enabled(arguments, f"--{flag}")

    def refuse(flag: str, message: str, fix: str = "leave one of them out") -> None:
        raise RecipeError(message, where=f"engine.options.build.{flag}", fix=fix)

    for flag in REFUSED_ON.get(sm, ()):
        if on(flag):
            refuse(flag, f"TensorRT-LLM refuses {flag} on SM {sm}", fix="leave it out")
    if on("multiple_profiles") and "--opt_num_tokens" in arguments:
        refuse("opt_num_tokens", "opt_num_tokens and multiple_profiles exclude each other")
    if arguments.get("--kv_cache_type", "paged") != "paged":
        refuse("kv_cache_type", "only a paged KV cache can be served with requests in flight", fix="leave it out")
    if on("use_paged_context_fmha"):
        if engine.kv_cache == "int8":
            refuse("use_paged_context_fmha", "an int8 KV cache excludes use_paged_context_fmha")
        if engine.kv_cache == "fp8" and engine.precision not in ("fp8", "nvfp4"):
            refuse("use_paged_context_fmha", f"an fp8 KV cache with {engine.precision} excludes use_paged_context_fmha")
        if not on("context_fmha"):
            refuse("context_fmha", "use_paged_context_fmha needs context_fmha", fix="turn both off, or neither")
    if on("use_fp8_context_fmha") and engine.precision not in ("fp8", "nvfp4"):
        refuse("use_fp8_context_fmha", f"use_fp8_context_fmha needs fp8, not {engine.precision}", fix="leave it out")
    for flag in ("gemm_plugin", "gemm_swiglu_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin"):
        value = arguments.get(f"--{flag}")
        if value in ("fp8", "nvfp4") and value != engine.precision:
            refuse(flag, f"{flag}: {value} needs a checkpoint in {value}, not {engine.precision}", fix="leave it out")
    for flag, least in (("workers", 1), ("tokens_per_block", 1), ("max_prompt_embedding_table_size", 0)):
        number = int(arguments.get(f"--{flag}") or least)
        if number < least:
            refuse(flag, f"{flag} is {number}, where {least} is the least", fix=f"set it to {least} or more, or leave it out")
        if flag == "tokens_per_block" and number & (number - 1):
            refuse(
                flag, f"tokens_per_block is {number}, which is no power of two", fix="set it to 32, 64 or 128, or leave it out"
            )
    draft = int(arguments.get("--max_draft_len") or 0)
    if draft and (on("gather_context_logits") or on("gather_all_token_logits")):
        refuse("max_draft_len", "logits of prompts cannot be gathered with draft tokens")
    if on("speculative_decoding_mode") and not draft:
        refuse("speculative_decoding_mode", "speculative decoding needs max_draft_len", fix="set max_draft_len as well")
    if on("user_buffer") and not on("reduce_fusion"):
        refuse("user_buffer", "user_buffer needs reduce_fusion", fix="leave it out, or set reduce_fusion: enable")
    if on("reduce_fusion") and (engine.parallelism.tensor == 1 or architecture_name(config) != "LlamaForCausalLM"):
        refuse("reduce_fusion", "reduce_fusion is for LlamaForCausalLM over several GPUs; it is ignored", fix="leave it out")
    for flag in ("dora_plugin", "lora_dir", "lora_target_modules", "max_lora_rank", "lora_ckpt_source"):
        if on(flag) and not on("lora_plugin"):
            refuse(flag, f"{flag} has no effect without lora_plugin", fix="set lora_plugin: auto as well")
    if on("lora_plugin"):
        _check_adapters(arguments)
    if on("fast_build") and engine.precision in ("int8", "int4"):
        refuse("fast_build", f"fast_build does not go with {engine.precision} weights", fix="leave it out")
    if on("pp_reduce_scatter") and (architecture_name(config) != "MixtralForCausalLM" or engine.parallelism.pipeline == 1):
        refuse("pp_reduce_scatter", "pp_reduce_scatter is for Mixtral with pipeline parallelism", fix="leave it out")
    if on("streamingllm") and release_of(version) >= (1, 0):
        refuse("streamingllm", f"TensorRT-LLM {version} no longer supports streamingllm", fix="leave it out")


def _check_adapters(arguments: Mapping[str, str | None]) -> None:
    """Without lora_dir and lora_target_modules, no matrix takes an adapter (tensorrt_llm/lora_manager.py: `load_hf_lora`): the
    tool fails after it has loaded the weights, or leaves an engine that has only the plugin."""
    where = "engine.options.build.lora_target_modules"
    named = (arguments.get("--lora_target_modules") or "").split()
    if not named and not arguments.get("--lora_dir"):
        raise RecipeError(
            "lora_plugin is on, and nothing says which matrices adapters change: no adapter could be served",
            where=where,
            fix="name them (e.g. attn_q attn_k attn_v), or set lora_dir to an adapter that says it",
        )
    for folder in (arguments.get("--lora_dir") or "").split():
        if not folder.startswith("/"):
            raise RecipeError(
                f"'{folder}' is no absolute path; a folder that is not there is passed over without a word",
                where="engine.options.build.lora_dir",
                fix="name the adapter's folder on the machine that builds, from / on",
            )
    for name in named:
        if name not in ADAPTED:
            raise RecipeError(f"'{name}' is no matrix that an adapter can change", where=where, fix=nearest(name, ADAPTED))
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise RecipeError(f"names '{twice}' twice", where=where, fix="name it once")
