"""Recipes and the config.json texts of well-known models, as their publishers have them (sizes only, no weights)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginepress.recipe import Recipe

CONFIGS = Path(__file__).with_name("configs")
NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A model's config.json with `changes`; None takes a key away."""
    found = {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}
    return {key: value for key, value in found.items() if value is not None or key not in changes}


def recipe(
    gpu: str | None = "L4",
    *,
    builder: str = "tensorrt_llm",
    precision: str = "float16",
    count: int = 1,
    nodes: int = 1,
    serving: dict[str, Any] | None = None,
    served: bool = True,
    channels: tuple[str, ...] = ("candidate",),
    **engine: Any,
) -> Recipe:
    """A recipe for GPUs with these `engine` fields."""
    named = {"gpu": {"name": gpu, "count": count, "nodes": nodes}} if gpu is not None else {}
    return Recipe.model_validate(
        {
            "name": "model",
            "source": "file:///checkpoint",
            "engine": {"builder": builder, "precision": precision, **named, **engine},
            "serving": serving or {},
            "checks": {"served": served},
            "stores": ["file:///releases"],
            "channels": list(channels),
        }
    )
