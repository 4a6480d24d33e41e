"""Converting and building in tests, as the steps do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.engines.tensorrt_llm import TensorRtLlmBuilder
from enginepress.recipe import Recipe
from tests.engines.tensorrt_llm.samples import checkpoint

BUILDER = TensorRtLlmBuilder()


def convert(folder: Path, asked: Recipe, source: Path | None = None, **more: Any) -> Path:
    source = source or checkpoint(folder / "attempt-mpt-vila" / "cnn_dailymail", **more)
    output = folder / "workspace" / "partial" / "converted-1" / "output"
    output.mkdir(parents=True)
    BUILDER.convert(source, output, asked, folder / "convert.log")
    return output


def build(folder: Path, asked: Recipe, converted: Path, name: str = "engines-1") -> Path:
    output = folder / "workspace" / "partial" / name / "output"
    output.mkdir(parents=True)
    BUILDER.build(converted, output, asked, folder / "build.log")
    return output
