"""Checks of models that serve a checkpoint: llmapi's model.yaml and vLLM's model.json against the config beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import EnginepressError
from enginepress.files import walk_files
from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model
from enginepress.repository.mappings import read_mapping
from enginepress.repository.plans.engine_args import load_arguments, unknown_names
from enginepress.repository.plans.nearest import nearest

SHARES = ("gpu_memory_utilization", "free_gpu_memory_fraction")
"""Arguments that are a share of a GPU's memory, at the top or in kv_cache_config."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz")
"""Files that one of the two servers reads weights from."""

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")


def check_arguments(model: Model, path: str, values: Mapping[str, Any], *, ours: bool) -> Iterator[Finding]:
    """
    Args:
        path: of model.json or model.yaml in the model's folder.
        values: what it holds.
        ours: whether enginepress wrote the repository. In another one, what a release may have that is not known here is a
            warning.
    """
    file = f"{model.name}/{path}"
    yield from _check_names(model, file, values, "llmapi" if path.endswith(".yaml") else "vllm", ours=ours)
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
        yield from _check_vllm(model, file, values, ours=ours)


def _check_names(
    model: Model, file: str, values: Mapping[str, Any], builder: Literal["llmapi", "vllm"], *, ours: bool
) -> Iterator[Finding]:
    arguments = load_arguments(builder)
    known = arguments.known | set(arguments.elsewhere)
    make = error if ours else warning
    for name in values:
        if name not in known:
            what = "the LLM API" if builder == "llmapi" else "vLLM"
            yield make(model.name, file, f"{what} is not known to have an argument '{name}'", nearest(str(name), sorted(known)))
    for path, name, near in unknown_names(values, arguments):
        yield make(model.name, file, f"{path} is not known to have '{name}'", near)


def check_checkpoint_folder(model: Model, file: str, values: Mapping[str, Any], folder: Path, *, ours: bool) -> Iterator[Finding]:
    """What lies in the checkpoint's folder against the arguments that it is loaded with."""
    make = error if ours else warning
    try:
        names = list(walk_files(folder))
    except (OSError, EnginepressError):
        return
    config = read_mapping(folder / "config.json")
    if config is None and ("config.json" in names or "params.json" not in names):
        yield error(
            model.name,
            file,
            f"model: {folder} has no readable config.json, so it is no checkpoint",
            "put the whole checkpoint there",
        )
    if values.get("load_format") != "dummy":
        yield from _check_weights(model, file, folder, names)
    if values.get("trust_remote_code") is True:
        return
    code = [name for name in names if name.endswith(".py")]
    fix = "take it out, or set trust_remote_code if you trust it"
    if code:
        yield make(
            model.name, file, f"model: {folder} holds Python code ({', '.join(code[:3])}), though trust_remote_code is false", fix
        )
    if config is not None and config.get("auto_map") is not None:
        yield make(
            model.name,
            file,
            f"model: config.json in {folder} names Python code of its own (auto_map), though trust_remote_code is false",
            fix,
        )
    longest = values.get("max_model_len")
    if config is not None and isinstance(longest, int) and not isinstance(longest, bool):
        context = _context(config)
        if context is not None and longest > context:
            yield make(
                model.name,
                file,
                f"max_model_len is {longest}, but the model was made for {context} tokens, so vLLM does not load it",
                f"set it to {context} at most",
            )


def _check_weights(model: Model, file: str, folder: Path, names: list[str]) -> Iterator[Finding]:
    index = read_mapping(folder / "model.safetensors.index.json") or {}
    shards = index.get("weight_map")
    missing = sorted({str(name) for name in shards.values()} - set(names)) if isinstance(shards, dict) else []
    if missing:
        yield error(
            model.name,
            file,
            f"model: {folder} lacks {len(missing)} of the files that its model.safetensors.index.json names ({missing[0]})",
            "put the whole checkpoint there",
        )
    elif not any(name.endswith(WEIGHTS) for name in names):
        yield error(model.name, file, f"model: {folder} holds no weights", "put the checkpoint's safetensors there")


def _context(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model was made for; None where config.json says nothing or stretches them."""
    for section in (config, config.get("text_config")):
        if isinstance(section, dict) and any(section.get(name) for name in ("rope_scaling", "rope_parameters")):
            return None
    from enginepress.engines.architecture import read_shape  # it imports all that engines need

    try:
        return read_shape(config).context
    except EnginepressError:
        return None


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


def _check_vllm(model: Model, file: str, values: Mapping[str, Any], *, ours: bool) -> Iterator[Finding]:
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
        if kind == "KIND_CPU":
            make = error if ours else warning
            yield make(
                model.name,
                model.config_file,
                "instance_group has KIND_CPU, but the vLLM backend needs GPUs",
                "set kind: KIND_MODEL",
            )
        elif world > 1 and kind != "KIND_MODEL":
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
