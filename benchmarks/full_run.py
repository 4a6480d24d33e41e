"""A full run of the example from nothing, against the sum of what its steps worked.

A step's own work is measured inside its task, from the call of the component's function to the step's end; it includes checking
the recipe and importing what the step uses (pydantic, mlflow), which on a cluster it has to do as well. The rest is this:
starting the command and importing kfp, and for each task a shell, an interpreter and
kfp's executor.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROUNDS = 3


@dataclass(frozen=True)
class FullRun:
    """One run: whole seconds from outside, and each step's own."""

    seconds: float
    steps: dict[str, float]

    @property
    def work(self) -> float:
        return sum(self.steps.values())

    @property
    def ratio(self) -> float:
        return self.seconds / self.work


def full_runs(recipe: Path) -> list[FullRun]:
    return [_one(recipe) for _ in range(ROUNDS)]


def median_run(runs: list[FullRun]) -> FullRun:
    middle = statistics.median_low([r.ratio for r in runs])
    return next(r for r in runs if r.ratio == middle)


def _one(recipe: Path) -> FullRun:
    folder = Path(tempfile.mkdtemp(prefix="enginepress-benchmark-"))
    try:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "enginepress", "run", str(private_copy(recipe, folder)), "-w", str(folder / "w"), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        return FullRun(time.perf_counter() - start, json.loads(done.stdout)["steps"])
    finally:
        shutil.rmtree(folder)


def private_copy(recipe: Path, folder: Path) -> Path:
    """The recipe with its store and registry in `folder`, and its other files where they are."""
    data = yaml.safe_load(recipe.read_text())
    here = recipe.resolve().parent
    data["source"] = "file://" + str((here / _source(data).removeprefix("file://")).resolve())
    if data.get("checks", {}).get("reference"):
        data["checks"]["reference"] = str((here / data["checks"]["reference"]).resolve())
    data["stores"] = [f"file://{folder}/store"]
    data["registry"] = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    copy = folder / "recipe.yaml"
    copy.write_text(yaml.safe_dump(data))
    return copy


def _source(data: dict[str, object]) -> str:
    source = data["source"]
    return str(source["uri"] if isinstance(source, dict) else source)
