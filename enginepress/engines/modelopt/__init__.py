"""NVIDIA ModelOpt, as far as the `tensorrt_llm` builder calls it. The package itself is work in progress beside this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.errors import BuildError
from enginepress.recipe import Recipe


def to_tensorrt_llm(checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
    raise BuildError("ModelOpt is not in this version", fix="leave engine.converter out")


def check_tensorrt_llm(config: Mapping[str, Any], recipe: Recipe) -> None:
    raise BuildError("ModelOpt is not in this version", fix="leave engine.converter out")


def versions() -> dict[str, str]:
    raise BuildError("ModelOpt is not in this version", fix="leave engine.converter out")
