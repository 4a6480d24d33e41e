"""One python model that runs an ONNX Runtime GenAI engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginepress.repository.plans import ModelPlan
from enginepress.repository.values import ConfigValues

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

SHARED = (
    "common/llm_chat.py",
    "common/llm_detokenize.py",
    "common/llm_errors.py",
    "common/llm_generation.py",
    "common/llm_stops.py",
    "common/llm_tokenizer.py",
    "common/llm_triton_error.py",
    "common/llm_unknown.py",
)


def plan(recipe: Recipe) -> tuple[ModelPlan, ...]:
    limits, serving = recipe.engine.limits, recipe.serving
    parameters = {
        "max_concurrent_requests": str(serving.max_concurrent_requests),
        "max_tokens_default": str(serving.max_tokens_default),
        "slow_path_requests": str(serving.slow_path_requests),
        "max_batch_size": str(limits.max_batch_size),
        "threads": str(serving.threads),
        "max_sequence_length": "" if limits.max_sequence_length is None else str(limits.max_sequence_length),
    }
    values = ConfigValues(name=recipe.name, parameters=parameters)
    return (ModelPlan(source=".", values=values, engine="engine", tokenizer="tokenizer", shared=SHARED),)
