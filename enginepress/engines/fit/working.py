"""What a rank needs of its GPU beside weights and KV cache: activations, and what CUDA, the driver and the runtime take.

Both are ESTIMATES. That activations grow with max_num_tokens, that one layer's are reused by all, and that tensor parallelism
divides the inner ones: NVIDIA/TensorRT-LLM docs/source/legacy/reference/memory.md, "Activation size" (commits: docs/plan.md).
The factors are fitted to the one complete log in that document (7B, 8192 tokens, 80 GB GPU): execution context 1134 MiB, runtime
buffers and decoder 224 MiB, 79.10 GiB of 81559 MiB visible, 70.48 GiB left after an engine of 6695 MiB.
"""

from __future__ import annotations

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.sizes import GIB, activation_bytes
from enginepress.engines.prompts import tokens_of
from enginepress.recipe import Recipe
from enginepress.repository.plans.vllm import GPU_SHARE

HIDDEN_COPIES = 4
"""Tensors of the hidden size that are alive at once: residual, normed input, output, and one being exchanged."""

INNER_COPIES = 3
"""Tensors of the feed-forward width that are alive at once: gate, up, and their product."""

EXPERT_COPIES = 3
"""Of a token for each of its experts: what goes in, what comes out, and that in the tokens' order. Without the last two the plan
was 17 % below what torch allocated for a model like Mixtral on an H200 (docs/gpu.md)."""

LOGIT_BYTES = 4
"""Logits are kept in 32 bit (checkpoint.md: logits_dtype float32)."""

DRIVER_SHARE = 0.007
"""Of all memory, that the driver keeps: 81559 MiB are 79.10 GiB for CUDA."""

CONTEXT_BYTES = int(0.75 * GIB)
"""CUDA's context, kernels and libraries: what the log above leaves unexplained."""

BUFFER_BYTES = int(0.25 * GIB)
"""Runtime buffers and decoder."""

EXCHANGE_BYTES = int(0.5 * GIB)
"""Buffers of NCCL and of all-reduce, on each of several ranks. Not from the log: a guess on the safe side."""


def activations_of(shape: Shape, recipe: Recipe, sequence: int) -> int:
    """Bytes, on one rank."""
    engine = recipe.engine
    tensor, number = engine.parallelism.tensor, activation_bytes(engine.precision)
    widths = [shape.intermediate_size / tensor] if shape.expert_layers < shape.layers else []
    if shape.experts is not None:
        # A token has a copy of itself, and an inner state, for each of its experts.
        inner = shape.experts.active * shape.experts.intermediate_size + shape.experts.shared_size
        copies = EXPERT_COPIES * shape.experts.active * shape.hidden_size
        widths.append(inner / tensor + copies / INNER_COPIES)
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim / tensor
    if shape.latent is not None:
        heads = shape.heads * (shape.latent.nope_dim + shape.latent.rope_dim + shape.latent.value_dim) / tensor
    of_token = number * (HIDDEN_COPIES * shape.hidden_size + INNER_COPIES * max(widths) + heads)
    tokens = tokens_of(recipe, sequence) / engine.parallelism.context
    logits = engine.limits.max_batch_size * engine.limits.max_beam_width * shape.vocab_size * LOGIT_BYTES
    return int(tokens * of_token + logits)


def overhead_of(recipe: Recipe, memory: int) -> int:
    """Bytes of a GPU with this much memory that no engine gets."""
    several = recipe.engine.parallelism.world_size > 1
    return int(memory * DRIVER_SHARE) + CONTEXT_BYTES + BUFFER_BYTES + (EXCHANGE_BYTES if several else 0)


def cache_share(recipe: Recipe) -> float:
    """Share of the memory left after loading that the KV cache gets (for vLLM: share of all memory that it uses).

    TensorRT-LLM: 0.9 unless said otherwise (memory.md, "KV cache tensor"); vLLM: `gpu_memory_utilization`, which is written out
    (`enginepress.repository.plans.vllm`).
    """
    serving = recipe.serving
    if recipe.engine.builder == "tensorrt_llm":
        value = serving.parameters.get("kv_cache_free_gpu_mem_fraction", 0.9)
    elif recipe.engine.builder == "llmapi":
        config = serving.engine_args.get("kv_cache_config")
        value = config.get("free_gpu_memory_fraction", 0.9) if isinstance(config, dict) else 0.9
    else:
        value = serving.engine_args.get("gpu_memory_utilization", GPU_SHARE)
    try:
        share = float(value)
    except (TypeError, ValueError):
        return 0.9
    return share if 0 < share <= 1 else 0.9


def cache_pool(recipe: Recipe, memory: int, taken: int, overhead: int, *, adapters: int = 0) -> int:
    """Bytes that the KV cache gets of a GPU where weights and activations take `taken`; negative if even those do not fit.

    vLLM limits all it uses to a share of all memory; TensorRT-LLM gives the cache a share of what is left.

    Args:
        adapters: bytes that a cache of LoRA adapters has before.
    """
    share = cache_share(recipe)
    if recipe.engine.builder == "vllm":
        return min(int(memory * share) - taken - CONTEXT_BYTES, memory - taken - overhead)
    left = memory - taken - overhead - adapters
    return int(left * share) if left > 0 else left
