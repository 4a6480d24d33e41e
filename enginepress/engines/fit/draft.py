"""A second, smaller model that speculates beside the first one: its weights, and its own KV cache for the same tokens.

Both are arithmetic, from the draft's config.json and the sizes of its files, where its folder can be read. TensorRT-LLM gives it
the model's own mapping of ranks, and a KV cache manager of its own (tensorrt_llm/_torch/pyexecutor/py_executor_creator.py); vLLM
spreads it over `draft_tensor_parallel_size` ranks, as many as the model's unless said otherwise (vllm/config/speculative.py of
0.24.0). Cautiously, stages of a pipeline do not divide it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enginepress.engines.architecture import Shape
from enginepress.recipe import Recipe
from enginepress.repository.plans.engine_args import draft_model

if TYPE_CHECKING:
    from enginepress.engines.fit.cache import Cache


@dataclass(frozen=True)
class Draft:
    """The draft model that a recipe names.

    Attributes:
        field: of the recipe. folder: as it says.
        shape, weight_bytes: of what lies there.
        unseen: why it is not known what lies there; then it is in no number.
    """

    field: str
    folder: str
    shape: Shape | None = None
    weight_bytes: int = 0
    unseen: str = ""


def named_draft(recipe: Recipe) -> Draft | None:
    """The draft model that the recipe names, of whose folder nothing is known."""
    named = draft_model(recipe.serving.engine_args)
    return Draft(*named, unseen="its folder was not read") if named is not None else None


def draft_weights(draft: Draft | None, recipe: Recipe) -> int:
    """Bytes on one rank."""
    return -(-draft.weight_bytes // _ranks(recipe)) if draft is not None else 0


def with_draft(cache: Cache, draft: Draft | None, recipe: Recipe) -> Cache:
    """The model's cache and the draft's together."""
    if draft is None or draft.shape is None:
        return cache
    from enginepress.engines.fit.cache import cache_of

    parallelism = recipe.engine.parallelism.model_copy(update={"tensor": _ranks(recipe), "pipeline": 1})
    own = cache_of(
        draft.shape, recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"parallelism": parallelism})})
    )
    return replace(cache, rank_token=cache.rank_token + own.rank_token, all_token=cache.all_token + own.all_token)


def _ranks(recipe: Recipe) -> int:
    speculation = recipe.serving.engine_args.get("speculative_config")
    said = speculation.get("draft_tensor_parallel_size") if isinstance(speculation, dict) else None
    return said if type(said) is int and said > 0 else recipe.engine.parallelism.tensor
