"""The KV cache of one rank.

    bytes per token = 2 * layers/pipeline * ceil(kv_heads/tensor) * head_dim * bytes of a number

The standard formula (keys and values of every layer and head); Llama-3.1-8B in 16 bit has 131,072 bytes a token, 1 GiB for
8192. Multi-head latent attention keeps one compressed vector for all heads, on every rank. Context parallelism divides the
tokens. Memory is given out in blocks of tokens: NVIDIA/TensorRT-LLM docs/source/legacy/reference/memory.md, "KV cache tensor".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.parallelism import attention_ranks, stage_layers
from enginepress.engines.fit.sizes import CACHE_BYTES, cache_bytes
from enginepress.recipe import Recipe

BLOCK_TOKENS = 64
"""Tokens of one block. Releases differ (32 and 64; vLLM has 16); the largest wastes most, so it is taken."""

WINDOW_PARAMETER = "max_attention_window_size"
"""The served model's parameter by which the runtime keeps only a window of the cache (TensorRT-LLM backend)."""

_VLLM_BLOCK = 16
"""Tokens of a block of vLLM's cache, unless `block_size` says it."""


@dataclass(frozen=True)
class Cap:
    """A limit of the whole cache that the recipe names beside its share of the memory: the smaller of both holds.

    Attributes:
        field: of the recipe.
        bytes: of one rank.
        said: in words.
    """

    field: str
    bytes: int
    said: str


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
        return int(self.rank_token * self.kept(tokens) * beams)

    def all_request(self, tokens: int, beams: int = 1) -> int:
        """Of one request with this many tokens, on all ranks."""
        return int(self.all_token * self.kept(tokens) * beams)

    def kept(self, tokens: int) -> float:
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
    if recipe.engine.kv_cache is None and (told := _inside(recipe, "kv_cache_config", "dtype")) in CACHE_BYTES:
        number = CACHE_BYTES[told]
    layers = stage_layers(shape, recipe)
    copies = attention_ranks(recipe)
    if shape.latent is not None:
        of_layer = shape.latent.cached * number
    else:
        of_layer = 2 * -(-shape.kv_heads // copies) * shape.head_dim * number
    window, windowed = _window(shape, recipe)
    return Cache(
        rank_token=layers * of_layer / parallelism.context,
        all_token=shape.layers * of_layer * copies,
        window=window,
        windowed=windowed,
    )


def cap_of(recipe: Recipe, cache: Cache) -> Cap | None:
    """The smallest limit of the cache that the recipe names in tokens, blocks or bytes; None if it names none.

    TensorRT-LLM takes the smaller of `max_tokens_in_paged_kv_cache` and the share (memory.md, "KV cache tensor"), the LLM API the
    smallest of `max_tokens`, `max_gpu_total_bytes` and the share (llm_args.py, KvCacheConfig).
    """
    builder, arguments = recipe.engine.builder, recipe.serving.engine_args
    found: list[Cap] = []

    def tokens(field: str, value: Any) -> None:
        if type(value) is int and value > 0:
            found.append(Cap(field, int(value * cache.rank_token), f"{value} tokens"))

    def memory(field: str, value: Any) -> None:
        if type(value) is int and value > 0:
            found.append(Cap(field, value, f"{value} bytes"))

    if builder == "tensorrt_llm":
        name = "max_tokens_in_paged_kv_cache"
        tokens(f"serving.parameters.{name}", recipe.serving.parameters.get(name))
    elif builder == "llmapi":
        where = "serving.engine_args.kv_cache_config"
        tokens(f"{where}.max_tokens", _inside(recipe, "kv_cache_config", "max_tokens"))
        memory(f"{where}.max_gpu_total_bytes", _inside(recipe, "kv_cache_config", "max_gpu_total_bytes"))
    else:
        memory("serving.engine_args.kv_cache_memory_bytes", arguments.get("kv_cache_memory_bytes"))
        blocks, size = arguments.get("num_gpu_blocks_override"), arguments.get("block_size") or _VLLM_BLOCK
        if type(blocks) is int and type(size) is int:
            tokens("serving.engine_args.num_gpu_blocks_override", blocks * size)
    return min(found, key=lambda cap: cap.bytes, default=None)


def _inside(recipe: Recipe, argument: str, name: str) -> Any:
    """A value inside an argument of the LLM API that is a mapping."""
    value = recipe.serving.engine_args.get(argument) if recipe.engine.builder == "llmapi" else None
    return value.get(name) if isinstance(value, dict) else None


def _window(shape: Shape, recipe: Recipe) -> tuple[int | None, float]:
    """The window that the runtime is told to keep. What config.json says alone saves nothing: without the parameter the
    runtime keeps all tokens of all layers."""
    value = recipe.serving.parameters.get(WINDOW_PARAMETER)
    told = _inside(recipe, "kv_cache_config", "max_attention_window")
    if isinstance(told, list) and told:
        value = ",".join(map(str, told))
    if value is None:
        return None, 0.0
    try:
        sizes = [int(part) for part in str(value).replace(";", ",").split(",")]
    except ValueError:
        return None, 0.0
    if min(sizes) < 1:
        return None, 0.0
    if len(sizes) == 1:
        return sizes[0], 1.0
    # One number a layer, repeated: the small ones are the window.
    small = min(sizes)
    return small, sum(size == small for size in sizes) / len(sizes)
