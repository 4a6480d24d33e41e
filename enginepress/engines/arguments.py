"""`serving.engine_args` against the rest of the recipe and the checkpoint: what says the same thing twice, or cannot go together.

Names and values alone are checked in `enginepress.repository.plans.engine_args`, and in which release a name is in
`engine_args_releases` beside it; here stands what needs the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginepress.engines.architecture import read_shape
from enginepress.engines.quantized import Quantization
from enginepress.engines.versions import Container
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.repository.plans.engine_args_releases import check_release

WHERE = "serving.engine_args"

ON_LOADING = ("fp8", "bitsandbytes", "experts_int8", "torchao", "mxfp8")
"""vLLM's `quantization` that quantizes 16-bit weights while it loads them (vllm/model_executor/layers/quantization)."""

_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "gptq": ("gptq", "gptq_marlin", "auto_gptq", "moe_wna16"),
    "awq": ("awq", "awq_marlin", "auto_awq", "moe_wna16"),
    "modelopt": ("modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8"),
    "mxfp4": ("mxfp4", "gpt_oss_mxfp4"),
}
"""How a checkpoint is quantized, and what vLLM may be told of it."""


def check(config: Mapping[str, Any], recipe: Recipe, name: str, quantization: Quantization | None, container: Container) -> None:
    """
    Raises:
        RecipeError: naming the argument, and what it contradicts.
    """
    if name == "llmapi":
        check_release(recipe.serving.engine_args, "llmapi", container)
        _check_cache(recipe, container)
    else:
        check_release(recipe.serving.engine_args, "vllm", container)
        _check_quantization(recipe, quantization)
        _check_whole_prompts(config, recipe)
        _check_predictors(config, recipe)


def cache_type(recipe: Recipe) -> str | None:
    """What the LLM API is told of its KV cache's numbers ("fp8"); None if nothing, or it shall decide."""
    cache = recipe.serving.engine_args.get("kv_cache_config")
    said = cache.get("dtype") if isinstance(cache, dict) else None
    return said if isinstance(said, str) and said != "auto" else None


def _check_cache(recipe: Recipe, container: Container) -> None:
    said, asked = cache_type(recipe), recipe.engine.kv_cache
    field = f"{WHERE}.kv_cache_config.dtype"
    if said is not None and asked is not None and said != asked:
        raise RecipeError(
            f"is {said}, and engine.kv_cache asks for {asked}, whose scales ModelOpt puts into the checkpoint",
            where=field,
            fix="leave one of them out",
        )
    if said is None or recipe.engine.gpu is None:
        return
    from enginepress.engines import gpus

    gpu = gpus.find(recipe.engine.gpu.name)
    if said not in container.can_cache("llmapi", gpu.sm):
        can = ", ".join(container.can_cache("llmapi", gpu.sm))
        raise RecipeError(
            f"the LLM API of {container.holds} is not known to keep a KV cache in {said} on {gpu.name} (SM {gpu.sm})",
            where=field,
            fix="leave it out" + (f", or use {can}" if can else ""),
        )


def _check_quantization(recipe: Recipe, quantization: Quantization | None) -> None:
    said = recipe.serving.engine_args.get("quantization")
    if not isinstance(said, str):
        return
    where = f"{WHERE}.quantization"
    if quantization is None and said not in ON_LOADING:
        raise RecipeError(
            f"is {said}, and the checkpoint is not quantized",
            where=where,
            fix=f"leave it out, name a checkpoint that is, or let vLLM quantize while it loads: {', '.join(ON_LOADING)}",
        )
    if quantization is not None and said not in _SPELLINGS.get(quantization.method, (quantization.method,)):
        raise RecipeError(
            f"is {said}, and the checkpoint is quantized by {quantization.describe()}", where=where, fix="leave it out"
        )


def _check_whole_prompts(config: Mapping[str, Any], recipe: Recipe) -> None:
    """vLLM does not start if a pass is shorter than a sequence and prompts may not be cut (vllm/config/scheduler.py)."""
    limits = recipe.engine.limits
    if recipe.serving.engine_args.get("enable_chunked_prefill") is not False or limits.max_num_tokens is None:
        return
    longest = limits.max_sequence_length or read_shape(config).context
    if longest > limits.max_num_tokens:
        raise RecipeError(
            f"is false, and a pass of {limits.max_num_tokens} tokens (engine.limits.max_num_tokens) is shorter than a sequence "
            f"of {longest}, so vLLM would not start",
            where=f"{WHERE}.enable_chunked_prefill",
            fix=f"leave it out, or set engine.limits.max_num_tokens to {longest} or more",
        )


def _check_predictors(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Layers that predict further tokens are run whole times over, or vLLM does not start (vllm/config/speculative.py)."""
    speculation = recipe.serving.engine_args.get("speculative_config")
    if not isinstance(speculation, dict) or not str(speculation.get("method")).endswith("mtp") or speculation.get("model"):
        return
    layers, tokens = read_shape(config).predictor_layers, speculation.get("num_speculative_tokens")
    if type(tokens) is int and layers and tokens > layers and tokens % layers:
        raise RecipeError(
            f"is {tokens}, and the checkpoint's {layers} layers that predict further tokens are run whole times over",
            where=f"{WHERE}.speculative_config.num_speculative_tokens",
            fix=f"set it to {tokens - tokens % layers} or {tokens - tokens % layers + layers}, or to {layers} or less",
        )
