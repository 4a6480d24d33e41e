"""`serving.engine_args`: arguments for the LLM API or vLLM by their own names, checked against engine_args.yaml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import RecipeError
from enginepress.repository.plans.nearest import nearest

WHERE = "serving.engine_args"

FRACTIONS = ("gpu_memory_utilization", "free_gpu_memory_fraction")
"""Arguments at any depth that are a share of the memory: above 0 and at most 1."""


@dataclass(frozen=True)
class Arguments:
    """What one of the two takes: names, and for those that the recipe has a field for, that field."""

    known: frozenset[str]
    elsewhere: Mapping[str, str]
    types: Mapping[str, str | list[Any]]
    inside: Mapping[str, list[str]]
    inside_types: Mapping[str, str | list[Any]]
    sources: tuple[str, ...]


@functools.cache
def load_arguments(builder: Literal["llmapi", "vllm"]) -> Arguments:
    """The list of engine_args.yaml."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    table = yaml.load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"), Loader=loader)[builder]
    return Arguments(
        frozenset(table["known"]),
        table["elsewhere"],
        table["types"],
        table.get("inside", {}),
        table.get("inside_types", {}),
        tuple(table["sources"]),
    )


def check_engine_args(given: Mapping[str, Any], builder: Literal["llmapi", "vllm"]) -> None:
    """
    Raises:
        RecipeError: for a name that nobody knows, one that the recipe has a field for, or a value that cannot be served.
    """
    arguments = load_arguments(builder)
    for name, value in given.items():
        where = f"{WHERE}.{name}"
        if name in arguments.elsewhere:
            raise RecipeError(f"'{name}' is not set here", where=where, fix=f"set {arguments.elsewhere[name]}")
        if name not in arguments.known:
            raise RecipeError(
                f"{builder} is not known to have an argument '{name}'", where=where, fix=nearest(name, sorted(arguments.known))
            )
        _check_value(value, name, where)
        _check_type(value, arguments.types.get(name), where)
        for inner in value if name in arguments.inside and isinstance(value, dict) else ():
            if inner not in arguments.inside[name]:
                raise RecipeError(
                    f"{name} is not known to have '{inner}'",
                    where=f"{where}.{inner}",
                    fix=nearest(str(inner), arguments.inside[name]),
                )
        for inner, content in value.items() if isinstance(value, dict) else ():
            _check_type(content, arguments.inside_types.get(f"{name}.{inner}"), f"{where}.{inner}")
    _check_together(given)


def _check_together(given: Mapping[str, Any]) -> None:
    """What the LLM API and vLLM refuse when they load, or ignore (tensorrt_llm/llmapi/llm_args.py)."""
    graphs = given.get("cuda_graph_config")
    if isinstance(graphs, dict) and graphs.get("batch_sizes") and graphs.get("max_batch_size"):
        raise RecipeError(
            "batch_sizes and max_batch_size exclude each other", where=f"{WHERE}.cuda_graph_config", fix="leave one of them out"
        )
    speculation = given.get("speculative_config")
    if not isinstance(speculation, dict):
        return
    kind = speculation.get("decoding_type")
    if "decoding_type" in speculation or "speculative_model_dir" in speculation:
        if kind is None:
            raise RecipeError(
                "says no decoding_type, so what it speculates by is not known", where=f"{WHERE}.speculative_config", fix="set it"
            )
        for needed in _SPECULATION_NEEDS.get(kind, ()):
            if speculation.get(needed) is None:
                raise RecipeError(
                    f"decoding_type {kind} needs {needed}", where=f"{WHERE}.speculative_config.{needed}", fix="set it"
                )


_SPECULATION_NEEDS = {
    "Eagle": ("max_draft_len", "speculative_model_dir"),
    "DraftTarget": ("max_draft_len", "speculative_model_dir"),
    "NGram": ("max_draft_len",),
}


def _check_type(value: Any, wanted: str | list[Any] | None, where: str) -> None:
    if wanted is None or value is None:
        return
    if wanted == "bool":
        if not isinstance(value, bool):
            raise RecipeError(f"is {value!r}; it must be true or false", where=where)
    elif wanted == "mapping":
        if not isinstance(value, dict):
            raise RecipeError(f"is {value!r}; it must be a mapping of names to values", where=where)
    elif not any(value == choice and type(value) is type(choice) for choice in wanted):
        raise RecipeError(f"is {value!r}; it must be one of: {', '.join(map(_shown, wanted))}", where=where)


def _shown(choice: Any) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _check_value(value: Any, name: str, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_value(inner, str(key), f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, name, where)
    elif isinstance(value, str) and "${" in value:
        raise RecipeError(f"is {value!r}: placeholders are not filled", where=where, fix="write the value itself")
    elif name in FRACTIONS and (isinstance(value, (bool, str)) or value is None or not 0 < value <= 1):
        raise RecipeError(f"is {value!r}; it must be above 0 and at most 1", where=where)
