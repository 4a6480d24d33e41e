"""Recipes for whole runs: a tiny checkpoint with random weights, a store, a registry, all in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

PROMPTS = [{"text": "Hello there", "max_tokens": 6}, {"text": "Once", "max_tokens": 4}]


def write_recipe(folder: Path, checkpoint: Path, **changes: Any) -> Path:
    """A recipe in `folder` for a checkpoint folder; `changes` replace top-level keys."""
    recipe = {
        "name": "tiny",
        "source": f"file://{checkpoint}",
        "engine": {"builder": "onnxruntime", "precision": "float32"},
        "checks": {"prompts": PROMPTS},
        "stores": [f"file://{folder}/store"],
        "registry": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
        "channels": ["candidate"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def enginepress(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it."""
    return subprocess.run(
        [sys.executable, "-m", "enginepress", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )


def run(recipe: Path, *more: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return enginepress("run", recipe, "--workspace", recipe.parent / "workspace", *more, env=env)


def run_json(recipe: Path, *more: str) -> dict[str, Any]:
    """A run that must succeed; what it printed as JSON."""
    done = run(recipe, "--json", *more)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
