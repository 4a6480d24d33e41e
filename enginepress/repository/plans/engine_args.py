"""`serving.engine_args`: arguments for the LLM API or vLLM by their own names, checked against engine_args.yaml."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import RecipeError
from enginepress.repository.plans.nearest import nearest

WHERE = "serving.engine_args"

FRACTIONS = ("gpu_memory_utilization", "free_gpu_memory_fraction")
"""Arguments at any depth that are a share of the memory: above 0 and at most 1."""

NGRAM = ("ngram", "[ngram]")
"""What vLLM takes in the place of a draft model, to guess from the prompt."""

_FEW = 8
"""Choices that are read at a glance; of more, the nearest is named."""

Wanted = str | list[Any]
"""What a value must be: see engine_args.yaml."""


@dataclass(frozen=True)
class Kinds:
    """An argument whose names depend on one of its values.

    Attributes:
        by: the name of that value.
        all: names that every kind takes.
        of: value -> further names.
    """

    by: str
    all: list[str]
    of: Mapping[str, list[str]]


@dataclass(frozen=True)
class Arguments:
    """What one of the two takes: names, and for those that the recipe has a field for, that field."""

    known: frozenset[str]
    elsewhere: Mapping[str, str]
    refused: Mapping[str, str]
    types: Mapping[str, Wanted]
    inside: Mapping[str, list[str]]
    kinds: Mapping[str, Kinds]
    inside_types: Mapping[str, Wanted]
    sources: tuple[str, ...]

    def names_in(self, path: str, value: Mapping[str, Any]) -> list[str] | None:
        """Names that the argument at this path takes, as this value says what kind it is; None if nothing is known of it."""
        kinds = self.kinds.get(path)
        if kinds is None:
            return self.inside.get(path)
        kind = value.get(kinds.by)
        further = kinds.of.get(kind) if isinstance(kind, str) else None
        return kinds.all + (further if further is not None else [name for names in kinds.of.values() for name in names])


@functools.cache
def load_arguments(builder: Literal["llmapi", "vllm"]) -> Arguments:
    """The list of engine_args.yaml."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    table = yaml.load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"), Loader=loader)[builder]
    return Arguments(
        frozenset(table["known"]),
        table["elsewhere"],
        table["refused"],
        table["types"],
        table["inside"],
        {path: Kinds(**kinds) for path, kinds in table.get("kinds", {}).items()},
        table["inside_types"],
        tuple(table["sources"]),
    )


def unknown_names(given: Mapping[str, Any], arguments: Arguments) -> Iterator[tuple[str, str, str]]:
    """Names inside arguments that nobody knows, at any depth: of what, the name, and which may have been meant."""
    for name, value in given.items():
        yield from _unknown_in(str(name), value, arguments)


def _unknown_in(path: str, value: Any, arguments: Arguments) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, dict):
        return
    known = arguments.names_in(path, value)
    for name, inner in value.items():
        if known is not None and name not in known:
            yield path, str(name), nearest(str(name), sorted(known))
        yield from _unknown_in(f"{path}.{name}", inner, arguments)


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
        if name in arguments.refused:
            raise RecipeError(f"'{name}' cannot be set: {arguments.refused[name]}", where=where, fix="leave it out")
        if name not in arguments.known:
            raise RecipeError(
                f"{builder} is not known to have an argument '{name}'", where=where, fix=nearest(name, sorted(arguments.known))
            )
        _check_value(value, name, where)
        mapping = name in arguments.inside or name in arguments.kinds
        _check_type(value, "mapping" if mapping else arguments.types.get(name), where)
        for path, unknown, near in unknown_names({name: value}, arguments):
            raise RecipeError(f"{path} is not known to have '{unknown}'", where=f"{WHERE}.{path}.{unknown}", fix=near)
        for inner, content in value.items() if isinstance(value, dict) else ():
            if (why := arguments.refused.get(f"{name}.{inner}")) is not None:
                raise RecipeError(f"'{inner}' cannot be set: {why}", where=f"{where}.{inner}", fix="leave it out")
            _check_type(content, arguments.inside_types.get(f"{name}.{inner}"), f"{where}.{inner}")
    _check_together(given, builder)


def draft_model(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The argument that names a second model, which speculates, and its folder; None if there is none."""
    said = given.get("speculative_config")
    speculation = said if isinstance(said, dict) else {}
    for name in ("speculative_model", "speculative_model_dir", "model"):
        folder = speculation.get(name)
        if isinstance(folder, str) and folder not in NGRAM:
            return f"{WHERE}.speculative_config.{name}", folder
    folder = given.get("speculative_model")
    return (f"{WHERE}.speculative_model", folder) if isinstance(folder, str) and folder not in NGRAM else None


def _check_together(given: Mapping[str, Any], builder: Literal["llmapi", "vllm"]) -> None:
    """What the LLM API and vLLM refuse when they load, or ignore (tensorrt_llm/llmapi/llm_args.py)."""
    graphs = given.get("cuda_graph_config")
    if isinstance(graphs, dict) and graphs.get("batch_sizes") and graphs.get("max_batch_size"):
        raise RecipeError(
            "batch_sizes and max_batch_size exclude each other", where=f"{WHERE}.cuda_graph_config", fix="leave one of them out"
        )
    if builder == "vllm":
        _check_vllm_adapters(given)
    speculation = given.get("speculative_config")
    if builder == "llmapi" and isinstance(speculation, dict):
        _check_speculation(speculation)


def _check_speculation(speculation: Mapping[str, Any]) -> None:
    where = f"{WHERE}.speculative_config"
    kind = speculation.get("decoding_type")
    if kind is None:
        raise RecipeError("says no decoding_type, so what it speculates by is not known", where=where, fix="set it")
    if speculation.get("speculative_model") and speculation.get("speculative_model_dir"):
        raise RecipeError("names the draft model twice", where=f"{where}.speculative_model_dir", fix="leave it out")
    for needed in _SPECULATION_NEEDS.get(kind, ()):
        if all(speculation.get(name) is None for name in needed):
            names = " or ".join(needed)
            raise RecipeError(f"decoding_type {kind} needs {names}", where=f"{where}.{needed[0]}", fix="set it")


_DRAFT = (("max_draft_len",), ("speculative_model_dir", "speculative_model"))
_SPECULATION_NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("Eagle", "Eagle3", "DraftTarget", "Draft_Target"), _DRAFT),
    "NGram": (("max_draft_len",),),
}
"""Kind -> names that must be there; of several, one. The folder's older name is understood by old and new releases."""


def adapters(given: Mapping[str, Any]) -> bool:
    """Whether LoRA adapters are asked of the LLM API."""
    return given.get("enable_lora") is True or given.get("lora_config") is not None


_VLLM_ADAPTERS = (
    *("max_loras", "max_lora_rank", "max_cpu_loras", "lora_dtype", "lora_extra_vocab_size", "lora_target_modules"),
    *("fully_sharded_loras", "enable_lora_bias", "long_lora_scaling_factors", "default_mm_loras", "specialize_active_lora"),
    *("enable_tower_connector_lora", "enable_mixed_moe_lora_format", "enable_moe_shared_loras"),
)


def _check_vllm_adapters(given: Mapping[str, Any]) -> None:
    """Triton's vLLM model does not load with enable_lora and without multi_lora.json beside model.json."""
    if given.get("enable_lora") is True:
        raise RecipeError(
            "Triton's vLLM model reads its adapters from multi_lora.json in the version folder, and a release has no adapters: "
            "it would not load",
            where=f"{WHERE}.enable_lora",
            fix="leave it out, or name a checkpoint with the adapter merged into it",
        )
    for name in _VLLM_ADAPTERS:
        if name in given:
            raise RecipeError(
                f"'{name}' is for LoRA adapters, which a vllm release does not have", where=f"{WHERE}.{name}", fix="leave it out"
            )


def _check_type(value: Any, wanted: Wanted | None, where: str) -> None:
    if wanted is None or value is None:
        return
    if wanted == "bool":
        if not isinstance(value, bool):
            raise RecipeError(f"is {value!r}; it must be true or false", where=where)
    elif wanted == "mapping":
        if not isinstance(value, dict):
            raise RecipeError(f"is {value!r}; it must be a mapping of names to values", where=where)
    elif wanted == "count":
        if type(value) is not int or value < 1:
            raise RecipeError(f"is {value!r}; it must be a whole number, 1 or more", where=where)
    elif wanted == "counts":
        if not isinstance(value, list) or not value or not all(type(number) is int and number > 0 for number in value):
            raise RecipeError(f"is {value!r}; it must be a list of whole numbers, each 1 or more", where=where)
    elif wanted == "names":
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise RecipeError(f"is {value!r}; it must be a list of names", where=where)
    elif wanted == "folders":
        if not isinstance(value, list):
            raise RecipeError(f"is {value!r}; it must be a list of folders", where=where)
        for folder in value:
            check_folder(folder, where)
    elif wanted in ("folder", "draft"):
        if wanted == "folder" or value not in NGRAM:
            check_folder(value, where)
    elif not any(value == choice and type(value) is type(choice) for choice in wanted):
        shown = [_shown(choice) for choice in wanted]
        fix = nearest(str(value), shown) if len(shown) > _FEW else None
        raise RecipeError(f"is {value!r}; it must be one of: {', '.join(shown)}", where=where, fix=fix)


def check_folder(value: Any, where: str) -> None:
    """Refuses what is no absolute path, with RecipeError.

    A name of a hub's would be fetched by the server when it loads: by no digest, and at a time that nobody chose.
    """
    if not isinstance(value, str):
        raise RecipeError(f"is {value!r}; it must be a folder", where=where, fix="name a folder of the machine that serves")
    if not value.isprintable():
        raise RecipeError(f"is {value!r}, which holds what cannot be printed", where=where, fix="name the folder alone")
    if not value.startswith("/"):
        raise RecipeError(
            f"is {value!r}, which is no absolute path: the server would download it when it loads, and nobody would have "
            "verified it",
            where=where,
            fix="name a folder of the machine that serves, from / on",
        )


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
