"""A whole run for a GPU, step by step: the real steps, Triton, MLflow and store; stand-ins for NVIDIA's tools and backend.

The stand-ins are named as such (tests/engines/stand_ins, tests/serving/backends): this shows that the steps fit together and
that the repository is served, not that an engine is right.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import GateError, RecipeError
from enginepress.recipe import Recipe
from enginepress.steps import STEPS
from enginepress.steps.job import Job, Plan
from enginepress.steps.resolve import resolve
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.engines.stand_ins.image import make_image
from tests.serving.trt_repository import serving_stand_ins
from tests.templates.repository import build_engine

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"
REFERENCE = json.loads((ROOT / "examples" / "references" / "tiny-llama.json").read_text())


@pytest.fixture(scope="module")
def runs_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the example that the stand-in backend can run."""
    folder = tmp_path_factory.mktemp("engine")
    return build_engine(CHECKPOINT, folder / "engine")


def _recipe(folder: Path, **engine: Any) -> Recipe:
    prompts = [{k: v for k, v in a.items() if k in ("text", "messages", "max_tokens") and v} for a in REFERENCE["answers"]]
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": f"file://{CHECKPOINT}",
            "engine": {
                "builder": "tensorrt_llm",
                "precision": "float16",
                "gpu": {"name": "H100-SXM5-80GB"},
                "limits": {"max_batch_size": 4, "max_sequence_length": 512},
                **engine,
            },
            "checks": {"prompts": prompts, "reference": REFERENCE},
            "stores": [f"file://{folder}/store"],
            "registry": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
        }
    )


def _run(recipe: Recipe, folder: Path) -> tuple[Plan, dict[str, dict[str, Any]]]:
    job = Job(recipe, Workspace(folder / "workspace"), "run-1")
    plan = resolve(job)
    facts = {}
    for step in STEPS[1:]:
        facts[step] = getattr(importlib.import_module(f"enginepress.steps.{step}"), step)(job, plan)
    return plan, facts


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_here: Path) -> None:
    make_image(tmp_path / "image").enter(monkeypatch)
    monkeypatch.setenv("STAND_IN_ENGINE", str(runs_here))
    serving_stand_ins(patch=monkeypatch)


@pytest.mark.usefixtures("image")
def test_a_checkpoint_becomes_a_gated_release_that_says_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(tmp_path)
    plan, facts = _run(recipe, tmp_path)
    assert facts["promote"] == {"release": 1, "moved": ["candidate"]}
    assert plan.inputs["environment"] == {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "gpu": "H100-SXM5-80GB"}
    store = open_store(recipe.stores[0])
    manifest = store.manifest("tiny", 1)
    assert any("H100-SXM5-80GB (SM 90)" in who for who in manifest.served_by)
    assert manifest.made_with["gate"] == "served"
    paths = {entry.path for entry in manifest.files}
    assert {"tiny/config.pbtxt", "tiny-engine/1/engine/rank0.engine", "tiny-engine/1/engine/enginepress.json"} <= paths
    (name,) = [n for n in store.records("tiny", 1) if n.startswith("checks-")]
    gate = store.records("tiny", 1)[name]["gate"]
    assert all(check["passed"] for check in gate["checks"])
    assert len(set(gate["agreement"].values())) == 1, "every token is the reference's"

    # The same release on another GPU is refused before a server is started, and is not lost.
    monkeypatch.setenv("STAND_IN_GPUS", "NVIDIA L4,8.9,590.44.01")
    stricter = recipe.model_copy(update={"checks": recipe.checks.model_copy(update={"min_agreement": 0.5})})
    with pytest.raises(GateError, match="the GPU here is SM 89"):
        _run(stricter, tmp_path)
    assert store.numbers("tiny") == [1]
    assert store.channel("tiny", "candidate") == 1


@pytest.mark.usefixtures("image")
def test_what_does_not_fit_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, precision="fp8", gpu={"name": "A100-SXM4-80GB"})
    with pytest.raises(RecipeError, match="8-bit floating point needs Ada or Hopper") as caught:
        resolve(Job(recipe, Workspace(tmp_path / "workspace"), "run-1"))
    assert caught.value.fix
    assert not (tmp_path / "workspace" / "checkpoints").exists()


@pytest.mark.usefixtures("image")
def test_an_engine_that_the_plan_was_not_made_for_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPUS", "NVIDIA L4,8.9,590.44.01")
    recipe = _recipe(tmp_path)
    job = Job(recipe, Workspace(tmp_path / "workspace"), "run-1")
    plan = replace(resolve(job), run="run-1")
    with pytest.raises(Exception, match="gpu is L4, planned was H100-SXM5-80GB"):
        importlib.import_module("enginepress.steps.build").build(job, plan)
