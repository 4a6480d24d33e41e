"""One python model that runs a checkpoint by TensorRT-LLM's LLM API. model.yaml: LLM()'s arguments, and `triton_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginepress.engines.prompts import wants_chunks
from enginepress.repository import UNPLACED_VERSION
from enginepress.repository.plans import ModelPlan
from enginepress.repository.plans.adapters import adapters_file, check_adapters, lora_config
from enginepress.repository.plans.engine_args import check_engine_args
from enginepress.repository.templates import MARK
from enginepress.repository.values import ConfigValues

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

CHECKPOINT = "checkpoint"
"""Folder of the version folder that holds the checkpoint."""

SHARED = (
    "common/llm_chat.py",
    "common/llm_detokenize.py",
    "common/llm_errors.py",
    "common/llm_generation.py",
    "common/llm_tokenizer.py",
    "common/llm_triton_error.py",
    "common/llm_unknown.py",
)


def plan(recipe: Recipe) -> tuple[ModelPlan, ...]:
    import yaml

    check_engine_args(recipe.serving.engine_args, "llmapi")
    check_adapters(recipe.serving.adapters, recipe.serving.engine_args)
    values = ConfigValues(
        recipe.name,
        decoupled=recipe.serving.streaming,
        parameters={
            "max_concurrent_requests": str(recipe.serving.max_concurrent_requests),
            "max_tokens_default": str(recipe.serving.max_tokens_default),
        },
    )
    text = yaml.safe_dump(arguments(recipe), sort_keys=True, allow_unicode=True)
    texts = {"model.yaml": text, **adapters_file(recipe.serving.adapters)}
    return (ModelPlan(source=".", values=values, engine=CHECKPOINT, shared=SHARED, texts=texts),)


def arguments(recipe: Recipe) -> dict[str, Any]:
    """What model.yaml holds. Limits that the recipe does not name are left to the LLM API."""
    engine, limits, spread = recipe.engine, recipe.engine.limits, recipe.engine.parallelism
    given: dict[str, Any] = {
        "model": f"{MARK}{recipe.name}/{UNPLACED_VERSION}/{CHECKPOINT}",
        "backend": "pytorch",
        "dtype": engine.precision if engine.precision in ("float16", "bfloat16", "float32") else "auto",
        "trust_remote_code": recipe.source.trust_remote_code,
        "tensor_parallel_size": spread.tensor,
        "pipeline_parallel_size": spread.pipeline,
        "max_batch_size": limits.max_batch_size,
        "max_beam_width": limits.max_beam_width,
    }
    optional = {
        "context_parallel_size": spread.context if spread.context > 1 else None,
        "moe_tensor_parallel_size": spread.moe_tensor,
        "moe_expert_parallel_size": spread.moe_expert,
        "max_seq_len": limits.max_sequence_length,
        "max_input_len": limits.max_input_length,
        "max_num_tokens": limits.max_num_tokens,
        "enable_chunked_prefill": wants_chunks(recipe) or None,  # a prompt longer than a pass would be refused otherwise
    }
    given |= {name: value for name, value in optional.items() if value is not None}
    given |= recipe.serving.engine_args
    if (adapted := lora_config(recipe.serving.adapters, recipe.serving.engine_args)) is not None:
        given["lora_config"] = adapted
    given["triton_config"] = {"max_batch_size": 0, "decoupled": recipe.serving.streaming}
    return given
