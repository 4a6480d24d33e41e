"""The cache for LoRA adapters on each GPU, and how many adapters it holds.

tensorrt_llm   with `options.build.lora_plugin`: `lora_cache_gpu_memory_fraction` (0.05) of what the KV cache leaves
               (triton-inference-server/tensorrtllm_backend docs/model_config.md, "LoRA Cache")
llmapi         with `serving.adapters`, `enable_lora` or `lora_config`: `peft_cache_config.device_cache_percent` (0.02) of what is
               free after the model is loaded, cautiously before the KV cache takes its share; at least `lora_config.max_loras`
               adapters
               (TensorRT-LLM llm_args.py, PeftCacheConfig; lora_helper.py, LoraConfig; commits: plans/engine_args.yaml)

An adapter has two matrices of 16 bit for each matrix that it changes, rank x inputs and outputs x rank; cautiously, a rank holds
them whole. vLLM's release has none (`enginepress.repository.plans.engine_args`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from enginepress.engines.architecture import Shape
from enginepress.recipe import Recipe
from enginepress.repository.plans.engine_args import adapters as asked_of_llmapi

ENGINE_SHARE = 0.05
LLMAPI_SHARE = 0.02
USUAL_RANK = 64
"""`max_lora_rank` of trtllm-build and of the LLM API."""

FIELDS = {
    "tensorrt_llm": ("serving.parameters.lora_cache_gpu_memory_fraction", "engine.options.build.max_lora_rank"),
    "llmapi": ("serving.engine_args.peft_cache_config.device_cache_percent", "serving.engine_args.lora_config.max_lora_rank"),
}
"""Fields that say how large the cache is, and how large an adapter may be."""

_ATTENTION = ("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense")
_PLAIN = ("mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "mlp_gate_up")


@dataclass(frozen=True)
class Adapters:
    """The cache on one GPU.

    Attributes:
        bytes: of the cache. adapter: of one adapter of the largest rank that is asked for.
        before: the cache is taken before the KV cache gets its share; otherwise from what that leaves.
    """

    bytes: int
    adapter: int
    rank: int
    before: bool

    @property
    def count(self) -> int:
        return self.bytes // self.adapter


def adapters_of(shape: Shape, recipe: Recipe, left: int, share: float) -> Adapters | None:
    """
    Args:
        left: bytes of a GPU beside weights, activations and overhead. share: of these, that the KV cache gets.
    """
    engine, serving, left = recipe.engine, recipe.serving, max(0, left)
    if engine.builder == "tensorrt_llm" and engine.options.build.get("lora_plugin", "disable") not in (False, "disable"):
        rank = _number(engine.options.build.get("max_lora_rank"), USUAL_RANK)
        modules = str(engine.options.build.get("lora_target_modules", "")).split()
        part = _share(serving.parameters.get("lora_cache_gpu_memory_fraction"), ENGINE_SHARE)
        return Adapters(int(part * (left - int(left * share))), _adapter(shape, rank, modules), rank, before=False)
    if engine.builder == "llmapi" and (serving.adapters or asked_of_llmapi(serving.engine_args)):
        config, cache = _mapping(recipe, "lora_config"), _mapping(recipe, "peft_cache_config")
        rank = _number(config.get("max_lora_rank"), USUAL_RANK)
        told = config.get("lora_target_modules")
        adapter = _adapter(shape, rank, told if isinstance(told, list) else ())
        at_least = adapter * _number(config.get("max_loras"), 0)
        return Adapters(
            max(at_least, int(_share(cache.get("device_cache_percent"), LLMAPI_SHARE) * left)), adapter, rank, before=True
        )
    return None


def share_field(recipe: Recipe, share: float) -> tuple[str, Any]:
    """The field that says how large the cache is, and its value for this share."""
    if recipe.engine.builder == "tensorrt_llm":
        return FIELDS["tensorrt_llm"][0], share
    field, _, name = FIELDS["llmapi"][0].rpartition(".")
    return field, {**_mapping(recipe, "peft_cache_config"), name: share}


def _adapter(shape: Shape, rank: int, modules: Any) -> int:
    """Bytes of one adapter; of all matrices if the modules are not named, or are none of the plain ones. Experts are left out:
    few adapters change them."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "attn_qkv": hidden + queries + 2 * keys,
        "attn_q": hidden + queries,
        "attn_k": hidden + keys,
        "attn_v": hidden + keys,
        "attn_dense": hidden + queries,
        "mlp_h_to_4h": hidden + inner,
        "mlp_4h_to_h": hidden + inner,
        "mlp_gate": hidden + inner,
        "mlp_gate_up": hidden + 2 * inner,
    }

    def of(names: Iterable[str]) -> int:
        attention = sum(sizes[name] for name in names if name in _ATTENTION)
        plain = sum(sizes[name] for name in names if name in _PLAIN)
        return 2 * rank * (shape.layers * attention + (shape.layers - shape.expert_layers) * plain)

    named = [name for name in modules if isinstance(name, str) and name in sizes]
    return of(named) or of(["attn_q", "attn_k", "attn_v", "attn_dense", *_PLAIN[:3]])


def _mapping(recipe: Recipe, name: str) -> dict[str, Any]:
    value = recipe.serving.engine_args.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: Any, usual: int) -> int:
    return value if type(value) is int and value > 0 else usual


def _share(value: Any, usual: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1 else usual
