"""Pipelines as the YAML that Kubeflow takes. The same options give the same bytes, so a digest names what was submitted."""

from __future__ import annotations

import importlib
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enginepress.compile_options import CompileOptions, Mount, local_options
from enginepress.errors import UsageError

__all__ = ["PIPELINES", "CompileOptions", "Mount", "compile_pipeline", "local_options", "write_compiled"]

PIPELINES = ("build_and_publish", "rebuild_on_new_checkpoints")
"""Names of the pipelines, which are also those of their modules and compiled files."""


def compile_pipeline(name: str, options: CompileOptions) -> str:
    """One pipeline as YAML.

    Args:
        name: of PIPELINES.
        options: what is fixed at compile time.

    Raises:
        UsageError: for a pipeline that there is not, or options that contradict each other.
    """
    if name not in PIPELINES:
        raise UsageError(f"there is no pipeline '{name}'", fix="name one of " + ", ".join(PIPELINES))
    # kfp looks through the whole call stack for each setting of each task, with sources. In a notebook's kernel, or below pytest,
    # that takes ten times as long as all the rest; a thread of its own has a short stack.
    with ThreadPoolExecutor(1, thread_name_prefix="compile") as pool:
        return pool.submit(_compile, name, options).result()


def _compile(name: str, options: CompileOptions) -> str:
    from kfp import compiler

    pipeline = getattr(importlib.import_module(f"enginepress.pipelines.{name}"), name)(options)
    with tempfile.TemporaryDirectory(prefix="enginepress-compile-") as folder:
        path = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return _steady(path.read_text(encoding="utf-8"))


def _steady(text: str) -> str:
    """Without the defaults in the comment at its head that are lists or mappings: kfp writes those in another order each time."""
    lines = text.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "".join(re.sub(r" \[Default: [\[{].*", "", line) for line in lines[:end]) + "".join(lines[end:])


def write_compiled(folder: Path, options: CompileOptions) -> list[Path]:
    """Compiles all pipelines into a folder; returns the files."""
    from enginepress.files import write_atomic

    written = []
    for name in PIPELINES:
        path = folder / f"{name}.yaml"
        write_atomic(path, compile_pipeline(name, options))
        written.append(path)
    return written
