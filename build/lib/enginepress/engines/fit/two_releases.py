"""Whether a server's memory holds two releases of a model at once, which a rollout without a gap needs. An ESTIMATE.

The first engine has taken its KV cache when the second is loaded: TensorRT-LLM gives a cache a share of what is free, vLLM
takes a share of all memory, both 0.9 unless the recipe says otherwise. With that default two never fit.
"""

from __future__ import annotations

from enginepress.engines.fit.sizes import GIB
from enginepress.engines.fit.working import CONTEXT_BYTES, cache_share, overhead_of
from enginepress.recipe import Recipe

LEAST_BYTES = GIB
"""What the second engine needs beside its weights, at the least: activations, and a cache for a few requests."""


def holds_two(recipe: Recipe, memory: int, before: int, after: int) -> bool:
    """Whether a GPU with this much memory holds both.

    Args:
        before, after: bytes of the two releases' engines on one GPU.
    """
    share = cache_share(recipe)
    if recipe.engine.builder == "vllm":
        return 2 * share <= 1 and max(before, after) + CONTEXT_BYTES + LEAST_BYTES <= int(memory * share)
    free = memory - before - overhead_of(recipe, memory)
    left = free - int(max(0, free) * share)
    return left >= after + CONTEXT_BYTES + LEAST_BYTES
