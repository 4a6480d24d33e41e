"""The pipeline as a cluster gets it: what is compiled, and that it holds no secret and nothing that a step could be misled by."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.files import write_atomic
from enginepress.run.local import _following
from enginepress.steps import STEPS


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    from enginepress.run.compiled import compile_pipeline, local_options

    loaded: dict[str, Any] = next(yaml.safe_load_all(compile_pipeline("build_and_publish", local_options())))
    return loaded


def test_the_pipeline_has_the_nine_steps_in_order(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for before, after in pairwise(STEPS):
        assert before in tasks[after]["dependentTasks"]


def test_only_the_recipe_must_be_given(compiled: dict[str, Any]) -> None:
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    assert {name for name, p in parameters.items() if not p.get("isOptional")} == {"recipe"}
    assert {name: parameters[name]["parameterType"] for name in ("recipe", "recipe_digest", "force")} == {
        "recipe": "STRING",
        "recipe_digest": "STRING",
        "force": "BOOLEAN",
    }


def test_no_task_is_cached_or_installs_anything(compiled: dict[str, Any]) -> None:
    for name, task in compiled["root"]["dag"]["tasks"].items():
        assert not task.get("cachingOptions", {}).get("enableCache"), name
    for executor in compiled["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_each_component_explains_its_parameters() -> None:
    import importlib

    for step in STEPS:
        component = getattr(importlib.import_module(f"enginepress.components.{step}"), step)
        spec = component.component_spec
        assert spec.description, step
        assert all(i.description for i in spec.inputs.values()), step


def test_a_run_keeps_the_pipeline_that_it_ran(compiled: dict[str, Any], finished_once: Any) -> None:
    (kept,) = (finished_once.folder / "workspace" / "runs").glob("*/pipeline.yaml")
    assert next(yaml.safe_load_all(Path(kept).read_text()))["root"] == compiled["root"]


def test_a_step_that_is_done_is_told_once(tmp_path: Path) -> None:
    """Its record is written again when what people look at is there, too."""
    told: list[tuple[str, str, str]] = []

    def leave(seconds: float) -> None:
        record = {"step": "build", "status": "done", "seconds": seconds, "facts": {}}
        write_atomic(tmp_path / "build.json", json.dumps(record))

    leave(1.0)
    with _following(tmp_path, lambda *what: told.append(what)):
        deadline = time.monotonic() + 30
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leave(1.4)
    assert told == [("build", "done", "1.0 s")]
