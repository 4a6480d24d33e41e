"""What a checkpoint's config.json says, typed, as far as the `onnxruntime` builder has to know it.

Old and new spellings are read alike: `rope_parameters` of transformers 5, or `rope_scaling` and `rope_theta` before it;
`dtype` or `torch_dtype`. A value that is missing or of the wrong type is a SourceError that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from enginepress.errors import SourceError

WHERE = "config.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Rope:
    """How positions are encoded.

    Attributes:
        kind: "default", "llama3", "linear", "yarn", "longrope", …
        values: its parameters, as config.json has them.
        partial: share of a head that is rotated, or None if config.json does not say it.
    """

    kind: str
    values: Mapping[str, Any]
    partial: float | None


@dataclass(frozen=True)
class ModelConfig:
    """One checkpoint's shape. `raw` is config.json itself, for what only some families have."""

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int | None
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    activation: str | None
    rope: Rope
    sliding_window: int | None
    tied: bool | None
    raw: Mapping[str, Any]

    def flag(self, name: str) -> bool:
        """A boolean key, False if it is missing."""
        return bool(_typed(self.raw, name, bool, default=False))


def read_model_config(config: object) -> ModelConfig:
    """The parsed config.json as a `ModelConfig`.

    Raises:
        SourceError: naming the key that is missing or has the wrong type.
    """
    if not isinstance(config, Mapping):
        raise SourceError(f"is a JSON {_kind(config)} where an object is needed", where=WHERE, fix=_NOT_A_MODEL)
    heads = _size(config, "num_attention_heads")
    hidden = _size(config, "hidden_size")
    head_dim = whole_number(config, "head_dim")
    activation = _typed(config, "hidden_activation", str) or _typed(config, "hidden_act", str)
    return ModelConfig(
        architecture=architecture_of(config),
        model_type=_required(config, "model_type", str),
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=whole_number(config, "intermediate_size"),
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole_number(config, "num_key_value_heads") or heads,
        head_dim=head_dim or max(1, hidden // heads),
        context=_size(config, "max_position_embeddings"),
        activation=activation,
        rope=_rope(config),
        sliding_window=whole_number(config, "sliding_window"),
        tied=_typed(config, "tie_word_embeddings", bool),
        raw=config,
    )


def architecture_of(config: object) -> str:
    """The first name under `architectures`: the class that transformers would load, and what the tool goes by.

    Raises:
        SourceError: if config.json is no object or names no architecture.
    """
    if not isinstance(config, Mapping):
        raise SourceError(f"is a JSON {_kind(config)} where an object is needed", where=WHERE, fix=_NOT_A_MODEL)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str) or not names[0]:
        problem = "is missing" if names is None else f"is {names!r} where a list with a class name is needed"
        raise SourceError(f"'architectures' {problem}, so what this model is cannot be known", where=WHERE, fix=_NOT_A_MODEL)
    return names[0]


_NOT_A_MODEL = "check that the source is a language model in Hugging Face's layout"


def _rope(config: Mapping[str, Any]) -> Rope:
    values = _typed(config, "rope_scaling", dict) or _typed(config, "rope_parameters", dict) or {}
    kind = _typed(values, "rope_type", str) or _typed(values, "type", str) or "default"
    if any(isinstance(value, dict) for value in values.values()):
        kind = "per layer type"
    partial = _typed(values, "partial_rotary_factor", (int, float))
    if partial is None:
        partial = _typed(config, "partial_rotary_factor", (int, float))
    return Rope(kind, values, None if partial is None else float(partial))


# ------------------------------------------------------------------------------------------------------------------
# Typed access
# ------------------------------------------------------------------------------------------------------------------


def whole_number(values: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """An integer, or None if the key is missing or null.

    Raises:
        SourceError: for anything else, and for a number below `least`.
    """
    value: int | None = _typed(values, name, int)
    if value is not None and value < least:
        raise SourceError(f"'{name}' is {value} where a number of at least {least} is needed", where=WHERE)
    return value


def _required(config: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value: T | None = _typed(config, name, kind)
    if value is None:
        raise SourceError(f"'{name}' is missing", where=WHERE, fix=_NOT_A_MODEL)
    return value


def _size(config: Mapping[str, Any], name: str) -> int:
    value = whole_number(config, name)
    if value is None:
        raise SourceError(f"'{name}' is missing", where=WHERE, fix=_NOT_A_MODEL)
    return value


def _typed(config: Mapping[str, Any], name: str, kind: Any, *, default: Any = None) -> Any:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {bool: "true or false", int: "a whole number", str: "a text", dict: "an object"}.get(kind, "a number")
        raise SourceError(f"'{name}' is {value!r} where {wanted} is needed", where=WHERE)
    return value


def _kind(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
