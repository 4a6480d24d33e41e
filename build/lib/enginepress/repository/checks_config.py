"""Checks of one config.pbtxt against itself and its folder: name, versions, tensors, batching, instance groups.

The rules are Triton's own (`model_config_utils.cc` and `model_lifecycle.cc` of triton-inference-server/core), and where
Triton accepts what cannot work, ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model


def check_layout(model: Model) -> Iterator[Finding]:
    """The model's folder: its name and its versions."""
    folder = model.name
    config = model.config
    if config is not None and config.name and config.name != model.name:
        yield error(
            model.name,
            model.config_file,
            f"name is '{config.name}', but the folder is '{folder}'",
            "make both equal, or leave name out",
        )
    for odd in model.odd_folders:
        # Triton reads a version with C's stoll: digits in front count, whatever follows.
        digits = re.match(r"\s*[+-]?[0-9]+", odd)
        if odd.startswith("0") and len(odd) > 1:
            yield warning(
                model.name,
                f"{folder}/{odd}",
                "has a leading zero, so Triton ignores it",
                f"rename it to {odd.lstrip('0') or 'a number'} or move it away",
            )
        elif digits is not None and int(digits.group()) not in model.versions:
            yield error(
                model.name,
                f"{folder}/{odd}",
                f"Triton takes this folder for version {digits.group().strip()}, which it then does not find, and may hang",
                "move it out of the model's folder",
            )
    if not model.versions:
        yield error(
            model.name,
            folder,
            "has no version folder"
            + ("; an ensemble needs one too, if only with a placeholder file" if model.is_ensemble else ""),
            f"make {folder}/1",
        )
        return
    if config is not None:
        yield from _check_policy(model)


def _check_policy(model: Model) -> Iterator[Finding]:
    policy = model.config.version_policy if model.config is not None else None
    kind = None if policy is None else policy.WhichOneof("policy_choice")
    present = ", ".join(map(str, model.versions))
    if policy is not None and kind == "specific":
        missing = [v for v in policy.specific.versions if v not in model.versions]
        for version in missing:
            yield error(
                model.name,
                model.config_file,
                f"version_policy.specific names version {version}, but the folder has {present}",
                "name versions that are there",
            )
        if not policy.specific.versions:
            yield error(model.name, model.config_file, "version_policy.specific names no version, so nothing would be loaded")
    elif policy is not None and kind == "latest" and policy.latest.num_versions < 1:
        yield error(model.name, model.config_file, "version_policy.latest.num_versions is 0, so nothing would be loaded")


def check_config(model: Model) -> Iterator[Finding]:
    """The config's own fields."""
    config = model.config
    if config is None:
        return
    if config.max_batch_size < 0:
        yield error(model.name, model.config_file, f"max_batch_size is {config.max_batch_size}", "0 means no batching")
        return
    for kind in ("input", "output"):
        yield from _check_tensors(model, kind, getattr(config, kind))
    yield from _check_batching(model)
    if not model.is_ensemble:
        yield from _check_instance_groups(model)
    if config.model_transaction_policy.decoupled and config.response_cache.enable:
        yield error(
            model.name,
            model.config_file,
            "response_cache.enable and model_transaction_policy.decoupled exclude each other",
            "turn the response cache off",
        )


# ------------------------------------------------------------------------------------------------------------------
# Tensors
# ------------------------------------------------------------------------------------------------------------------


def _check_tensors(model: Model, kind: str, tensors: Any) -> Iterator[Finding]:
    seen: dict[str, Any] = {}
    for index, tensor in enumerate(tensors):
        label = f"{kind} '{tensor.name}'" if tensor.name else f"{kind} number {index + 1}"
        if not tensor.name:
            yield error(model.name, model.config_file, f"{label}: name is not set")
        elif tensor.name in seen:
            same = seen[tensor.name] == tensor
            make = warning if same else error
            how = "twice" if same else "twice, in different ways"
            yield make(model.name, model.config_file, f"{label} is declared {how}", "declare each tensor once")
        seen.setdefault(tensor.name, tensor)
        if tensor.data_type == 0:
            yield error(model.name, model.config_file, f"{label}: data_type is not set", "for example TYPE_FP32")
        if not tensor.dims:
            yield error(model.name, model.config_file, f"{label}: dims is not set", "for example dims: [ -1 ]")
        yield from _check_shape(model, label, tensor)


def _check_shape(model: Model, label: str, tensor: Any) -> Iterator[Finding]:
    for name, dims in (("dims", tensor.dims), ("reshape.shape", tensor.reshape.shape)):
        bad = [d for d in dims if d < 1 and d != -1]
        if bad:
            yield error(
                model.name, model.config_file, f"{label}: {name} has {bad[0]}", "a dimension is at least 1, or -1 for any size"
            )
            return
    if not tensor.HasField("reshape") or not tensor.dims:
        return
    config: Any = model.config
    if not tensor.reshape.shape and config.max_batch_size == 0:
        yield error(
            model.name,
            model.config_file,
            f"{label}: reshape to an empty shape needs batching, but max_batch_size is 0",
            "set max_batch_size to 1 or more, or remove the reshape",
        )
    elif _chunks(tensor.dims) != _chunks(tensor.reshape.shape):
        yield error(
            model.name,
            model.config_file,
            f"{label}: dims {list(tensor.dims)} and reshape {list(tensor.reshape.shape)} hold different numbers of values",
        )


def _chunks(dims: Any) -> list[int]:
    """Products of the sizes between the variable dimensions: what a reshape must keep."""
    chunks: list[int] = []
    current: list[int] = []
    for dim in dims:
        if dim == -1:
            chunks.append(math.prod(current))
            current = []
        else:
            current.append(dim)
    return [*chunks, math.prod(current)]


# ------------------------------------------------------------------------------------------------------------------
# Batching and instances
# ------------------------------------------------------------------------------------------------------------------


def _check_batching(model: Model) -> Iterator[Finding]:
    config: Any = model.config
    sizes = [("dynamic_batching.preferred_batch_size", config.dynamic_batching.preferred_batch_size)]
    if config.HasField("sequence_batching") and config.sequence_batching.HasField("oldest"):
        sizes.append(("sequence_batching.oldest.preferred_batch_size", config.sequence_batching.oldest.preferred_batch_size))
    for field, values in sizes:
        for size in values:
            if size < 1 or size > config.max_batch_size:
                yield error(
                    model.name,
                    model.config_file,
                    f"{field} has {size}, but max_batch_size is {config.max_batch_size}",
                    "use sizes from 1 to max_batch_size",
                )
    levels = config.dynamic_batching.priority_levels
    if levels and not 1 <= config.dynamic_batching.default_priority_level <= levels:
        yield error(
            model.name,
            model.config_file,
            f"dynamic_batching.default_priority_level is {config.dynamic_batching.default_priority_level}, "
            f"but there are the levels 1 to {levels}",
        )
    if config.HasField("sequence_batching") and config.response_cache.enable:
        yield error(model.name, model.config_file, "response_cache.enable and sequence_batching exclude each other")


def _check_instance_groups(model: Model) -> Iterator[Finding]:
    config: Any = model.config
    for index, group in enumerate(config.instance_group):
        label = f"instance_group '{group.name}'" if group.name else f"instance_group number {index + 1}"
        kind = type(group).Kind.Name(group.kind) if group.kind in type(group).Kind.values() else str(group.kind)
        if group.count < 0:
            yield error(model.name, model.config_file, f"{label}: count is {group.count}")
        if kind in ("KIND_CPU", "KIND_MODEL") and group.gpus:
            yield error(
                model.name,
                model.config_file,
                f"{label}: kind is {kind}, but gpus names {list(group.gpus)}",
                "remove gpus, or set kind to KIND_GPU",
            )
        if any(gpu < 0 for gpu in group.gpus) or len(set(group.gpus)) != len(group.gpus):
            yield error(model.name, model.config_file, f"{label}: gpus {list(group.gpus)} has a wrong or repeated number")
        if group.profile and config.platform != "tensorrt_plan":
            yield error(model.name, model.config_file, f"{label}: profile is only for TensorRT plans")
