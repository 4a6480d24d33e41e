"""Checks of models that serve a checkpoint: llmapi's model.yaml and vLLM's model.json against the config beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginepress.repository.findings import Finding, error
from enginepress.repository.inventory import Model

SHARES = ("gpu_memory_utilization", "free_gpu_memory_fraction")
"""Arguments that are a share of a GPU's memory, at the top or in kv_cache_config."""

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")


def check_arguments(model: Model, path: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    """
    Args:
        path: of model.json or model.yaml in the model's folder.
        values: what it holds.
    """
    file = f"{model.name}/{path}"
    for name in SIZES:
        size = values.get(name, 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            yield error(model.name, file, f"{name} is {size!r}", "it is a number of GPUs, 1 or more")
            return
    inner = values.get("kv_cache_config")
    for section in (values, inner if isinstance(inner, dict) else {}):
        for name in SHARES:
            share = section.get(name, 1)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
                yield error(model.name, file, f"{name} is {share!r}", "it is a share of the GPU's memory: above 0 and at most 1")
    for key in _placeholders(values):
        yield error(model.name, file, f"{key} holds a placeholder ${{…}} that was never filled", "write a value in its place")
    if path.endswith(".yaml"):
        yield from _check_llmapi(model, file, values)
    else:
        yield from _check_vllm(model, file, values)


def _check_llmapi(model: Model, file: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    """NVIDIA's model copies triton_config into the config when Triton completes it; without that, both must say the same."""
    config: Any = model.config
    said = values.get("triton_config")
    if not isinstance(said, dict):
        if not config.input:
            yield error(model.name, file, "triton_config is not set", "set max_batch_size: 0 and decoupled in it")
        return
    mine = {
        "decoupled": config.model_transaction_policy.decoupled,
        "max_batch_size": config.max_batch_size,
    }
    for name, value in mine.items():
        if name in said and said[name] != value:
            yield error(
                model.name,
                file,
                f"triton_config.{name} is {_plain(said[name])}, but {model.config_file} says {_plain(value)}",
                "make both equal",
            )


def _check_vllm(model: Model, file: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    """What vLLM's backend demands when it loads (vllm_backend, src/model.py)."""
    config: Any = model.config
    if config.input and not config.model_transaction_policy.decoupled:
        yield error(
            model.name,
            model.config_file,
            "model_transaction_policy.decoupled is false, and the vLLM backend works decoupled only",
            "set it to true",
        )
    world = values.get("tensor_parallel_size", 1) * values.get("pipeline_parallel_size", 1)
    for group in config.instance_group:
        kind = type(group).Kind.Name(group.kind)
        if world > 1 and kind != "KIND_MODEL":
            yield error(
                model.name,
                model.config_file,
                f"instance_group has {kind}, but {file} spreads the model over {world} GPUs",
                "set kind: KIND_MODEL",
            )


def _placeholders(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, str) and "${" in value:
            yield str(key)
        elif isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in _placeholders(value))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
