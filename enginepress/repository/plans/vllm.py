"""One model of Triton's vLLM backend. model.json: arguments of AsyncEngineArgs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from enginepress.repository import UNPLACED_VERSION
from enginepress.repository.plans import ModelPlan
from enginepress.repository.plans.engine_args import check_engine_args
from enginepress.repository.templates import MARK
from enginepress.repository.values import ConfigValues

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

CHECKPOINT = "checkpoint"
"""Folder of the version folder that holds the checkpoint."""

GPU_SHARE = 0.9
"""Of the GPU's memory that vLLM uses. Written out, since its default moved: 0.9 up to 0.19.0 at least, 0.92 in 0.24.0
(vllm/config/cache.py), and the plan counts on it."""


def plan(recipe: Recipe) -> tuple[ModelPlan, ...]:
    check_engine_args(recipe.serving.engine_args, "vllm")
    text = json.dumps(arguments(recipe), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return (ModelPlan(source=".", values=ConfigValues(recipe.name), engine=CHECKPOINT, texts={"model.json": text}),)


def arguments(recipe: Recipe) -> dict[str, Any]:
    """What model.json holds. Limits that the recipe does not name are left to vLLM."""
    engine, limits, spread = recipe.engine, recipe.engine.limits, recipe.engine.parallelism
    given: dict[str, Any] = {
        "model": f"{MARK}{recipe.name}/{UNPLACED_VERSION}/{CHECKPOINT}",
        "dtype": engine.precision if engine.precision in ("float16", "bfloat16", "float32") else "auto",
        "trust_remote_code": recipe.source.trust_remote_code,
        "tensor_parallel_size": spread.tensor,
        "pipeline_parallel_size": spread.pipeline,
        "max_num_seqs": limits.max_batch_size,
        "gpu_memory_utilization": GPU_SHARE,
    }
    optional = {
        "kv_cache_dtype": engine.kv_cache,
        "max_model_len": limits.max_sequence_length,
        "max_num_batched_tokens": limits.max_num_tokens,
    }
    return {**given, **{name: value for name, value in optional.items() if value is not None}, **recipe.serving.engine_args}
