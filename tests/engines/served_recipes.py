"""Recipes of the builders that serve a checkpoint as it is, and the configuration of the tiny one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enginepress.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
BOTH = pytest.mark.parametrize("builder", ["llmapi", "vllm"])


def recipe(
    builder: str,
    *,
    engine: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
    **serving: Any,
) -> Recipe:
    base = {"builder": builder, "precision": "bfloat16", "gpu": {"name": "H100-SXM5-80GB"}}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": {"uri": "file:///checkpoint", **(source or {})},
            "engine": {**base, **(engine or {})},
            "serving": serving,
            "checks": checks or {},
            "stores": ["file:///store"],
        }
    )
