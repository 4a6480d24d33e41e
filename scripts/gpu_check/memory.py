"""The plan's memory figures beside what torch allocates for the same model in bfloat16.

Weights and KV cache are arithmetic and must agree. Activations and overhead are estimates for TensorRT-LLM, which torch is
not: their ratio says whether they are of the right size, no more.
"""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Mapping
from typing import Any

from scripts.gpu_check.parts import Settings, rounded

_COMMON = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "max_position_embeddings": 8192}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 6,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "llama, tied, one key head": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 65536,
        "tie_word_embeddings": False,
    },
    "mixtral": {
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 3,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}
"""100 to 350 million parameters each."""

TINY = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}

SHAPES = ((1, 8192), (8, 1024))
"""Requests and tokens of each. All of them are computed in one pass: that is what `max_num_tokens` bounds."""

TOLERANCE = 0.01


def memory(settings: Settings) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"models": {}}
    if settings.device == "cuda":
        found["context"] = _context()
    for name, fields in MODELS.items():
        if settings.left() < 10:
            found["models"][name] = {"skipped": "no time was left"}
            continue
        chosen = {**fields, **_COMMON}
        if settings.tiny:
            chosen = {**chosen, **TINY, "head_dim": 32}
        model = _model(name.split(",")[0], chosen, settings.device)
        try:
            found["models"][name] = _measured(model, settings)
        finally:
            del model
            gc.collect()
            if settings.device == "cuda":
                torch.cuda.empty_cache()
    exact = [row for one in found["models"].values() for key, row in one.items() if key in ("weights", "kv_cache")]
    found["ok"] = all(abs(row["ratio"] - 1) <= TOLERANCE for row in exact)
    return found


def _model(family: str, fields: Mapping[str, Any], device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **fields)
    config.architectures = [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "mixtral": "MixtralForCausalLM"}[family]]
    from_config: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    with torch.device(device):
        model = from_config(config, dtype=torch.bfloat16)
    return model.eval()


def _measured(model: Any, settings: Settings) -> dict[str, Any]:
    shapes = ((1, 256), (4, 64)) if settings.tiny else SHAPES
    config = {**model.config.to_dict(), "dtype": "bfloat16", "architectures": model.config.architectures}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    # vLLM and the LLM API keep a tied embedding once, as torch does; an engine of trtllm-build twice.
    row["weights"] = _beside(_plan(config, "llmapi", 1, 256).weights.rank, weights)
    for batch, tokens in shapes:
        plan = _plan(config, "llmapi", batch, tokens)
        cache, peak = _pass(model, batch, tokens, settings.device)
        # A plan gives memory out in blocks of tokens; these lengths are whole blocks.
        key = "kv_cache" if (batch, tokens) == shapes[0] else "kv_cache_of_batch"
        row[key] = {"requests": batch, "tokens": tokens, **_beside(plan.request * batch, cache)}
        if peak is not None:
            row[f"activations_of_{batch}x{tokens}"] = _beside(plan.activations, peak)
    return row


def _pass(model: Any, batch: int, tokens: int, device: str) -> tuple[int, int | None]:
    """Bytes of the KV cache after one pass, and the most that torch had allocated in it beside weights and cache."""
    import torch

    ids = torch.randint(3, model.config.vocab_size, (batch, tokens), device=device)
    before = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        out = model(ids, use_cache=True, logits_to_keep=1)
    cache = _cache_bytes(out.past_key_values)
    if device != "cuda":
        return cache, None
    torch.cuda.synchronize()
    return cache, torch.cuda.max_memory_allocated() - before - cache


def _cache_bytes(cache: Any) -> int:
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)


def _plan(config: Mapping[str, Any], builder: str, batch: int, tokens: int) -> Any:
    from enginepress.engines import fit
    from enginepress.recipe import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "measured",
            "source": "file:///checkpoint",
            "stores": ["file:///store"],
            "engine": {
                "builder": builder,
                "precision": "bfloat16",
                "gpu": {"name": "H100-SXM5-80GB"},
                "limits": {"max_batch_size": batch, "max_sequence_length": tokens, "max_num_tokens": batch * tokens},
            },
        }
    )
    gpu, container = fit.gpu_and_container(recipe)
    return fit.plan_without_changes(config, None, recipe, gpu, container)


def _beside(planned: float, measured: float) -> dict[str, Any]:
    return {"planned": int(planned), "measured": int(measured), "ratio": rounded(planned / measured) if measured else None}


def _context() -> dict[str, Any]:
    """What the driver keeps of the memory, and what this process takes of it before a model is loaded."""
    import torch

    from enginepress.engines.fit import working

    total = _smi_memory("memory.total")
    before = _smi_memory("memory.used")
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    matrix = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    (matrix @ matrix).sum().item()  # loads cuBLAS
    after = _smi_memory("memory.used")
    visible = torch.cuda.get_device_properties(0).total_memory
    reserved = torch.cuda.memory_reserved()
    return {
        "driver_keeps": {"planned": int(total * working.DRIVER_SHARE), "measured": total - visible},
        "cuda_context_and_libraries": {"planned": working.CONTEXT_BYTES, "measured": after - before - reserved},
        "used_before_mib": before // 2**20,
    }


def _smi_memory(what: str) -> int:
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    line = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()[0]
    return int(float(line)) * 2**20
