"""Puts right what ModelOpt says in a TensorRT-LLM config.json: adds what it leaves out, and refuses where it contradicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginepress.errors import BuildError

_DROPPED = ("rank", "share_embedding_table")
"""Of one rank, or not true for all of them; TensorRT-LLM has no such keys."""


def complete_config(configs: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Args:
        configs: what ModelOpt says for each rank.
        job: `fields` are those of `enginepress.engines.modelopt.fields.model_fields`; `dtype`, `tensor`, `pipeline`,
            `algorithm` and `kv_cache_algorithm` are what was asked for.

    Raises:
        BuildError: if ModelOpt says something else than config.json or the recipe.
    """
    last = dict(configs[-1])
    wanted = {
        **job["fields"],
        "dtype": job["dtype"],
        "mapping": {"world_size": job["tensor"] * job["pipeline"], "tp_size": job["tensor"], "pp_size": job["pipeline"]},
    }
    for config in configs:
        for name, value in wanted.items():
            if name in config and config[name] != value:
                raise BuildError(f"ModelOpt says '{name}': {config[name]!r}, and the checkpoint's config.json {value!r}")
    for name in _DROPPED:
        last.pop(name, None)
    return {
        **last,
        **wanted,
        # ModelOpt asks for float16 logits of a bfloat16 model; float32 is TensorRT-LLM's own default.
        "logits_dtype": "float32",
        "quantization": _quantization(configs, job),
    }


def _quantization(configs: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in configs[-1]["quantization"].items() if key != "quantized_layers"}
    if job["quantization"] is not None and said.get("quant_algo") != job["algorithm"]:
        raise BuildError(f"ModelOpt says 'quant_algo': {said.get('quant_algo')!r}, and {job['algorithm']!r} was asked for")
    kv_cache = said.get("kv_cache_quant_algo")
    if kv_cache != job["kv_cache_algorithm"]:
        raise BuildError(f"ModelOpt says 'kv_cache_quant_algo': {kv_cache!r}, and {job['kv_cache_algorithm']!r} was asked for")
    excluded = sorted({name for config in configs for name in config["quantization"].get("exclude_modules") or ()})
    # null: TensorRT-LLM then leaves out its own list, which has the embedding and the head. An empty list would do as much in
    # one place of it and not in another.
    return {**said, "quant_algo": job["algorithm"], "exclude_modules": excluded or None}
