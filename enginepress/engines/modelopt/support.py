"""What ModelOpt converts rightly, and what is refused before it runs, from config.json and the recipe alone.

    form              precision                                     KV cache       needs calibration data
    TensorRT-LLM      float16 bfloat16 int8 int4                    fp8 int8       only for a quantized KV cache
                      fp8 nvfp4 int8_sq int4_awq w4a8_awq           fp8 int8       always
    Hugging Face      fp8 nvfp4 int8_sq int4_awq w4a8_awq           fp8 nvfp4      always

int8 and int4 (weight-only) are left to trtllm-build: the checkpoint holds 16-bit weights and `quant_algo` W8A16 or W4A16,
which it quantizes while it loads them, as NVIDIA's own quantize.py does it. What ModelOpt itself writes for int8
weight-only (int8 weights with `weights_scaling_factor`) TensorRT-LLM does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enginepress.calibration import refuse_unused
from enginepress.engines.modelopt.fields import FAMILIES, REFUSED, USE_IMAGE, WHERE, model_fields, shape_fields
from enginepress.engines.quantized import quantization_of
from enginepress.errors import RecipeError, SourceError, UnsupportedModelError
from enginepress.recipe import Recipe

Form = Literal["tensorrt_llm", "hugging_face"]


@dataclass(frozen=True)
class Format:
    """A precision, as ModelOpt makes it.

    Attributes:
        config: name of ModelOpt's quantization config, or None if no weight is quantized by it.
        algorithm: TensorRT-LLM's `quant_algo`, or None.
        block: weights that share one scaling factor along the input, 0 if it is not by blocks.
        pairs: two rows lie in one byte, so the number of rows is even.
    """

    config: str | None
    algorithm: str | None
    block: int = 0
    pairs: bool = False

    @property
    def calibrated(self) -> bool:
        return self.config is not None


FORMATS: dict[str, Format] = {
    "float16": Format(None, None),
    "bfloat16": Format(None, None),
    "int8": Format(None, "W8A16"),
    "int4": Format(None, "W4A16"),
    "fp8": Format("FP8_DEFAULT_CFG", "FP8"),
    "nvfp4": Format("NVFP4_DEFAULT_CFG", "NVFP4", block=16),
    "int8_sq": Format("INT8_SMOOTHQUANT_CFG", "W8A8_SQ_PER_CHANNEL"),
    "int4_awq": Format("INT4_AWQ_CFG", "W4A16_AWQ", block=128, pairs=True),
    "w4a8_awq": Format("W4A8_AWQ_BETA_CFG", "W4A8_AWQ", block=128, pairs=True),
}

KV_CACHES: dict[Form, dict[str, str]] = {
    "tensorrt_llm": {"fp8": "FP8", "int8": "INT8"},
    "hugging_face": {"fp8": "FP8", "nvfp4": "NVFP4"},
}
"""Precisions of the KV cache in the recipe, and `kv_cache_quant_algo`."""

_VOCABULARY_BLOCK = 64
"""ModelOpt pads the vocabulary to this for AWQ, with tokens that a sampler could then choose."""


def check(config: Mapping[str, Any], recipe: Recipe, form: Form, *, hf_quant_config: Mapping[str, Any] | None = None) -> None:
    """Refuses what would fail later, or come out wrong.

    Args:
        config: the checkpoint's config.json.
        hf_quant_config: its hf_quant_config.json, if it has one.

    Raises:
        UnsupportedModelError: for an architecture that was not verified.
        RecipeError: for a precision, a KV cache or a parallelism that is not made, and for missing calibration data.
        SourceError: for a checkpoint that cannot be converted.
    """
    _check_recipe(recipe, form)
    _check_checkpoint(config, hf_quant_config)
    fields = shape_fields(config) if form == "hugging_face" else model_fields(config)
    if form == "tensorrt_llm":
        _check_window(config, fields, recipe)
        _check_parallelism(fields, recipe)
    _check_blocks(fields, recipe, recipe.engine.parallelism.tensor if form == "tensorrt_llm" else 1)


def data_type(config: Mapping[str, Any], recipe: Recipe) -> str:
    """The 16-bit type of what is not quantized: the recipe's, or the checkpoint's; float32 becomes float16, as in
    TensorRT-LLM's own scripts."""
    if recipe.engine.precision in ("float16", "bfloat16"):
        return recipe.engine.precision
    return "bfloat16" if (config.get("dtype") or config.get("torch_dtype")) == "bfloat16" else "float16"


def needs_calibration(recipe: Recipe) -> bool:
    engine = recipe.engine
    return engine.kv_cache is not None or FORMATS[engine.precision].calibrated


# ------------------------------------------------------------------------------------------------------------------
# The recipe
# ------------------------------------------------------------------------------------------------------------------


def _check_recipe(recipe: Recipe, form: Form) -> None:
    engine = recipe.engine
    precision = engine.precision
    if precision not in FORMATS:
        raise RecipeError(
            f"ModelOpt makes no {precision} for {_NAMES[form]}", where="engine.precision", fix="use " + ", ".join(FORMATS)
        )
    if form == "hugging_face" and precision in ("int8", "int4"):
        raise RecipeError(
            f"ModelOpt's {precision} (weight-only) has no Hugging Face form that TensorRT-LLM reads",
            where="engine.precision",
            fix=f"use {'int8_sq or fp8' if precision == 'int8' else 'int4_awq'}",
        )
    if form == "hugging_face" and precision in ("float16", "bfloat16"):
        raise RecipeError(
            f"there is nothing to quantize for {precision}"
            + (f" but a KV cache in {engine.kv_cache}" if engine.kv_cache else ""),
            where="engine.kv_cache" if engine.kv_cache else "engine.precision",
            fix="leave engine.kv_cache out and set serving.engine_args.kv_cache_config: "
            f"{{dtype: {engine.kv_cache}}}, which needs no scales"
            if engine.kv_cache in ("fp8", "nvfp4")
            else "serve the checkpoint as it is",
        )
    if engine.kv_cache is not None and engine.kv_cache not in KV_CACHES[form]:
        raise RecipeError(
            f"a KV cache in {engine.kv_cache} is not made for {_NAMES[form]} by ModelOpt",
            where="engine.kv_cache",
            fix="use " + " or ".join(KV_CACHES[form]) + ", or leave it out",
        )
    if needs_calibration(recipe) and engine.calibration is None:
        what = precision if FORMATS[precision].calibrated else f"a KV cache in {engine.kv_cache}"
        raise RecipeError(
            f"{what} needs calibration data, and nothing is ever downloaded for that",
            where="engine.calibration",
            fix="name a local .jsonl or .txt file with a few hundred texts of the kind that the model will see, as "
            "engine.calibration.data",
        )
    if not needs_calibration(recipe):
        refuse_unused(engine.calibration, f"{precision} measures no activations")
    if engine.options.convert:
        name = sorted(engine.options.convert)[0]
        raise RecipeError(
            f"'{name}' is a flag of the container's scripts, and ModelOpt takes none",
            where=f"engine.options.convert.{name}",
            fix="leave it out, or set engine.converter to 'image'",
        )


_NAMES: dict[Form, str] = {"tensorrt_llm": "a TensorRT-LLM checkpoint", "hugging_face": "a Hugging Face checkpoint"}


def _check_parallelism(fields: Mapping[str, Any], recipe: Recipe) -> None:
    """A Hugging Face checkpoint needs none of this: it is spread over GPUs when it is loaded."""
    parallelism = recipe.engine.parallelism
    if parallelism.context > 1:
        raise RecipeError(
            f"ModelOpt does not spread a checkpoint over {parallelism.context} GPUs by context",
            where="engine.parallelism.context",
            fix=f"set it to 1, or {USE_IMAGE}",
        )
    for name in ("moe_tensor", "moe_expert"):
        if (getattr(parallelism, name) or 1) > 1:
            raise RecipeError(
                "no mixture of experts is converted by ModelOpt here", where=f"engine.parallelism.{name}", fix=USE_IMAGE
            )
    _check_sizes(fields, parallelism.tensor, parallelism.pipeline)


# ------------------------------------------------------------------------------------------------------------------
# The checkpoint
# ------------------------------------------------------------------------------------------------------------------


def _check_checkpoint(config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None) -> None:
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    if architecture is None:
        raise SourceError("'architectures' names no class, so what this model is cannot be known", where=WHERE)
    if (quantization := quantization_of(config, hf_quant_config)) is not None:
        raise UnsupportedModelError(
            f"it is quantized already ({quantization.describe()}), and ModelOpt starts from 16- or 32-bit weights",
            where=WHERE,
            fix="name the checkpoint that it was made from, or serve this one as it is with builder 'llmapi' or 'vllm'",
        )
    if config.get("auto_map") is not None:
        raise SourceError(
            "'auto_map' names Python code of the checkpoint's own, which ModelOpt is never given leave to run",
            where=WHERE,
            fix=USE_IMAGE,
        )
    if architecture not in FAMILIES:
        reason = REFUSED.get(architecture, "it was not verified that its numbers come out right")
        raise UnsupportedModelError(
            f"ModelOpt does not convert {architecture} here: {reason}",
            where=WHERE,
            fix=f"{USE_IMAGE}, or use builder 'llmapi'; verified are " + ", ".join(sorted(FAMILIES)),
        )


def _check_window(config: Mapping[str, Any], fields: Mapping[str, Any], recipe: Recipe) -> None:
    """A TensorRT-LLM checkpoint has no place for an attention window: it is harmless only if no sequence outgrows it."""
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return
    length = recipe.engine.limits.max_sequence_length or fields["max_position_embeddings"]
    if not isinstance(window, int) or length > window:
        raise SourceError(
            f"'sliding_window' is {window}, sequences have up to {length} tokens, and a TensorRT-LLM checkpoint cannot say so",
            where=WHERE,
            fix=f"set engine.limits.max_sequence_length to {window} or less" if isinstance(window, int) else USE_IMAGE,
        )


def _check_sizes(fields: Mapping[str, Any], tensor: int, pipeline: int) -> None:
    heads, kv_heads, layers = fields["num_attention_heads"], fields["num_key_value_heads"], fields["num_hidden_layers"]
    where = "engine.parallelism.tensor"
    if heads % tensor:
        raise RecipeError(f"{heads} attention heads cannot be split over {tensor} GPUs", where=where, fix=_divisors(heads))
    if kv_heads % tensor and tensor % kv_heads:
        raise RecipeError(
            f"{kv_heads} key and value heads can neither be split over {tensor} GPUs nor copied evenly to them",
            where=where,
            fix=_divisors(heads),
        )
    if fields["intermediate_size"] % tensor:
        raise RecipeError(
            f"'intermediate_size' {fields['intermediate_size']} cannot be split over {tensor} GPUs",
            where=where,
            fix=_divisors(fields["intermediate_size"]),
        )
    if layers % pipeline:
        raise RecipeError(
            f"ModelOpt splits {layers} layers evenly, and {pipeline} is no divisor of it",
            where="engine.parallelism.pipeline",
            fix=_divisors(layers),
        )


def _check_blocks(fields: Mapping[str, Any], recipe: Recipe, tensor: int) -> None:
    precision = recipe.engine.precision
    how = FORMATS[precision]
    if not how.block:
        return
    attention = fields["num_attention_heads"] * fields["head_size"]
    for name, inputs in (
        ("hidden_size", fields["hidden_size"]),
        ("num_attention_heads x head size", attention // tensor),
        ("intermediate_size", fields["intermediate_size"] // tensor),
    ):
        if inputs % how.block:
            per_rank = f" on each of {tensor} GPUs" if tensor > 1 and name != "hidden_size" else ""
            raise RecipeError(
                f"{precision} scales weights by blocks of {how.block}, and '{name}' is {inputs}{per_rank}",
                where="engine.precision",
                fix="use fp8" + (" or fewer GPUs (engine.parallelism.tensor)" if per_rank else ""),
            )
    vocabulary = fields["vocab_size"]
    if how.pairs and vocabulary % _VOCABULARY_BLOCK:
        raise RecipeError(
            f"for {precision} ModelOpt pads the vocabulary of {vocabulary} to a multiple of {_VOCABULARY_BLOCK}, "
            "with tokens that do not exist",
            where="engine.precision",
            fix=f"use fp8 or nvfp4, or {USE_IMAGE}",
        )


def _divisors(number: int) -> str:
    few = [str(d) for d in range(1, min(number, 64) + 1) if number % d == 0]
    return "use one of " + ", ".join(few)
