"""The KV cache of one rank.

    bytes per token = 2 * layers/pipeline * ceil(kv_heads/tensor) * head_dim * bytes of a number

The standard formula (keys and values of every layer and head); Llama-3.1-8B in 16 bit has 131,072 bytes a token, 1 GiB for
8192. Multi-head latent attention keeps one compressed vector for all heads, on every rank. Context parallelism divides the
tokens. Memory is given out in blocks of tokens: NVIDIA/TensorRT-LLM docs/source/legacy/reference/memory.md, "KV cache tensor".
"""

from __future__ import annotations

from dataclasses import dataclass

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.sizes import cache_bytes
from enginepress.recipe import Recipe

BLOCK_TOKENS = 64
"""Tokens of one block. Releases differ (32 and 64; vLLM has 16); the largest wastes most, so it is taken."""

WINDOW_PARAMETER = "max_attention_window_size"
"""The served model's parameter by which the runtime keeps only a window of the cache (TensorRT-LLM backend)."""


@dataclass(frozen=True)
class Cache:
    """KV cache, bytes.

    Attributes:
        rank_token: of one token on one rank.
        all_token: of one token on all ranks.
        windowed: share of layers that keep only `window` tokens of a request.
    """

    rank_token: float
    all_token: float
    window: int | None = None
    windowed: float = 0.0

    def rank_request(self, tokens: int, beams: int = 1) -> int:
        """Of one request with this many tokens, on one rank."""
        return int(self.rank_token * self._kept(tokens) * beams)

    def all_request(self, tokens: int, beams: int = 1) -> int:
        """Of one request with this many tokens, on all ranks."""
        return int(self.all_token * self._kept(tokens) * beams)

    def _kept(self, tokens: int) -> float:
        """Tokens that are kept of a request, on average over layers."""
        whole = _blocks(tokens)
        if self.window is None:
            return whole
        return self.windowed * _blocks(min(tokens, self.window)) + (1 - self.windowed) * whole


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def cache_of(shape: Shape, recipe: Recipe) -> Cache:
    """The cache of the rank that has most layers."""
    parallelism = recipe.engine.parallelism
    number = cache_bytes(recipe.engine.kv_cache, recipe.engine.precision)
    layers = -(-shape.layers // parallelism.pipeline)
    if shape.latent is not None:
        of_layer, copies = shape.latent.cached * number, parallelism.tensor
    else:
        of_layer = 2 * -(-shape.kv_heads // parallelism.tensor) * shape.head_dim * number
        copies = parallelism.tensor
    window, windowed = _window(shape, recipe)
    return Cache(
        rank_token=layers * of_layer / parallelism.context,
        all_token=shape.layers * of_layer * copies,
        window=window,
        windowed=windowed,
    )


def _window(shape: Shape, recipe: Recipe) -> tuple[int | None, float]:
    """The window that the runtime is told to keep. What config.json says alone saves nothing: without the parameter the
    runtime keeps all tokens of all layers."""
    value = recipe.serving.parameters.get(WINDOW_PARAMETER)
    if value is None:
        return None, 0.0
    try:
        sizes = [int(part) for part in str(value).replace(";", ",").split(",")]
    except ValueError:
        return None, 0.0
    if len(sizes) == 1:
        return sizes[0], 1.0
    # One number a layer, repeated: the small ones are the window.
    small = min(sizes)
    return small, sum(size == small for size in sizes) / len(sizes)
