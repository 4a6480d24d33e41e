"""A change of a recipe: fields with new values, in words and applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginepress.recipe import Calibration, Recipe


@dataclass(frozen=True)
class Change:
    """`fields`: dotted names and their new values. `why`: what it gives, in a few words."""

    fields: tuple[tuple[str, Any], ...]
    why: str

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these values."""
        for name, value in self.fields:
            recipe = _with(recipe, name.split("."), value)
        return recipe

    @property
    def text(self) -> str:
        """As one would write it: `engine.precision: fp8, engine.gpu.count: 2`."""
        return ", ".join(f"{name}: {_shown(value)}" for name, value in self.fields)

    def to_json(self) -> dict[str, Any]:
        return {"set": {name: _plain(value) for name, value in self.fields}, "why": self.why}


def _with(model: Any, path: list[str], value: Any) -> Any:
    if isinstance(model, dict):
        return {**model, ".".join(path): value}
    if len(path) == 1:
        return model.model_copy(update={path[0]: value})
    return model.model_copy(update={path[0]: _with(getattr(model, path[0]), path[1:], value)})


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, Calibration) else value


def _shown(value: Any) -> str:
    if isinstance(value, Calibration):
        return "{" + ", ".join(f"{name}: {inner}" for name, inner in _plain(value).items()) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
