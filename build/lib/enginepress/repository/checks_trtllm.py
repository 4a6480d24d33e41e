"""Checks of TensorRT-LLM engines against the config that serves them: ranks, limits, release, GPUs, parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enginepress.repository.checks_parameters import check_parameters
from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model, Repository
from enginepress.repository.mappings import number, read_mapping, section
from enginepress.repository.paths import resolve

BATCHING_TYPES = ("inflight_fused_batching", "inflight_batching", "V1", "v1")
SCHEDULER_POLICIES = ("guaranteed_no_evict", "max_utilization")
MAX_RANKS = 65_536

_SIZES = ("tp_size", "pp_size", "cp_size", "world_size")
_LIMITS = ("max_batch_size", "max_beam_width", "max_input_len", "max_seq_len", "max_num_tokens")
_FAR = 1000
_TENSORS_OF: tuple[tuple[frozenset[str], tuple[int, int], tuple[int, int]], ...] = (
    (frozenset({"return_kv_cache_reuse_stats"}), (0, 18), (0, 19)),
    (frozenset({"random_seed", "return_perf_metrics"}), (0, 19), (1, 0)),
    (frozenset({"return_num_input_tokens"}), (1, 0), (_FAR, 0)),
)
"""Inputs that only one generation of NVIDIA's engine model has -> its first TensorRT-LLM, and the first that has it no more."""

_ENGINE_PATHS = ("gpt_model_path", "encoder_model_path")
_RANK = re.compile(r"rank([0-9]+)\.engine")


def check_tensorrt_llm(repository: Repository, model: Model) -> Iterator[Finding]:
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
    ours = False
    for key in _ENGINE_PATHS:
        value = model.parameter(key)
        found = resolve(repository, model, value) if value else None
        if found is not None and found.path is not None:
            ours = ours or found.inside
            yield from _check_trt_engine(model, key, found.path, ours=found.inside)
    yield from check_parameters(model, ours=ours)
    yield from _check_streaming(repository, model)


def _check_streaming(repository: Repository, model: Model) -> Iterator[Finding]:
    """Preprocessing tells the engine to stream, and Triton lets only a decoupled model answer more than once."""
    config: Any = model.config
    decoupled = config.model_transaction_policy.decoupled
    path = model.parameter("gpt_model_path")
    for other in repository.models.values():
        said = other.parameter("streaming")
        if other is model or path is None or other.parameter("gpt_model_path") != path or said not in ("true", "false"):
            continue
        if (said == "true") != decoupled:
            yield error(
                model.name,
                model.config_file,
                f"model_transaction_policy.decoupled is {str(decoupled).lower()}, but {other.config_file} has streaming {said}",
                "make both equal",
            )


def _check_trt_engine(model: Model, key: str, folder: Path, *, ours: bool) -> Iterator[Finding]:
    config: Any = model.config
    where = str(folder)
    engine = read_mapping(folder / "config.json")
    if engine is None:
        yield error(model.name, model.config_file, f"parameter {key}: {where} has no readable config.json, so it is no engine")
        return
    yield from _check_numbers(model, where, engine)
    yield from _check_release(model, where, engine, ours=ours)
    yield from _check_record(model, folder, engine)
    ranks = {int(m.group(1)) for m in map(_RANK.fullmatch, (p.name for p in folder.iterdir())) if m}
    mapping = section(section(engine, "pretrained_config"), "mapping")
    sizes = [number(mapping, name) or 1 for name in ("tp_size", "pp_size", "cp_size")]
    product = sizes[0] * sizes[1] * sizes[2]
    world = number(mapping, "world_size") or product
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
    yield from _check_instances(model, world, ours=ours)
    limit = number(section(engine, "build_config"), "max_batch_size")
    if limit is not None and config.max_batch_size > limit:
        yield error(
            model.name,
            model.config_file,
            f"max_batch_size is {config.max_batch_size}, but the engine was built for {limit}",
            f"set max_batch_size to {limit} at most, or build the engine for {config.max_batch_size}",
        )
    beams = number(section(engine, "build_config"), "max_beam_width")
    asked = model.parameter("max_beam_width") or ""
    if beams is not None and asked.isdigit() and int(asked) > beams:
        yield error(model.name, model.config_file, f"parameter max_beam_width is {asked}, but the engine was built for {beams}")


def _check_numbers(model: Model, where: str, engine: dict[str, Any]) -> Iterator[Finding]:
    """What the backend reads of config.json, which is strict about types. Engines before 0.9 have another file."""
    if "builder_config" in engine:
        return
    again = "build the engine again, or copy its own config.json"
    mapping, built = section(engine, "pretrained_config").get("mapping"), engine.get("build_config")
    numbers: dict[str, Any] = {}
    for place, values, names in (("pretrained_config.mapping", mapping, _SIZES), ("build_config", built, _LIMITS)):
        if isinstance(values, dict):
            numbers |= {f"{place}.{name}": values.get(name) for name in names}
        else:
            yield error(model.name, model.config_file, f"{where}/config.json: {place} is not set", again)
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            yield error(model.name, model.config_file, f"{where}/config.json: {name} is {value!r}, which is no number", again)


def _check_release(model: Model, where: str, engine: dict[str, Any], *, ours: bool) -> Iterator[Finding]:
    """An engine runs only with the TensorRT-LLM that built it, and the config's tensors are those of a release too."""
    make = error if ours else warning
    version = engine.get("version")
    release = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if release is None:
        said = "is not set" if version is None else f"is {version!r}"
        yield make(
            model.name,
            model.config_file,
            f"{where}/config.json: version {said}, so the TensorRT-LLM that built the engine is not known",
            "build the engine again, or copy its own config.json",
        )
        return
    config: Any = model.config
    tensors = {tensor.name for tensor in config.input}
    for names, first, end in _TENSORS_OF:
        if names <= tensors and not first <= (int(release[1]), int(release[2])) < end:
            since = ".".join(map(str, first))
            before = f" and before {end[0]}.{end[1]}" if end[0] < _FAR else ""
            yield make(
                model.name,
                model.config_file,
                f"the engine was built by TensorRT-LLM {version} ({where}/config.json), but the config has the tensors of "
                f"{since} and later{before} ({', '.join(sorted(names))})",
                "build the engine with the container that serves it, or assemble the repository for the engine's",
            )


def _check_record(model: Model, folder: Path, engine: dict[str, Any]) -> Iterator[Finding]:
    """`enginepress.json` beside the engine."""
    if not (folder / "enginepress.json").exists():
        return
    record = read_mapping(folder / "enginepress.json") or {}
    version = record.get("tensorrt_llm")
    if record.get("format") != 1 or not isinstance(version, str):
        yield error(
            model.name,
            model.config_file,
            f"{folder}/enginepress.json is no engine record, so where the engine runs is not known",
            "build the engine again",
        )
    elif engine.get("version") not in (None, version):
        yield error(
            model.name,
            model.config_file,
            f"{folder}/enginepress.json says TensorRT-LLM {version}, but config.json says {engine['version']}",
            "build the engine again: one of the two is of another engine",
        )


def _check_instances(model: Model, world: int, *, ours: bool) -> Iterator[Finding]:
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
    if world == 1 and instances > 1 and ";" not in devices:
        make = error if ours else warning
        yield make(
            model.name,
            model.config_file,
            f"instance_group has {instances} instances of the engine, and all of them take the same GPU's memory",
            "set count: 1, or name a GPU for each in gpu_device_ids, separated by ';'",
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
