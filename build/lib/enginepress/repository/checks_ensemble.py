"""Checks of ensembles: the steps' models, the wiring between them, and how batching and decoupling go together.

The rules are those of Triton's `ensemble_utils.cc` and `model_config_utils.cc`. Triton stops at the first mistake; here each
step and each tensor is looked at, and a cycle is shown as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enginepress.repository.checks_backend import completes_itself
from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model, Repository
from enginepress.repository.proto import data_type_name


def check_ensemble(repository: Repository, model: Model) -> Iterator[Finding]:
    """An ensemble's config against the models of its repository."""
    config: Any = model.config
    if config is None or not model.is_ensemble:
        return
    yield from _check_fields(model)
    if not config.ensemble_scheduling.step:
        yield error(model.name, model.config_file, "ensemble_scheduling has no step", "name the models to run")
        return
    for index, step in enumerate(config.ensemble_scheduling.step):
        yield from _check_step(repository, model, index, step)
    yield from _check_tensors(repository, model)
    yield from _check_flow(repository, model)


def _check_fields(model: Model) -> Iterator[Finding]:
    config: Any = model.config
    if config.platform != "ensemble":
        yield error(
            model.name, model.config_file, "has ensemble_scheduling, but platform is not 'ensemble'", 'platform: "ensemble"'
        )
    if config.backend:
        yield error(model.name, model.config_file, f"backend is '{config.backend}'; an ensemble has none", "remove backend")
    for name, present in (
        ("instance_group", len(config.instance_group) > 0),
        ("optimization", config.HasField("optimization")),
        ("model_warmup", len(config.model_warmup) > 0),
    ):
        if present:
            yield error(model.name, model.config_file, f"sets {name}, which an ensemble may not", f"remove {name}")


# ------------------------------------------------------------------------------------------------------------------
# Steps
# ------------------------------------------------------------------------------------------------------------------


def _check_step(repository: Repository, model: Model, index: int, step: Any) -> Iterator[Finding]:
    config: Any = model.config
    label = f"step {index + 1} ({step.model_name})" if step.model_name else f"step {index + 1}"
    for name, present in (("model_name", step.model_name), ("input_map", step.input_map), ("output_map", step.output_map)):
        if not present:
            yield error(model.name, model.config_file, f"{label}: {name} is not set")
    if not step.model_name:
        return
    if step.model_name == model.name:
        yield error(model.name, model.config_file, f"{label}: the ensemble is a step of itself")
        return
    target = repository.models.get(step.model_name)
    if target is None:
        yield error(
            model.name,
            model.config_file,
            f"{label}: there is no model '{step.model_name}' in this repository",
            f"models here: {', '.join(sorted(repository.models))}",
        )
        return
    if step.model_version != -1 and step.model_version not in target.served_versions():
        served = ", ".join(map(str, target.served_versions())) or "none"
        yield error(
            model.name,
            model.config_file,
            f"{label}: model_version is {step.model_version}, but of '{target.name}' are loaded: {served}",
            "-1 means the latest",
        )
    if target.config is None:
        return
    if 0 < target.config.max_batch_size < config.max_batch_size:
        yield error(
            model.name,
            model.config_file,
            f"max_batch_size is {config.max_batch_size}, but {label} takes {target.config.max_batch_size}",
            f"set it to {target.config.max_batch_size} at most",
        )
    if _declares_tensors(target):
        yield from _check_maps(model, label, step, target)


def _check_maps(model: Model, label: str, step: Any, target: Model) -> Iterator[Finding]:
    config: Any = target.config
    inputs = {tensor.name: tensor for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    for key in sorted(set(step.input_map) - set(inputs)):
        yield error(
            model.name,
            model.config_file,
            f"{label}: input_map names '{key}', which is no input of '{target.name}'",
            f"its inputs: {', '.join(inputs)}",
        )
    for key in sorted(set(step.output_map) - outputs):
        yield error(
            model.name,
            model.config_file,
            f"{label}: output_map names '{key}', which is no output of '{target.name}'",
            f"its outputs: {', '.join(sorted(outputs))}",
        )
    for name, tensor in inputs.items():
        if name not in step.input_map and not tensor.optional:
            yield error(
                model.name,
                model.config_file,
                f"{label}: input '{name}' of '{target.name}' is not fed",
                f"map it in input_map, or make it optional in {target.config_file}",
            )


def _declares_tensors(model: Model) -> bool:
    """False for a model whose tensors Triton adds when it loads it: nothing can be said about them."""
    config: Any = model.config
    return bool(config is not None and (config.input or config.output)) or not completes_itself(model)


# ------------------------------------------------------------------------------------------------------------------
# Types and shapes
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Use:
    """One end of an ensemble tensor: who says which type and shape it has."""

    who: str
    data_type: int
    dims: tuple[int, ...]
    batched: bool

    @property
    def full(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batched else self.dims

    def __str__(self) -> str:
        return f"{data_type_name(self.data_type)} {list(self.dims)} in {self.who}"


def _check_tensors(repository: Repository, model: Model) -> Iterator[Finding]:
    """Every use of an ensemble tensor agrees with its first one, as Triton compares them."""
    first: dict[str, _Use] = {}
    for name, use in _uses(repository, model):
        known = first.setdefault(name, use)
        if known.data_type != use.data_type and 0 not in (known.data_type, use.data_type):
            yield error(
                model.name,
                model.config_file,
                f"ensemble tensor '{name}': data types differ: {known}, but {use}",
                "make them equal",
            )
        elif not (_match(known.dims, use.dims) or _match(known.full, use.full)):
            yield error(
                model.name, model.config_file, f"ensemble tensor '{name}': shapes differ: {known}, but {use}", "make them equal"
            )


def _uses(repository: Repository, model: Model) -> Iterator[tuple[str, _Use]]:
    config: Any = model.config
    for kind in ("input", "output"):
        for tensor in getattr(config, kind):
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            yield tensor.name, _Use(f"{kind} of '{model.name}'", tensor.data_type, tuple(dims), config.max_batch_size > 0)
    for step in config.ensemble_scheduling.step:
        target = repository.models.get(step.model_name)
        if target is None or target.config is None or target is model:
            continue
        for kind, names in (("input", step.input_map), ("output", step.output_map)):
            declared = {tensor.name: tensor for tensor in getattr(target.config, kind)}
            for key in sorted(names):
                tensor = declared.get(key)
                if tensor is not None:
                    who = f"{kind} '{key}' of '{target.name}'"
                    yield names[key], _Use(who, tensor.data_type, tuple(tensor.dims), target.config.max_batch_size > 0)


def _match(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


# ------------------------------------------------------------------------------------------------------------------
# Data flow
# ------------------------------------------------------------------------------------------------------------------


def _check_flow(repository: Repository, model: Model) -> Iterator[Finding]:
    """Every input is used, every tensor is written once and read, nothing waits for itself."""
    config: Any = model.config
    steps = list(config.ensemble_scheduling.step)
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    writers: dict[str, int] = {}
    readers: dict[str, int] = {}
    for index, step in enumerate(steps):
        for tensor in (step.output_map[key] for key in sorted(step.output_map)):
            if tensor in writers:
                yield error(
                    model.name,
                    model.config_file,
                    f"ensemble tensor '{tensor}' is written by step {writers[tensor] + 1} and by step {index + 1}",
                    "give each output a tensor of its own",
                )
            writers.setdefault(tensor, index)
        for tensor in step.input_map.values():
            readers.setdefault(tensor, index)
    for name in sorted(inputs - set(readers)):
        yield error(model.name, model.config_file, f"input '{name}' is used by no step", "map it, or remove it")
    for name in sorted(inputs & set(writers)):
        yield error(
            model.name, model.config_file, f"input '{name}' is also written by step {writers[name] + 1}", "give that another name"
        )
    for name in sorted(set(readers) - set(writers) - inputs):
        step = steps[readers[name]]
        yield error(
            model.name,
            model.config_file,
            f"ensemble tensor '{name}', read by step {readers[name] + 1} ({step.model_name}), is written by no step",
            "map an output to it, or make it an input of the ensemble",
        )
    for name in sorted(outputs - set(writers)):
        yield error(model.name, model.config_file, f"output '{name}' is written by no step", "map a step's output to it")
    for name in sorted(set(writers) - set(readers) - outputs):
        yield error(
            model.name,
            model.config_file,
            f"ensemble tensor '{name}', written by step {writers[name] + 1}, is read by nobody, which Triton refuses",
            "remove it from output_map, or use it",
        )
    order = _order(steps, inputs, writers)
    if order is None:
        waits = {name: sorted(set(steps[index].input_map.values()) - inputs) for name, index in writers.items()}
        cycle = " -> ".join(reversed(_find_cycle(waits)))
        yield error(model.name, model.config_file, f"steps wait for each other: {cycle}", "break the cycle")
    else:
        yield from _check_decoupled(repository, model, steps, order)


def _order(steps: list[Any], inputs: set[str], writers: Mapping[str, int]) -> list[int] | None:
    """Indexes of the steps in an order in which they can run; None if there is no such order."""
    done: list[int] = []
    waiting = set(range(len(steps)))
    while waiting:
        ready = [
            index
            for index in sorted(waiting)
            if all(name in inputs or name not in writers or writers[name] in done for name in steps[index].input_map.values())
        ]
        if not ready:
            return None
        done += ready
        waiting -= set(ready)
    return done


def _find_cycle(graph: Mapping[str, Sequence[str]]) -> list[str]:
    """One cycle of a graph, its first name repeated at the end; empty if there is none."""
    finished: set[str] = set()
    for root in sorted(graph):
        path = [root]
        stack = [(root, iter(graph[root]))]
        while stack and root not in finished:
            name, onward = stack[-1]
            following = next((n for n in onward if n not in finished), None)
            if following is None:
                finished.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(graph.get(following, ()))))
                path.append(following)
    return []


# ------------------------------------------------------------------------------------------------------------------
# Decoupled models
# ------------------------------------------------------------------------------------------------------------------


def _check_decoupled(repository: Repository, model: Model, steps: list[Any], order: list[int]) -> Iterator[Finding]:
    """A step cannot join streams that come from different decoupled steps, or a stream with what is no stream."""
    config: Any = model.config
    stream: dict[str, str | None] = {tensor.name: None for tensor in config.input}
    any_decoupled = False
    for index in order:
        step = steps[index]
        target = repository.models.get(step.model_name)
        own = target is not None and target.config is not None and target.config.model_transaction_policy.decoupled
        origins = {stream.get(name) for name in step.input_map.values()}
        if len(origins) > 1:
            listed = " and ".join(sorted("no decoupled step" if origin is None else f"step {origin}" for origin in origins))
            yield error(
                model.name,
                model.config_file,
                f"step {index + 1} ({step.model_name}) gets inputs from {listed}, whose responses cannot be matched",
                "feed it from one decoupled step only",
            )
        label = f"{index + 1} ({step.model_name})" if own else next(iter(origins), None)
        any_decoupled = any_decoupled or own
        for name in step.output_map.values():
            stream[name] = label
    final = {stream.get(tensor.name) for tensor in config.output}
    if len(final) > 1:
        yield error(
            model.name,
            model.config_file,
            "its outputs come partly from a decoupled step and partly not, so responses cannot be matched",
            "let every output come from the decoupled step, or from steps behind it",
        )
    if config.model_transaction_policy.decoupled and not any_decoupled:
        yield warning(
            model.name,
            model.config_file,
            "model_transaction_policy.decoupled is true, but no step is decoupled: Triton will serve it without streaming",
            "make the streaming step decoupled",
        )


def check_callers(repository: Repository, model: Model) -> Iterator[Finding]:
    """Models that call others by name (TensorRT-LLM's BLS model): the others are there and stream if this one does."""
    for key in ("tensorrt_llm_model_name", "preprocessing_model_name", "postprocessing_model_name"):
        name = model.parameter(key)
        if not name:
            continue
        target = repository.models.get(name)
        if target is None:
            yield error(
                model.name,
                model.config_file,
                f"parameter {key} is '{name}', but there is no such model in this repository",
                f"models here: {', '.join(sorted(repository.models))}",
            )
        elif key == "tensorrt_llm_model_name" and target.config is not None and model.config is not None:
            mine = model.config.model_transaction_policy.decoupled
            theirs = target.config.model_transaction_policy.decoupled
            if mine != theirs:
                yield error(
                    model.name,
                    model.config_file,
                    f"model_transaction_policy.decoupled is {str(mine).lower()}, but {str(theirs).lower()} in '{name}', "
                    "which it calls",
                    "set both alike",
                )


def check_ensemble_cycles(repository: Repository) -> Iterator[Finding]:
    """Ensembles that contain each other."""
    contains = {
        name: sorted({step.model_name for step in model.config.ensemble_scheduling.step} - {name})
        for name, model in repository.models.items()
        if model.config is not None and model.is_ensemble
    }
    if cycle := _find_cycle(contains):
        yield error(
            cycle[0], f"{cycle[0]}/config.pbtxt", "ensembles contain each other: " + " -> ".join(cycle), "break the cycle"
        )
