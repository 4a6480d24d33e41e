"""Checks of LLM engines against the config that serves them: ranks, batch size, tokenizer, model paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enginepress.repository.checks_backend import backend_of
from enginepress.repository.checks_checkpoint import check_arguments
from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model, Repository, read_regular
from enginepress.repository.paths import resolve
from enginepress.repository.templates import MARK, PATH_FILES, PATH_PARAMETERS

BATCHING_TYPES = ("inflight_fused_batching", "inflight_batching", "V1", "v1")
SCHEDULER_POLICIES = ("guaranteed_no_evict", "max_utilization")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
GENAI_DEFAULT_BATCH = 4
"""What ONNX Runtime GenAI takes when genai_config.json names no static batching."""

MAX_RANKS = 65_536

_ENGINE_PATHS = ("gpt_model_path", "encoder_model_path")
_RANK = re.compile(r"rank([0-9]+)\.engine")
_MAX_MAPPING = {".json": 5_000_000, ".yaml": 100_000}
"""Bytes. PyYAML is slow, and no model.yaml is near this size."""


def check_engine(repository: Repository, model: Model) -> Iterator[Finding]:
    """Whatever engine this model serves."""
    if model.config is None or model.is_ensemble:
        return
    backend = backend_of(model)
    yield from _check_path_parameters(repository, model)
    if backend == "tensorrtllm":
        yield from _check_tensorrt_llm(repository, model)
    for version in model.served_versions():
        for name in PATH_FILES:
            if f"{version}/{name}" in model.entries and (name, backend) in (("model.json", "vllm"), ("model.yaml", "python")):
                yield from _check_model_file(repository, model, f"{version}/{name}")
        yield from _check_genai(model, version)


# ------------------------------------------------------------------------------------------------------------------
# Paths
# ------------------------------------------------------------------------------------------------------------------


def _check_path_parameters(repository: Repository, model: Model) -> Iterator[Finding]:
    for key in PATH_PARAMETERS:
        value = model.parameter(key)
        if not value:
            continue
        yield from _check_path(repository, model, model.config_file, f"parameter {key}", value, tokenizer="tokenizer" in key)


def _check_path(repository: Repository, model: Model, file: str, label: str, value: str, *, tokenizer: bool) -> Iterator[Finding]:
    found = resolve(repository, model, value)
    if found.path is not None:
        if tokenizer and found.path.is_dir() and not any((found.path / name).is_file() for name in TOKENIZER_FILES):
            yield error(
                model.name, file, f"{label}: {value} holds no tokenizer", f"put one of {', '.join(TOKENIZER_FILES)} there"
            )
    elif found.inside:
        yield error(model.name, file, f"{label}: {value} is not in the repository", "assemble or publish it again")
    elif found.hub:
        yield warning(
            model.name,
            file,
            f"{label}: '{value}' reads like a name on a model hub, so the server would download it when it starts",
            "name a local folder",
        )
    elif found.relative:
        yield warning(model.name, file, f"{label}: '{value}' is relative to the server's working folder", "name an absolute path")
    else:
        yield warning(model.name, file, f"{label}: {value} is not there on this machine", "check it where the server runs")


def _check_model_file(repository: Repository, model: Model, path: str) -> Iterator[Finding]:
    """vllm's model.json and llmapi's model.yaml: a mapping whose `model` names a checkpoint."""
    file = f"{model.name}/{path}"
    values = read_mapping(model.folder / path)
    if values is None:
        yield error(model.name, file, "is not a readable mapping of names to values")
        return
    if not isinstance(values.get("model"), str) or not values["model"]:
        yield error(model.name, file, "model is not set", "name the checkpoint's folder")
        return
    yield from check_arguments(model, path, values)
    yield from _check_path(repository, model, file, "model", values["model"], tokenizer="tokenizer" not in values)
    if isinstance(values.get("tokenizer"), str):
        yield from _check_path(repository, model, file, "tokenizer", values["tokenizer"], tokenizer=True)


def rootless_paths(model: Model) -> Iterator[tuple[str, str, str]]:
    """File, field and value of each path that has no readers' root yet (see `enginepress.repository.templates`)."""
    for key in PATH_PARAMETERS:
        value = model.parameter(key)
        if value is not None and value.startswith(MARK):
            yield model.config_file, f"parameter {key}", value
    for version in model.served_versions():
        for name, keys in PATH_FILES.items():
            values = read_mapping(model.folder / str(version) / name) or {}
            for key in keys:
                if isinstance(values.get(key), str) and values[key].startswith(MARK):
                    yield f"{model.name}/{version}/{name}", key, values[key]


# ------------------------------------------------------------------------------------------------------------------
# TensorRT-LLM
# ------------------------------------------------------------------------------------------------------------------


def _check_tensorrt_llm(repository: Repository, model: Model) -> Iterator[Finding]:
    config: Any = model.config
    if not any(model.parameter(key) for key in _ENGINE_PATHS):
        yield error(
            model.name,
            model.config_file,
            "sets neither of the parameters gpt_model_path and encoder_model_path",
            "set gpt_model_path to the engine's folder",
        )
    forced = model.parameter("FORCE_CPU_ONLY_INPUT_TENSORS")
    if forced is not None and forced not in ("yes", "no"):
        yield error(model.name, model.config_file, f"parameter FORCE_CPU_ONLY_INPUT_TENSORS is '{forced}'", "set it to yes or no")
    kind = model.parameter("gpt_model_type")
    if kind is not None and kind not in BATCHING_TYPES:
        yield error(
            model.name, model.config_file, f"parameter gpt_model_type is '{kind}'", f"one of: {', '.join(BATCHING_TYPES)}"
        )
    policy = model.parameter("batch_scheduler_policy")
    if policy and policy not in SCHEDULER_POLICIES:
        yield warning(
            model.name,
            model.config_file,
            f"parameter batch_scheduler_policy is '{policy}', which the backend replaces by its default",
            f"one of: {', '.join(SCHEDULER_POLICIES)}",
        )
    devices = model.parameter("gpu_device_ids")
    instances = sum(max(group.count, 1) for group in config.instance_group) or 1
    if devices and ";" in devices and devices.count(";") + 1 != instances:
        yield error(
            model.name,
            model.config_file,
            f"parameter gpu_device_ids names {devices.count(';') + 1} sets of GPUs, but instance_group has {instances} instances",
            "name one set per instance, separated by ';'",
        )
    for key in _ENGINE_PATHS:
        value = model.parameter(key)
        folder = resolve(repository, model, value).path if value else None
        if folder is not None:
            yield from _check_trt_engine(model, key, folder)


def _check_trt_engine(model: Model, key: str, folder: Path) -> Iterator[Finding]:
    config: Any = model.config
    where = str(folder)
    engine = read_mapping(folder / "config.json")
    if engine is None:
        yield error(model.name, model.config_file, f"parameter {key}: {where} has no readable config.json, so it is no engine")
        return
    ranks = {int(m.group(1)) for m in map(_RANK.fullmatch, (p.name for p in folder.iterdir())) if m}
    mapping = _section(_section(engine, "pretrained_config"), "mapping")
    sizes = [_number(mapping, name) or 1 for name in ("tp_size", "pp_size", "cp_size")]
    product = sizes[0] * sizes[1] * sizes[2]
    world = _number(mapping, "world_size") or product
    spread = f"TP {sizes[0]} x PP {sizes[1]}" + (f" x CP {sizes[2]}" if sizes[2] > 1 else "")
    if world > MAX_RANKS:
        yield error(model.name, model.config_file, f"{where}/config.json: world_size is {world}, which no server has")
        return
    if world != product:
        yield error(model.name, model.config_file, f"{where}/config.json: world_size is {world}, but {spread} is {product}")
    missing = sorted(set(range(world)) - ranks)
    if missing:
        names = ", ".join(f"rank{rank}.engine" for rank in missing)
        yield error(
            model.name,
            model.config_file,
            f"parameter {key}: {where} has {len(ranks)} of {world} ranks ({spread}); missing: {names}",
            "build the engine again, or copy all of it",
        )
    if extra := sorted(ranks - set(range(world))):
        names = ", ".join(f"rank{rank}.engine" for rank in extra)
        yield error(
            model.name, model.config_file, f"parameter {key}: {where} has {names}, more than the {world} ranks of {spread}"
        )
    yield from _check_instances(model, world)
    limit = _number(_section(engine, "build_config"), "max_batch_size")
    if limit is not None and config.max_batch_size > limit:
        yield error(
            model.name,
            model.config_file,
            f"max_batch_size is {config.max_batch_size}, but the engine was built for {limit}",
            f"set max_batch_size to {limit} at most, or build the engine for {config.max_batch_size}",
        )
    beams = _number(_section(engine, "build_config"), "max_beam_width")
    asked = model.parameter("max_beam_width") or ""
    if beams is not None and asked.isdigit() and int(asked) > beams:
        yield error(model.name, model.config_file, f"parameter max_beam_width is {asked}, but the engine was built for {beams}")


def _check_instances(model: Model, world: int) -> Iterator[Finding]:
    """Instances and GPUs against the engine's ranks."""
    config: Any = model.config
    instances = sum(max(group.count, 1) for group in config.instance_group) or 1
    devices = model.parameter("gpu_device_ids") or ""
    for named in filter(None, devices.split(";")):
        count = len(set(named.split(",")))
        if count != world:
            yield error(
                model.name,
                model.config_file,
                f"parameter gpu_device_ids: '{named}' names {count} GPUs, but the engine has {world} ranks",
                f"name {world} GPUs in each set",
            )
    if world > 1 and instances > 1 and ";" not in devices:
        yield error(
            model.name,
            model.config_file,
            f"instance_group has {instances} instances of an engine of {world} ranks on the same GPUs",
            "set count: 1, or name a set of GPUs for each in gpu_device_ids",
        )
    for group in config.instance_group:
        if type(group).Kind.Name(group.kind) == "KIND_GPU":
            yield error(
                model.name,
                model.config_file,
                "instance_group has KIND_GPU, so Triton would start an instance on every GPU, though the backend places ranks "
                "itself",
                "set kind: KIND_CPU",
            )


# ------------------------------------------------------------------------------------------------------------------
# ONNX Runtime GenAI behind the python backend
# ------------------------------------------------------------------------------------------------------------------


def _check_genai(model: Model, version: int) -> Iterator[Finding]:
    for path in model.files_under(str(version)):
        if path.split("/")[-1] == "genai_config.json":
            yield from _check_genai_engine(model, version, path)


def _check_genai_engine(model: Model, version: int, path: str) -> Iterator[Finding]:
    file = f"{model.name}/{version}/{path}"
    engine = read_mapping(model.folder / str(version) / path)
    if engine is None:
        yield error(model.name, file, "is not a readable mapping of names to values", "build the engine again")
        return
    present = model.files_under(str(version))
    folder = path.rpartition("/")[0]
    graph = _section(_section(engine, "model"), "decoder").get("filename")
    if isinstance(graph, str) and (f"{folder}/{graph}" if folder else graph) not in present:
        yield error(model.name, file, f"model.decoder.filename is '{graph}', which is not beside it", "build the engine again")
    batch = _number(_section(_section(engine, "engine"), "static_batching"), "max_batch_size") or GENAI_DEFAULT_BATCH
    asked = model.parameter("max_batch_size") or ""
    if asked.isdigit() and int(asked) > batch:
        yield error(
            model.name,
            model.config_file,
            f"parameter max_batch_size is {asked}, but the engine takes {batch} ({path})",
            f"set it to {batch} at most, or build the engine for {asked}",
        )
    context = _number(_section(engine, "model"), "context_length")
    length = model.parameter("max_sequence_length") or ""
    if context is not None and length.isdigit() and int(length) > context:
        yield error(
            model.name,
            model.config_file,
            f"parameter max_sequence_length is {length}, but the model was made for {context} ({path})",
            f"set it to {context} at most",
        )
    if not any(name.split("/")[-1] in TOKENIZER_FILES for name in present):
        yield error(
            model.name,
            f"{model.name}/{version}",
            "has no tokenizer, which text in and out needs",
            f"put one of {', '.join(TOKENIZER_FILES)} beside the engine",
        )


# ------------------------------------------------------------------------------------------------------------------
# JSON and YAML of unknown origin
# ------------------------------------------------------------------------------------------------------------------


def read_mapping(path: Path) -> dict[str, Any] | None:
    """A JSON or YAML file that holds a mapping, or None."""
    limit = _MAX_MAPPING[path.suffix]
    content = read_regular(path, limit + 1)
    if content is None or len(content) > limit:
        return None
    try:
        if path.suffix == ".json":
            value = json.loads(content)
        else:
            import yaml

            try:
                value = yaml.safe_load(content)
            except yaml.YAMLError:
                return None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _number(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
